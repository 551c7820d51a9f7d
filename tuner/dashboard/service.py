"""Operations of the service in the JSON API: check a study file, folders of data, the queue, the pool and the events of a study."""

import dataclasses
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from tuner.dashboard import data_folders, submission
from tuner.dashboard.auth.permissions import Role
from tuner.dashboard.data_folders import DataFolder, DataListing
from tuner.dashboard.operations import (
    Answer,
    JsonObject,
    Operation,
    RequestFailed,
    TextParameter,
    body,
    component,
    fields_of,
    list_of,
)
from tuner.dashboard.streams import MAX_STREAM_SECONDS, PartsCache, Streams
from tuner.dashboard.submission import SubmissionRules
from tuner.errors import Problem, RequestError
from tuner.spec import file as study_file
from tuner.spec.study import IMAGE_CLASSIFICATION
from tuner.storage.engine import Storage
from tuner.trust.image_zip import Unpacked
from tuner.views import figures

#: open streams of programs
_MOST_STREAMS = 100
_PATH = TextParameter(name="path", description="A folder below the roots of this server. Default: the roots.")
_PICTURE = TextParameter(name="path", description="An image below the roots of this server.", is_required=True)
_UPLOAD = TextParameter(name="name", description="Name of the new folder of images.", is_required=True)
_TASK = TextParameter(name="task", description="Task of the study files. Default: image_classification.")


def operations(rules: SubmissionRules | None, *, max_stream_seconds: float = MAX_STREAM_SECONDS) -> list[Operation]:
    """Return the operations of the service; `rules` are those of submitted studies, None: none can be submitted."""
    return [*_of_files(rules), *_of_data(rules), _events(max_stream_seconds)]


def require_rules(rules: SubmissionRules | None) -> SubmissionRules:
    """Return the rules of submitted studies.

    Raises:
        RequestFailed: this server takes none.
    """
    if rules is None:
        reason = "This server takes no studies. Start it with: tuner dashboard --submit --data-roots FOLDER"
        raise RequestFailed(HTTPStatus.CONFLICT, reason)
    return rules


def _of_files(rules: SubmissionRules | None) -> list[Operation]:
    def validate(storage: Storage, request: Request) -> JsonObject:
        return as_json(submission.check(request.state.body.file, require_rules(rules)))

    def schema(storage: Storage, request: Request) -> JsonObject:
        try:
            return study_file.json_schema(_TASK.read(request) or IMAGE_CLASSIFICATION)
        except RequestError as error:
            raise RequestFailed(HTTPStatus.BAD_REQUEST, f"{error}.") from error

    return [
        Operation(
            method="POST", path="/validate", summary="Check a study file: every mistake with its line and column, the plan and its cost.",
            body=_FILE, model=_CHECKED, answer=validate, role=Role.EDITOR,
        ),
        Operation(
            path="/schema", summary="The JSON Schema of study files.", model=None, media_type="application/schema+json", answer=schema,
            parameters=(_TASK,),
        ),
    ]  # fmt: skip


def as_json(checked: submission.CheckedStudy) -> JsonObject:
    """Return a checked study file as programs see it."""
    return {
        "name": None if checked.spec is None else checked.spec.name,
        "problems": [dataclasses.asdict(problem) for problem in checked.problems],
        "plan": [{"name": name, "text": text} for name, text in checked.plan],
        "cost": [{"name": name, "text": text} for name, text in checked.cost],
    }


def _of_data(rules: SubmissionRules | None) -> list[Operation]:
    def show(storage: Storage, request: Request) -> JsonObject:
        return dataclasses.asdict(data_folders.show(require_rules(rules).roots, _PATH.read(request)))

    def picture(storage: Storage, request: Request) -> Response:
        content = data_folders.picture(require_rules(rules).roots, _PICTURE.read(request) or "")
        return Response(content, media_type="image/jpeg")

    async def upload(storage: Storage, request: Request) -> JsonObject:
        found = await data_folders.upload(rules, request.state.identity.name, _UPLOAD.read(request) or "", request)
        return dataclasses.asdict(found) | {"folder": str(found.folder)}

    return [
        Operation(
            path="/data", summary="Folders of data with counts and sample images.", model=_LISTING, answer=show, parameters=(_PATH,),
            role=Role.EDITOR,
        ),
        Operation(
            path="/data/picture", summary="A small picture of an image.", model=None, media_type="image/jpeg", answer=picture,
            parameters=(_PICTURE,), role=Role.EDITOR,
        ),
        Operation(
            method="POST", path="/data", summary="Upload a zip file of images into a new folder of yours.", model=_UPLOADED, stream=upload,
            body_type="application/zip", parameters=(_UPLOAD,), role=Role.EDITOR,
        ),
    ]  # fmt: skip


def _events(max_seconds: float) -> Operation:
    streams, cache = Streams(most=_MOST_STREAMS), PartsCache()

    async def follow(storage: Storage, request: Request) -> Answer:
        study_id = request.path_params["study"]

        def read() -> JsonObject:
            studies = cache.get(("studies",), lambda: {"all": figures.of_all(storage)})["all"]
            return next((_state(study) for study in studies if study.id == study_id), {"deleted": True})

        return streams.respond(request, read, max_seconds=max_seconds)

    return Operation(
        path="/studies/{study:int}/events",
        summary="Server-sent events of a study: its state, then each change of it.",
        model=None,
        media_type="text/event-stream",
        stream=follow,
    )


def _state(study: figures.Figures) -> JsonObject:
    """Return what a stream tells of a study; the seconds since its last report would change all the time."""
    found = dataclasses.asdict(study)
    del found["silent_seconds"]
    return found


_FILE = body("StudyFile", "The text of a study file, in YAML or JSON.", file=(str, ...))
_FACT = component("Fact", "A fact in words.", name=str, text=str)
_PROBLEM = component("Problem", "A mistake in a study file.", **fields_of(Problem))
_CHECKED = component(
    "CheckedFile",
    "The mistakes of a study file; if there are none, its plan and its rough cost.",
    name=str | None,
    problems=list_of(_PROBLEM),
    plan=list_of(_FACT),
    cost=list_of(_FACT),
)
_FOLDER = component("DataFolder", "A folder of data.", **fields_of(DataFolder))
_LISTING = component("DataListing", "What a folder of data contains.", **fields_of(DataListing) | {"folders": list_of(_FOLDER)})
_UPLOADED = component("Uploaded", "What a zip file held.", **fields_of(Unpacked) | {"folder": str})
