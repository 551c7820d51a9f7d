"""Studies into JSON for programs, and the models of it into the OpenAPI file that describes it."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tuner.errors import StudyError
from tuner.results import best as bests
from tuner.results import export
from tuner.storage import audit
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.views import figures

ROOT = "/tuner/api/v1"
_MOST = 1000


class Study(BaseModel):
    """How a study stands."""

    #: of the database; one that was deleted may be given again
    id: int
    name: str
    #: by state: running, complete, pruned, fail, waiting
    trials: dict[str, int]
    best_value: float | None
    best_trial: int | None
    num_workers: int
    #: since a worker last wrote to the database; null: none ever did
    silent_seconds: float | None


class Studies(BaseModel):
    """All studies, the oldest first."""

    studies: list[Study]


class Trial(BaseModel):
    """A trial."""

    number: int
    state: str
    value: float | None
    #: seconds since the epoch
    started_at: float | None
    ended_at: float | None


class Trials(BaseModel):
    """A page of trials, in the order of their numbers."""

    trials: list[Trial]
    #: `cursor` of the next page; null: this is the last
    next_cursor: int | None


class Worker(BaseModel):
    """A worker that has a trial at hand."""

    worker: str
    study: str
    trial: int
    attempt: int
    seconds: float
    silent_seconds: float


class Workers(BaseModel):
    """Workers that have a trial at hand and were seen in the last minute."""

    workers: list[Worker]


class Best(BaseModel):
    """What `tuner best --json` prints."""

    model_config = {"extra": "allow"}


class Deed(BaseModel):
    """A changing request, or a sign-in."""

    id: int
    #: seconds since the epoch by the database's clock
    at: float
    who: str
    role: str
    method: str
    path: str
    status: int
    study: str
    address: str


class Deeds(BaseModel):
    """Who did what, the newest first; for admins."""

    deeds: list[Deed]
    next_cursor: int | None


class Refusal(BaseModel):
    """Why there is no answer."""

    reason: str


class _Wrong(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class _Call:
    path: str
    summary: str
    answer: type[BaseModel]
    work: Callable[[Storage, Request], Any]
    is_paged: bool = False


def routes(storage: Storage) -> list[BaseRoute]:
    """Everything beneath `/tuner/api/v1`."""
    described = json.dumps(openapi()).encode()

    async def describe(request: Request) -> Response:
        return Response(described, media_type="application/json")

    async def miss(request: Request) -> Response:
        return JSONResponse({"reason": f"There is nothing here; what there is stands in {ROOT}/openapi.json."}, 404)

    calls = [Route(ROOT + call.path, _endpoint(storage, call)) for call in _CALLS]
    return [Route(f"{ROOT}/openapi.json", describe), *calls, Route("/tuner/api/{rest:path}", miss)]


def openapi() -> dict[str, Any]:
    """The OpenAPI 3.1 description."""
    models = {call.answer for call in _CALLS} | {Refusal}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, schemas = models_json_schema([(model, "serialization") for model in ordered], ref_template="#/components/schemas/{model}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tuner",
            "version": "1",
            "description": "Studies, trials and workers. Send a token: Authorization: Bearer TOKEN.",
        },
        "paths": {ROOT + call.path.replace(":int", ""): {"get": _operation(call)} for call in _CALLS},
        "components": {"schemas": schemas["$defs"], "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}],
    }


def _operation(call: _Call) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = []
    if "{" in call.path:
        parameters.append({"name": "study", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}})
    if call.work is _all:
        parameters.append({"name": "name", "in": "query", "description": "Only the study of this name.", "schema": {"type": "string"}})
    if call.is_paged:
        parameters += [
            {"name": "cursor", "in": "query", "schema": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}},
            {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": _MOST, "default": 100}},
        ]
    refused = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}}
    reasons = {
        "400": "The request is wrong.",
        "401": "No token.",
        "403": "The role does not suffice.",
        "404": "There is none.",
        "503": "Away.",
    }
    answer = {
        "description": "Found.",
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{call.answer.__name__}"}}},
    }
    responses = {"200": answer, **{status: {"description": reason, **refused} for status, reason in reasons.items()}}
    return {"summary": call.summary, "parameters": parameters, "responses": responses}


def _endpoint(storage: Storage, call: _Call) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        try:
            return JSONResponse(await run_in_threadpool(call.work, storage, request))
        except _Wrong as wrong:
            return JSONResponse({"reason": str(wrong)}, wrong.status)
        except StudyError as error:
            return JSONResponse({"reason": str(error)}, 404)

    return answer


def _all(storage: Storage, request: Request) -> dict[str, Any]:
    wanted = request.query_params.get("name")
    return {"studies": _dicts([study for study in figures.of_all(storage) if wanted in (None, study.name)])}


def _one(storage: Storage, request: Request) -> dict[str, Any]:
    return dataclasses.asdict(_find(storage, request))


def _find(storage: Storage, request: Request) -> figures.Figures:
    found = next((study for study in figures.of_all(storage) if study.id == request.path_params["study"]), None)
    if found is None:
        raise _Wrong(404, "There is no such study.")
    return found


def _best(storage: Storage, request: Request) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(export.as_json(bests.best(studies.load(_find(storage, request).name, storage))))
    return told


def _trials(storage: Storage, request: Request) -> dict[str, Any]:
    limit = _number(request, "limit", least=1, most=_MOST, default=100)
    after = _number(request, "cursor", least=0, most=2**31 - 1, default=0) - 1
    found = figures.lines(storage, _find(storage, request).id, after=after, limit=limit)
    return {"trials": _dicts(found), "next_cursor": found[-1].number + 1 if len(found) == limit else None}


def _workers(storage: Storage, request: Request) -> dict[str, Any]:
    return {"workers": _dicts(figures.hands(storage))}


def _audit(storage: Storage, request: Request) -> dict[str, Any]:
    limit = _number(request, "limit", least=1, most=_MOST, default=100)
    before = _number(request, "cursor", least=0, most=2**31 - 1, default=2**31 - 1)
    found = audit.read(storage, limit=limit, before=before)
    told = [{"id": record.id, "at": record.at, **dataclasses.asdict(record.event)} for record in found]
    return {"deeds": told, "next_cursor": found[-1].id if len(found) == limit else None}


def _dicts(found: Sequence[Any]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(each) for each in found]


def _number(request: Request, name: str, *, least: int, most: int, default: int) -> int:
    given = request.query_params.getlist(name)
    if not given:
        return default
    text = given[-1]
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and least <= int(text) <= most):
        raise _Wrong(400, f"{name} is {text[:40]!r}; expected a whole number from {least} to {most}.")
    return int(text)


_CALLS = (
    _Call(path="/studies", summary="All studies.", answer=Studies, work=_all),
    _Call(path="/studies/{study:int}/best", summary="The best trial, with its whole config.", answer=Best, work=_best),
    _Call(path="/studies/{study:int}/trials", summary="Trials, page by page.", answer=Trials, work=_trials, is_paged=True),
    _Call(path="/studies/{study:int}", summary="One study.", answer=Study, work=_one),
    _Call(path="/workers", summary="Workers that have a trial at hand.", answer=Workers, work=_workers),
    _Call(path="/audit", summary="Who did what; for admins.", answer=Deeds, work=_audit, is_paged=True),
)
