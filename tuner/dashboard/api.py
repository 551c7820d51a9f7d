"""JSON API: studies, trials, workers and the audit log at `/tuner/api/v1`, with an OpenAPI document."""

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model
from pydantic.json_schema import models_json_schema
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tuner.dashboard.auth import sessions
from tuner.errors import StudyError
from tuner.results import best as bests
from tuner.results import export
from tuner.storage import audit
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.views import figures

ROOT = "/tuner/api/v1"
_MAX_INT32 = 2**31 - 1

JsonObject = dict[str, Any]


class _RequestFailed(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class _TextParameter:
    """A query parameter that takes any text."""

    name: str
    description: str

    def read(self, request: Request) -> str | None:
        """Return the value, or None if the request has none."""
        return request.query_params.get(self.name)

    def describe(self) -> JsonObject:
        """Return the parameter as OpenAPI describes it."""
        return {"name": self.name, "in": "query", "description": self.description, "schema": {"type": "string"}}


@dataclass(frozen=True, kw_only=True)
class _NumberParameter:
    """A query parameter that takes a whole number within limits."""

    name: str
    minimum: int
    maximum: int
    #: documented default; None: each operation has its own
    default: int | None = None

    def read(self, request: Request) -> int | None:
        """Return the last value given, the default if there is none.

        Raises:
            _RequestFailed: the value is not a whole number, or exceeds the limits.
        """
        given = request.query_params.getlist(self.name)
        if not given:
            return self.default
        text = given[-1]
        if not (text.isascii() and text.isdecimal() and len(text) < 12 and self.minimum <= int(text) <= self.maximum):
            raise _RequestFailed(400, f"{self.name} is {text[:40]!r}; expected a whole number from {self.minimum} to {self.maximum}.")
        return int(text)

    def describe(self) -> JsonObject:
        """Return the parameter as OpenAPI describes it."""
        schema: JsonObject = {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}
        if self.default is not None:
            schema["default"] = self.default
        return {"name": self.name, "in": "query", "schema": schema}


_NAME = _TextParameter(name="name", description="Only the study of this name.")
_CURSOR = _NumberParameter(name="cursor", minimum=0, maximum=_MAX_INT32)
_LIMIT = _NumberParameter(name="limit", minimum=1, maximum=1000, default=100)


@dataclass(frozen=True, kw_only=True)
class _Operation:
    path: str
    summary: str
    #: description of the answer
    model: type[BaseModel]
    answer: Callable[[Storage, Request], JsonObject]
    parameters: Sequence[_TextParameter | _NumberParameter] = ()


def routes(storage: Storage) -> list[BaseRoute]:
    """Return the routes below `/tuner/api/`."""
    described = openapi()

    async def describe(request: Request) -> Response:
        root = sessions.path_prefix(request)
        return JSONResponse(described | {"servers": [{"url": root}]} if root else described)

    async def miss(request: Request) -> Response:
        return JSONResponse({"reason": f"This path does not exist. All paths are in {ROOT}/openapi.json."}, 404)

    operations = [Route(ROOT + operation.path, _endpoint(storage, operation)) for operation in _OPERATIONS]
    return [Route(f"{ROOT}/openapi.json", describe), *operations, Route("/tuner/api/{rest:path}", miss)]


def openapi() -> JsonObject:
    """Return the OpenAPI 3.1 document."""
    models = {operation.model for operation in _OPERATIONS} | {_REFUSAL}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, schemas = models_json_schema([(model, "serialization") for model in ordered], ref_template="#/components/schemas/{model}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tuner",
            "version": "1",
            "description": "Studies, trials and workers of tuner. Send a token in the header: Authorization: Bearer TOKEN",
        },
        "paths": {ROOT + operation.path.replace(":int", ""): {"get": _describe(operation)} for operation in _OPERATIONS},
        "components": {"schemas": schemas["$defs"], "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}],
    }


def _describe(operation: _Operation) -> JsonObject:
    parameters = [parameter.describe() for parameter in operation.parameters]
    if "{study" in operation.path:
        parameters.insert(0, {"name": "study", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}})
    reasons = {
        "400": "A parameter is invalid.",
        "401": "The token is missing or invalid.",
        "403": "The role does not allow this.",
        "404": "Not found.",
        "503": "The database does not answer.",
    }
    responses = {"200": {"description": "Success.", **_content(operation.model)}}
    responses |= {status: {"description": reason, **_content(_REFUSAL)} for status, reason in reasons.items()}
    return {"summary": operation.summary, "parameters": parameters, "responses": responses}


def _content(model: type[BaseModel]) -> JsonObject:
    return {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}}


def _endpoint(storage: Storage, operation: _Operation) -> Callable[[Request], Any]:
    async def respond(request: Request) -> Response:
        try:
            return JSONResponse(await run_in_threadpool(operation.answer, storage, request))
        except _RequestFailed as failed:
            return JSONResponse({"reason": str(failed)}, failed.status)
        except StudyError as error:
            return JSONResponse({"reason": str(error)}, 404)

    return respond


def _list_studies(storage: Storage, request: Request) -> JsonObject:
    name = _NAME.read(request)
    return {"studies": _dicts([study for study in figures.of_all(storage) if name in (None, study.name)])}


def _show_study(storage: Storage, request: Request) -> JsonObject:
    return dataclasses.asdict(_find(storage, request))


def _find(storage: Storage, request: Request) -> figures.Figures:
    found = next((study for study in figures.of_all(storage) if study.id == request.path_params["study"]), None)
    if found is None:
        raise _RequestFailed(404, "There is no such study.")
    return found


def _show_best(storage: Storage, request: Request) -> JsonObject:
    answer: JsonObject = json.loads(export.as_json(bests.best(studies.load(_find(storage, request).name, storage))))
    return answer


def _list_trials(storage: Storage, request: Request) -> JsonObject:
    limit, cursor = _LIMIT.read(request) or 0, _CURSOR.read(request) or 0
    found = figures.lines(storage, _find(storage, request).id, after=cursor - 1, limit=limit)
    return {"trials": _dicts(found), "next_cursor": found[-1].number + 1 if len(found) == limit else None}


def _list_workers(storage: Storage, request: Request) -> JsonObject:
    return {"workers": _dicts(figures.active_workers(storage))}


def _list_audit(storage: Storage, request: Request) -> JsonObject:
    limit, cursor = _LIMIT.read(request) or 0, _CURSOR.read(request)
    found = audit.read(storage, limit=limit, before=_MAX_INT32 if cursor is None else cursor)
    events = [{"id": record.id, "at": record.at, **dataclasses.asdict(record.event)} for record in found]
    return {"deeds": events, "next_cursor": found[-1].id if len(found) == limit else None}


def _dicts(found: Sequence[Any]) -> list[JsonObject]:
    return [dataclasses.asdict(each) for each in found]


def _model(name: str, description: str, /, **types_by_name: Any) -> type[BaseModel]:
    """Return a component of the OpenAPI document."""
    fields: Any = {field: (annotation, ...) for field, annotation in types_by_name.items()}
    return create_model(name, __doc__=description, **fields)


def _fields(described: type) -> Mapping[str, Any]:
    """Return the fields of a dataclass and their types, in order."""
    hints = typing.get_type_hints(described)
    return {field.name: hints[field.name] for field in dataclasses.fields(described)}


def _list_of(model: type[BaseModel]) -> Any:
    return types.GenericAlias(list, (model,))


_STUDY = _model("Study", "State of a study.", **_fields(figures.Figures))
_STUDIES = _model("Studies", "All studies, oldest first.", studies=_list_of(_STUDY))
_TRIAL = _model("Trial", "A trial.", **_fields(figures.Line))
_TRIALS = _model("Trials", "One page of trials, by number.", trials=_list_of(_TRIAL), next_cursor=int | None)
_WORKER = _model("Worker", "A worker with a running trial.", **_fields(figures.ActiveWorker))
_WORKERS = _model("Workers", "Workers with a running trial that were seen in the last minute.", workers=_list_of(_WORKER))
_BEST = create_model("Best", __doc__="The best trial, as `tuner best --json` prints it.", __config__=ConfigDict(extra="allow"))
_EVENT = _model("Deed", "A changing request or a sign-in.", id=int, at=float, **_fields(audit.AuditEvent))
_EVENTS = _model("Deeds", "The audit log, newest first; for admins.", deeds=_list_of(_EVENT), next_cursor=int | None)
_REFUSAL = _model("Refusal", "Reason of a failed request.", reason=str)

_OPERATIONS = (
    _Operation(path="/studies", summary="All studies.", model=_STUDIES, answer=_list_studies, parameters=(_NAME,)),
    _Operation(path="/studies/{study:int}/best", summary="The best trial with its config.", model=_BEST, answer=_show_best),
    _Operation(
        path="/studies/{study:int}/trials",
        summary="Trials of a study, page by page.",
        model=_TRIALS,
        answer=_list_trials,
        parameters=(_CURSOR, _LIMIT),
    ),
    _Operation(path="/studies/{study:int}", summary="One study.", model=_STUDY, answer=_show_study),
    _Operation(path="/workers", summary="Workers with a running trial.", model=_WORKERS, answer=_list_workers),
    _Operation(path="/audit", summary="The audit log; for admins.", model=_EVENTS, answer=_list_audit, parameters=(_CURSOR, _LIMIT)),
)
