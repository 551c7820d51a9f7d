"""Operations of the JSON API: their parameters, bodies and answers, served as routes and described by OpenAPI."""

import dataclasses
import json
import types
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.json_schema import models_json_schema
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tuner import errors
from tuner.dashboard.auth.permissions import Role
from tuner.storage.engine import Storage

ROOT = "/tuner/api/v1"
MAX_INT32 = 2**31 - 1
#: largest JSON body; uploads have their own limit
_MAX_BODY_BYTES = 300_000
#: media type of the answer to a failed request, RFC 9457
_PROBLEM = "application/problem+json"

JsonObject = dict[str, Any]
B = TypeVar("B", bound=BaseModel)


def problem(status: int, reason: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    """Return the answer to a failed request of a program, as RFC 9457 has it; `reason` repeats `detail` for earlier programs."""
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": int(status), "detail": reason, "reason": reason}
    return JSONResponse(content | more, status, headers, media_type=_PROBLEM)


class RequestFailed(Exception):
    """A request that is answered with a problem; the message says why."""

    def __init__(self, status: int, reason: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(reason)
        self.status, self.headers, self.more = status, headers, more


@dataclass(frozen=True, kw_only=True)
class TextParameter:
    """A parameter that takes any text."""

    name: str
    description: str
    #: `query`, or `header`
    place: str = "query"
    is_required: bool = False

    def read(self, request: Request) -> str | None:
        """Return the value, or None if the request has none.

        Raises:
            RequestFailed: it is missing, although the operation needs it.
        """
        given = request.headers.get(self.name) if self.place == "header" else request.query_params.get(self.name)
        if given is None and self.is_required:
            raise RequestFailed(400, f"The parameter {self.name} is missing.")
        return given

    def describe(self) -> JsonObject:
        """Return the parameter as OpenAPI describes it."""
        described = {"name": self.name, "in": self.place, "description": self.description, "schema": {"type": "string"}}
        return described | ({"required": True} if self.is_required else {})


@dataclass(frozen=True, kw_only=True)
class NumberParameter:
    """A query parameter that takes a whole number within limits."""

    name: str
    minimum: int
    maximum: int
    #: documented default; None: each operation has its own
    default: int | None = None

    def read(self, request: Request) -> int | None:
        """Return the last value given, the default if there is none.

        Raises:
            RequestFailed: the value is not a whole number, or exceeds the limits.
        """
        given = request.query_params.getlist(self.name)
        if not given:
            return self.default
        text = given[-1]
        if not (text.isascii() and text.isdecimal() and len(text) < 12 and self.minimum <= int(text) <= self.maximum):
            raise RequestFailed(400, f"{self.name} is {text[:40]!r}; expected a whole number from {self.minimum} to {self.maximum}.")
        return int(text)

    def describe(self) -> JsonObject:
        """Return the parameter as OpenAPI describes it."""
        schema: JsonObject = {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}
        if self.default is not None:
            schema["default"] = self.default
        return {"name": self.name, "in": "query", "schema": schema}


CURSOR = NumberParameter(name="cursor", minimum=0, maximum=MAX_INT32)
LIMIT = NumberParameter(name="limit", minimum=1, maximum=1000, default=100)

#: what an operation returns: a JSON object, or an answer of another kind
Answer = JsonObject | Response


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of the API."""

    path: str
    summary: str
    #: description of the answer; None: the answer has the media type, or is empty
    model: type[BaseModel] | None
    #: computes the answer in a thread
    answer: Callable[[Storage, Request], Answer] | None = None
    #: computes the answer in the event loop, for uploads and streams
    stream: Callable[[Storage, Request], Awaitable[Answer]] | None = None
    method: str = "GET"
    parameters: Sequence[TextParameter | NumberParameter] = ()
    body: type[BaseModel] | None = None
    #: media type of a body that is no JSON
    body_type: str = ""
    #: media type of an answer without a model
    media_type: str = ""
    #: the role that `permissions` asks for
    role: Role = Role.VIEWER

    @property
    def described_path(self) -> str:
        """The path as OpenAPI writes it."""
        return ROOT + self.path.replace(":int", "")

    def route(self, storage: Storage) -> Route:
        """Return the route of the operation."""

        async def respond(request: Request) -> Response:
            try:
                if self.stream is not None:
                    found = await self.stream(storage, request)
                else:
                    assert self.answer is not None
                    request.state.body = await _body(request, self.body) if self.body is not None else None
                    found = await run_in_threadpool(self.answer, storage, request)
            except RequestFailed as failed:
                return problem(failed.status, str(failed), headers=failed.headers, **failed.more)
            except ClientDisconnect:
                return problem(400, "The request ended too early.")
            except errors.StorageError:
                return problem(503, "The database cannot be reached.")
            except errors.RequestError as error:
                return _refusal(error)
            return found if isinstance(found, Response) else JSONResponse(found)

        return Route(ROOT + self.path, respond, methods=[self.method])


def _refusal(error: errors.RequestError) -> Response:
    if isinstance(error, errors.SpecError):
        return problem(422, str(error), problems=[dataclasses.asdict(one) for one in error.problems])
    return problem(404 if isinstance(error, errors.StudyError) else 409, str(error))


async def _body(request: Request, model: type[B]) -> B:
    """Return the body of a request.

    Raises:
        RequestFailed: it is too large, no JSON, or not what the operation takes.
    """
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > _MAX_BODY_BYTES:
            raise RequestFailed(413, f"The body is larger than {_MAX_BODY_BYTES:,} bytes.")
    try:
        return model.model_validate(json.loads(content or b"{}"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False, include_context=False)[0]
            raise RequestFailed(422, f"{'.'.join(map(str, first['loc'])) or 'The body'}: {first['msg']}.") from error
        raise RequestFailed(400, "The body is not JSON.") from error


def openapi(operations: Sequence[Operation], *, version: str, description: str) -> JsonObject:
    """Return the OpenAPI 3.1 document of some operations."""
    answers = {operation.model for operation in operations if operation.model is not None} | {_REFUSAL}
    bodies = {operation.body for operation in operations if operation.body is not None}
    ordered = sorted(answers, key=lambda model: model.__name__)
    given = [(model, "serialization") for model in ordered] + [
        (model, "validation") for model in sorted(bodies, key=lambda one: one.__name__)
    ]
    _, schemas = models_json_schema(given, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    paths: dict[str, JsonObject] = {}
    for operation in operations:
        paths.setdefault(operation.described_path, {})[operation.method.lower()] = _describe(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "tuner", "version": version, "description": description},
        "paths": paths,
        "components": {"schemas": schemas["$defs"], "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}],
    }


def _describe(operation: Operation) -> JsonObject:
    parameters = [parameter.describe() for parameter in operation.parameters]
    if "{study" in operation.path:
        parameters.insert(0, {"name": "study", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}})
    for name in ("name", "host"):
        if f"{{{name}}}" in operation.path:
            parameters.insert(0, {"name": name, "in": "path", "required": True, "schema": {"type": "string"}})
    reasons = {
        "400": "A parameter is invalid.",
        "401": "The token is missing or invalid.",
        "403": "The role does not allow this.",
        "404": "Not found.",
        "503": "The database does not answer.",
    }
    if operation.method != "GET":
        reasons |= {"409": "The state of the study does not allow this.", "413": "The body is too large.", "422": "The body is invalid."}
    elif operation.role is not Role.VIEWER:
        reasons |= {"409": "The server does not allow this."}
    responses: JsonObject = {"200": {"description": "Success."} | _content(operation.model, operation.media_type)}
    responses |= {status: {"description": reason, **_content(_REFUSAL, _PROBLEM)} for status, reason in sorted(reasons.items())}
    described: JsonObject = {"summary": operation.summary, "parameters": parameters, "responses": responses}
    if operation.body is not None:
        described["requestBody"] = {"required": True, **_content(operation.body)}
    elif operation.body_type:
        described["requestBody"] = {"required": True, "content": {operation.body_type: {"schema": {"type": "string", "format": "binary"}}}}
    return described | ({"x-role": operation.role.value} if operation.role is not Role.VIEWER else {})


def _content(model: type[BaseModel] | None, media_type: str = "") -> JsonObject:
    schema = {"type": "string"} if model is None else {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"content": {media_type or "application/json": {"schema": schema}}}


def component(name: str, description: str, /, **types_by_name: Any) -> type[BaseModel]:
    """Return a component of the OpenAPI document."""
    fields: Any = {field: (annotation, ...) for field, annotation in types_by_name.items()}
    return create_model(name, __doc__=description, **fields)


def body(name: str, description: str, /, **fields: Any) -> type[BaseModel]:
    """Return the body of an operation; each field is a type with its default. Other fields are refused."""
    return create_model(name, __doc__=description, __config__=ConfigDict(extra="forbid", strict=True), **fields)


def fields_of(described: type) -> dict[str, Any]:
    """Return the fields of a dataclass and their types, in order."""
    hints = typing.get_type_hints(described)
    return {field.name: hints[field.name] for field in dataclasses.fields(described)}


def list_of(model: type[BaseModel]) -> Any:
    """Return the type of a list of components."""
    return types.GenericAlias(list, (model,))


def dicts(found: Sequence[Any]) -> list[JsonObject]:
    """Return dataclasses as JSON objects."""
    return [dataclasses.asdict(each) for each in found]


_REFUSAL = component("Refusal", "Reason of a failed request, as RFC 9457 has it.", type=str, title=str, status=int, detail=str, reason=str)
