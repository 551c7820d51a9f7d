"""Operations of the service in the JSON API: check a study file, folders of data, the queue, the pool and the events of a study."""

import dataclasses
import hashlib
import io
import re
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tuner import wording
from tuner.dashboard import data_folders, standing, submission
from tuner.dashboard.auth.permissions import Role
from tuner.dashboard.data_folders import DataFolder, DataListing
from tuner.dashboard.operations import (
    CURSOR,
    LIMIT,
    Answer,
    JsonObject,
    Operation,
    RequestFailed,
    TextParameter,
    body,
    component,
    dicts,
    fields_of,
    list_of,
)
from tuner.dashboard.streams import MAX_STREAM_SECONDS, PartsCache, Streams
from tuner.dashboard.submission import SubmissionRules
from tuner.errors import Problem, RequestError
from tuner.queue import entries, limits, pool
from tuner.queue.entries import Submission
from tuner.results import best as bests
from tuner.results import export
from tuner.spec import file as study_file
from tuner.spec.study import IMAGE_CLASSIFICATION, AnyStudySpec
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.trust.image_zip import Unpacked
from tuner.trust.roots import Roots
from tuner.views import figures

#: folder among the artifacts of a study whose files can be downloaded: `tuner export STUDY --to ARTIFACTS/STUDY/export` writes it
EXPORTED = "export"
_PLAIN = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
_CHUNK_BYTES = 1 << 20
#: open streams of programs
_MOST_STREAMS = 100
_PATH = TextParameter(name="path", description="A folder below the roots of this server. Default: the roots.")
_PICTURE = TextParameter(name="path", description="An image below the roots of this server.", is_required=True)
_UPLOAD = TextParameter(name="name", description="Name of the new folder of images.", is_required=True)
_TASK = TextParameter(name="task", description="Task of the study files. Default: image_classification.")


def operations(
    rules: SubmissionRules | None, *, artifacts: Path | None = None, max_stream_seconds: float = MAX_STREAM_SECONDS
) -> list[Operation]:
    """Return the operations of the service; `rules` are those of submitted studies, None: none can be submitted."""
    return [*_of_files(rules), *_of_data(rules), *_of_queue(rules), *_OF_POOL, *_of_results(artifacts), _events(max_stream_seconds)]


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


def submit(storage: Storage, rules: SubmissionRules, owner: str, asked: Any, *, key: str | None = None) -> standing.StudyInQueue:
    """Check a study file and put it into the queue; `asked` has the fields of `Submit`. The same key submits once.

    Raises:
        RequestError: the file has mistakes, or the queue refuses the study.
    """
    spec = submission.check(asked.file, rules).require()
    # keys of one owner never meet those of another
    own_key = None if key is None else hashlib.sha256(f"{owner}\n{key}".encode()).hexdigest()
    submitted = Submission(
        owner=owner, priority=asked.priority, num_wanted=asked.workers, needs=tuple(asked.needs), after=tuple(asked.after),
        takes_winner=asked.takes_winner, preempts=asked.preempt, key=own_key, data_path=_below_root(spec, rules),
    )  # fmt: skip
    return standing.one(storage, entries.submit(storage, spec, submitted).name)


def _below_root(spec: AnyStudySpec, rules: SubmissionRules) -> str:
    """Return the path of a study's data below the root that holds it, which other machines may have elsewhere; "" if it has none."""
    path = getattr(getattr(spec, "data", None), "path", None)
    roots = [root for root in rules.roots.folders if isinstance(path, Path) and path.is_relative_to(root) and path != root]
    return str(path.relative_to(roots[0])) if isinstance(path, Path) and roots else ""


def _of_queue(rules: SubmissionRules | None) -> list[Operation]:
    def submit_file(storage: Storage, request: Request) -> JsonObject:
        key = _KEY.read(request)
        return dataclasses.asdict(submit(storage, require_rules(rules), request.state.identity.name, request.state.body, key=key))

    return [
        Operation(
            path="/queue", summary="The queue in the order in which it is served, page by page; ended studies last.", model=_QUEUE,
            answer=_list_queue, parameters=(CURSOR, LIMIT),
        ),
        Operation(
            method="POST", path="/queue", summary="Submit a study file. A repeated Idempotency-Key submits nothing and returns the first.",
            body=_SUBMIT, model=_QUEUED, answer=submit_file, parameters=(_KEY,), role=Role.EDITOR,
        ),
        Operation(path="/queue/{name}", summary="One study of the queue.", model=_QUEUED, answer=_show_queued),
        Operation(
            method="PATCH", path="/queue/{name}", summary="Change the priority of a study, or its place among those of its owner.",
            body=_MOVE, model=_QUEUED, answer=_move, role=Role.EDITOR,
        ),
        Operation(
            method="POST", path="/queue/{name}/cancel", summary="End a study; running trials are suspended.", model=_QUEUED,
            answer=_changing(lambda storage, name, by: entries.cancel(storage, name, by=by)), role=Role.EDITOR,
        ),
        Operation(
            method="POST", path="/queue/{name}/pause", summary="Stop a study after its running trials, until it is resumed.", model=_QUEUED,
            answer=_changing(lambda storage, name, by: entries.pause(storage, name, by=by)), role=Role.EDITOR,
        ),
        Operation(
            method="POST", path="/queue/{name}/resume", summary="Queue a paused, cancelled or failed study again.", model=_QUEUED,
            answer=_changing(lambda storage, name, by: entries.resume(storage, name)), role=Role.EDITOR,
        ),
    ]  # fmt: skip


def _list_queue(storage: Storage, request: Request) -> JsonObject:
    limit, cursor = LIMIT.read(request) or 0, CURSOR.read(request) or 0
    found = standing.queue(storage, offset=cursor, limit=limit)
    return {"studies": dicts(found), "next_cursor": cursor + limit if len(found) == limit else None}


def _show_queued(storage: Storage, request: Request) -> JsonObject:
    return dataclasses.asdict(standing.one(storage, request.path_params["name"]))


def _move(storage: Storage, request: Request) -> JsonObject:
    asked: Any = request.state.body
    if asked.priority is None and asked.place is None:
        raise RequestFailed(HTTPStatus.UNPROCESSABLE_ENTITY, "Expected a priority, a place, or both.")
    entries.move(storage, request.path_params["name"], priority=asked.priority, place=asked.place)
    return _show_queued(storage, request)


def _changing(change: Callable[[Storage, str, str], object]) -> Callable[[Storage, Request], JsonObject]:
    """Return the answer of an operation that changes a study of the queue: the study afterwards."""

    def answer(storage: Storage, request: Request) -> JsonObject:
        change(storage, request.path_params["name"], request.state.identity.name)
        return _show_queued(storage, request)

    return answer


def _show_pool(storage: Storage, request: Request) -> JsonObject:
    return dataclasses.asdict(standing.whole_pool(storage))


def _drain(storage: Storage, request: Request) -> JsonObject:
    asked: Any = request.state.body
    return {"workers": pool.drain(storage, asked.host, now=asked.now, by=request.state.identity.name)}


def _stop_pool(storage: Storage, request: Request) -> JsonObject:
    limits.stop(storage, by=request.state.identity.name)
    return _show_pool(storage, request)


def _start_pool(storage: Storage, request: Request) -> JsonObject:
    limits.start(storage)
    return _show_pool(storage, request)


def _show_limits(storage: Storage, request: Request) -> JsonObject:
    settings = storage.read(limits.read)
    owners = [{"owner": owner, **each.model_dump()} for owner, each in sorted(settings.owners.items())]
    return {"owners": owners, "others": {"owner": None, **settings.others.model_dump()}, "over": settings.over.value}


def _set_limits(storage: Storage, request: Request) -> JsonObject:
    asked: Any = request.state.body
    limits.set_limits(storage, asked.owner, **asked.model_dump(exclude={"owner"}, exclude_unset=True))
    return _show_limits(storage, request)


def _of_results(artifacts: Path | None) -> list[Operation]:
    def show(storage: Storage, request: Request) -> JsonObject:
        sizes = {name: _size(file) for name, file in _files(storage, request, artifacts).items()}
        return {"files": [{"name": name, "num_bytes": size} for name, size in sizes.items()]}

    def download(storage: Storage, request: Request) -> Response:
        found, name = _files(storage, request, artifacts), request.path_params["name"]
        if name not in found:
            raise RequestFailed(
                HTTPStatus.NOT_FOUND, f"The study has no file {wording.show(name)}. Known: {wording.listed(found) or 'none'}."
            )
        file = found[name]
        content = io.BytesIO(file) if isinstance(file, bytes) else Roots(folders=(file.parent,)).open(file)
        return StreamingResponse(_chunks(content), media_type="application/octet-stream")

    return [
        Operation(path="/studies/{study:int}/files", summary="Files of a study that can be downloaded.", model=_FILES, answer=show),
        Operation(
            path="/studies/{study:int}/files/{name}", summary="One file of a study.", model=None, media_type="application/octet-stream",
            answer=download,
        ),
    ]  # fmt: skip


def _files(storage: Storage, request: Request, artifacts: Path | None) -> dict[str, bytes | Path]:
    """Return the files of a study by name: its best trial as a study file, the weights of it, and what was exported for downloads."""
    study = next((study for study in figures.of_all(storage) if study.id == request.path_params["study"]), None)
    if study is None:
        raise RequestFailed(HTTPStatus.NOT_FOUND, "There is no such study.")
    found: dict[str, bytes | Path] = {}
    if study.best_trial is not None:
        best = bests.best(studies.load(study.name, storage))
        found |= {"best.yaml": export.as_yaml(best).encode(), "best.json": export.as_json(best).encode()}
        if artifacts is not None and best.weights is not None and Path(best.weights).resolve().is_relative_to(artifacts.resolve()):
            found |= {Path(best.weights).name: Path(best.weights).resolve()} if Path(best.weights).is_file() else {}
    # a study of tuner has a name that is a plain name of a folder
    folder = None if artifacts is None or not _PLAIN.fullmatch(study.name) else artifacts.resolve() / study.name / EXPORTED
    if folder is not None and folder.is_dir() and not folder.is_symlink():
        found |= {entry.name: entry for entry in sorted(folder.iterdir()) if entry.is_file() and not entry.is_symlink()}
    return found


def _size(file: bytes | Path) -> int:
    return len(file) if isinstance(file, bytes) else file.stat().st_size


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


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
_FILES = component("Files", "Files of a study.", files=list_of(component("FileOfStudy", "A file.", name=str, num_bytes=int)))
_UPLOADED = component("Uploaded", "What a zip file held.", **fields_of(Unpacked) | {"folder": str})
_KEY = TextParameter(name="Idempotency-Key", description="A text of your choice: a repeated request with it does nothing.", place="header")
_SUBMIT = body(
    "Submit", "A study file to queue, and how it is served.", file=(str, ...), priority=(int, 0), workers=(int, 1), needs=(list[str], []),
    after=(list[str], []), takes_winner=(bool, False), preempt=(bool, False),
)  # fmt: skip
_MOVE = body("Move", "The new priority of a study, or its new place.", priority=(int | None, None), place=(int | None, None))
_DRAIN = body("Drain", "A host or a worker whose work ends, after its trials or now.", host=(str, ...), now=(bool, False))
_SET_LIMITS = body(
    "SetLimits", "Limits of an owner, or of all others without an owner; null removes a limit, a missing one stays.",
    owner=(str | None, None), workers=(int | None, None), trials_a_day=(int | None, None), worker_hours_a_day=(float | None, None),
    artifact_bytes=(int | None, None),
)  # fmt: skip
_QUEUED = component("QueuedStudy", "A study in the queue.", **fields_of(standing.StudyInQueue))
_QUEUE = component("Queue", "One page of the queue.", studies=list_of(_QUEUED), next_cursor=int | None)
_MEMBER = component("PoolWorker", "A worker of the pool.", **fields_of(standing.WorkerOfPool))
_DAY = component("OwnerDay", "What an owner used in the last day.", **fields_of(standing.OwnerDay))
_POOL = component(
    "Pool", "The pool.", **fields_of(standing.PoolStanding) | {"workers": list_of(_MEMBER), "owners": list_of(_DAY)}
)  # fmt: skip
_DRAINED = component("Drained", "The workers that leave.", workers=list[str])
_OWNER_LIMITS = component(
    "OwnerLimits", "Limits of an owner; null: none.", owner=str | None, workers=int | None, trials_a_day=int | None,
    worker_hours_a_day=float | None, artifact_bytes=int | None,
)  # fmt: skip
_LIMITS = component("Limits", "Limits of the pool.", owners=list_of(_OWNER_LIMITS), others=_OWNER_LIMITS, over=str)

_OF_POOL = (
    Operation(path="/pool", summary="The workers of the pool, and how the last day was used.", model=_POOL, answer=_show_pool),
    Operation(
        method="POST", path="/pool/drain", summary="Let the workers of a host leave; for admins.", body=_DRAIN, model=_DRAINED,
        answer=_drain, role=Role.ADMIN,
    ),
    Operation(
        method="POST", path="/pool/stop", summary="Stop the whole pool: running trials are suspended; for admins.", model=_POOL,
        answer=_stop_pool, role=Role.ADMIN,
    ),
    Operation(method="POST", path="/pool/start", summary="Start the pool again.", model=_POOL, answer=_start_pool, role=Role.ADMIN),
    Operation(path="/limits", summary="The limits of the owners.", model=_LIMITS, answer=_show_limits),
    Operation(
        method="PUT", path="/limits", summary="Change limits of an owner; for admins.", body=_SET_LIMITS, model=_LIMITS,
        answer=_set_limits, role=Role.ADMIN,
    ),
)  # fmt: skip
