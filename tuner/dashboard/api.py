"""JSON API: studies, trials, workers, the audit log and the service at `/tuner/api/v1`, with an OpenAPI document."""

import dataclasses
import json
from pathlib import Path

from pydantic import ConfigDict, create_model
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tuner.dashboard import operations, service
from tuner.dashboard.auth import sessions
from tuner.dashboard.operations import (
    CURSOR,
    LIMIT,
    MAX_INT32,
    JsonObject,
    Operation,
    RequestFailed,
    TextParameter,
    component,
    dicts,
    fields_of,
    list_of,
    problem,
)
from tuner.dashboard.streams import MAX_STREAM_SECONDS
from tuner.dashboard.submission import SubmissionRules
from tuner.results import best as bests
from tuner.results import export
from tuner.storage import audit
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.views import figures

ROOT = operations.ROOT
_NAME = TextParameter(name="name", description="Only the study of this name.")


def routes(
    storage: Storage,
    rules: SubmissionRules | None = None,
    *,
    artifacts: Path | None = None,
    max_stream_seconds: float = MAX_STREAM_SECONDS,
) -> list[BaseRoute]:
    """Return the routes below `/tuner/api/`; `rules` are those of submitted studies, None: none can be submitted."""
    offered = [*_OPERATIONS, *service.operations(rules, artifacts=artifacts, max_stream_seconds=max_stream_seconds)]
    described = _document(offered)

    async def describe(request: Request) -> Response:
        root = sessions.path_prefix(request)
        return JSONResponse(described | {"servers": [{"url": root}]} if root else described)

    async def miss(request: Request) -> Response:
        return problem(404, f"This path does not exist. All paths are in {ROOT}/openapi.json.")

    found = [operation.route(storage) for operation in offered]
    return [Route(f"{ROOT}/openapi.json", describe), *found, Route("/tuner/api/{rest:path}", miss)]


def openapi() -> JsonObject:
    """Return the OpenAPI 3.1 document."""
    return _document([*_OPERATIONS, *service.operations(None)])


def _document(offered: list[Operation]) -> JsonObject:
    description = (
        "Studies, trials, workers and the queue of tuner. Send a token in the header: Authorization: Bearer TOKEN. "
        "An operation with x-role needs a token of that role: scope submit is the role editor, scope admin the role admin."
    )
    return operations.openapi(offered, version="1", description=description)


def _list_studies(storage: Storage, request: Request) -> JsonObject:
    name = _NAME.read(request)
    return {"studies": dicts([study for study in figures.of_all(storage) if name in (None, study.name)])}


def _show_study(storage: Storage, request: Request) -> JsonObject:
    return dataclasses.asdict(_find(storage, request))


def _find(storage: Storage, request: Request) -> figures.Figures:
    found = next((study for study in figures.of_all(storage) if study.id == request.path_params["study"]), None)
    if found is None:
        raise RequestFailed(404, "There is no such study.")
    return found


def _show_best(storage: Storage, request: Request) -> JsonObject:
    answer: JsonObject = json.loads(export.as_json(bests.best(studies.load(_find(storage, request).name, storage))))
    return answer


def _list_trials(storage: Storage, request: Request) -> JsonObject:
    limit, cursor = LIMIT.read(request) or 0, CURSOR.read(request) or 0
    found = figures.lines(storage, _find(storage, request).id, after=cursor - 1, limit=limit)
    return {"trials": dicts(found), "next_cursor": found[-1].number + 1 if len(found) == limit else None}


def _list_workers(storage: Storage, request: Request) -> JsonObject:
    return {"workers": dicts(figures.active_workers(storage))}


def _list_audit(storage: Storage, request: Request) -> JsonObject:
    limit, cursor = LIMIT.read(request) or 0, CURSOR.read(request)
    found = audit.read(storage, limit=limit, before=MAX_INT32 if cursor is None else cursor)
    events = [{"id": record.id, "at": record.at, **dataclasses.asdict(record.event)} for record in found]
    return {"deeds": events, "next_cursor": found[-1].id if len(found) == limit else None}


_STUDY = component("Study", "State of a study.", **fields_of(figures.Figures))
_STUDIES = component("Studies", "All studies, oldest first.", studies=list_of(_STUDY))
_TRIAL = component("Trial", "A trial.", **fields_of(figures.Line))
_TRIALS = component("Trials", "One page of trials, by number.", trials=list_of(_TRIAL), next_cursor=int | None)
_WORKER = component("Worker", "A worker with a running trial.", **fields_of(figures.ActiveWorker))
_WORKERS = component("Workers", "Workers with a running trial that were seen in the last minute.", workers=list_of(_WORKER))
_BEST = create_model("Best", __doc__="The best trial, as `tuner best --json` prints it.", __config__=ConfigDict(extra="allow"))
_EVENT = component("Deed", "A changing request or a sign-in.", id=int, at=float, **fields_of(audit.AuditEvent))
_EVENTS = component("Deeds", "The audit log, newest first; for admins.", deeds=list_of(_EVENT), next_cursor=int | None)

_OPERATIONS = (
    Operation(path="/studies", summary="All studies.", model=_STUDIES, answer=_list_studies, parameters=(_NAME,)),
    Operation(path="/studies/{study:int}/best", summary="The best trial with its config.", model=_BEST, answer=_show_best),
    Operation(
        path="/studies/{study:int}/trials",
        summary="Trials of a study, page by page.",
        model=_TRIALS,
        answer=_list_trials,
        parameters=(CURSOR, LIMIT),
    ),
    Operation(path="/studies/{study:int}", summary="One study.", model=_STUDY, answer=_show_study),
    Operation(path="/workers", summary="Workers with a running trial.", model=_WORKERS, answer=_list_workers),
    Operation(path="/audit", summary="The audit log; for admins.", model=_EVENTS, answer=_list_audit, parameters=(CURSOR, LIMIT)),
)
