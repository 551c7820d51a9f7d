"""Enforcement: middleware that refuses a change without the needed role or origin, and records changes in the audit log."""

import logging
from http import HTTPStatus

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuner.dashboard.auth import authentication, permissions
from tuner.dashboard.auth.permissions import READING_METHODS, Identity
from tuner.dashboard.operations import problem
from tuner.dashboard.pages import rendering
from tuner.errors import StorageError
from tuner.storage import audit
from tuner.storage.engine import Storage

#: an open page asks for it as one types
_CHANGES_NOTHING = "/tuner/api/v1/validate"
_NEED_NO_ROLE = (authentication.SIGN_IN, authentication.SIGN_OUT)

_log = logging.getLogger(__name__)


class RequireSameOrigin:
    """Middleware that refuses a changing request unless a page of this server or a program with a token sent it.

    optuna-dashboard has no such protection: any page open in the same browser could delete a study.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request, or answer it with 403."""
        if (
            scope["type"] != "http"
            or scope["method"] in READING_METHODS
            or authentication.has_bearer_token(scope)
            or _is_same_origin(scope)
        ):
            await self.app(scope, receive, send)
            return
        answer = _forbidden(scope, "only the dashboard's own pages may change a study")
        await answer(scope, receive, send)


class RequireRole:
    """Middleware that refuses requests that the role does not allow, and changes that no role allows."""

    def __init__(self, app: ASGIApp, *, allow_migration: bool) -> None:
        self.app = app
        self.allow_migration = allow_migration

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request, or answer it with 403."""
        await (self._refusal(scope) or self.app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        if scope["type"] != "http" or scope["path"] in _NEED_NO_ROLE:
            return None
        needed = permissions.needed(scope["method"], scope["path"], allow_migration=self.allow_migration)
        if needed is None:
            return _forbidden(scope, "this is closed to everyone")
        identity = identity_of(scope)
        # a request without an identity arrives only at addresses that need no sign-in
        if identity is None:
            return None if scope["method"] in READING_METHODS else _forbidden(scope, "sign in first")
        if identity.role.allows(needed):
            return None
        return _forbidden(scope, f"this needs the role {needed}; {identity.name} is {identity.role}")


class RecordChanges:
    """Middleware that records changing requests and sign-ins in the audit log: user, request and status."""

    def __init__(self, app: ASGIApp, *, storage: Storage) -> None:
        self.app = app
        self.storage = storage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request, and record it with the status of the response."""
        is_reading = scope["type"] == "http" and (scope["method"] in READING_METHODS or scope["path"] == _CHANGES_NOTHING)
        if scope["type"] != "http" or (is_reading and scope["path"] != authentication.OPENID_BACK):
            await self.app(scope, receive, send)
            return
        study = await run_in_threadpool(self._study_name, scope["path"])
        status = int(HTTPStatus.INTERNAL_SERVER_ERROR)

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, note)
        finally:
            event = _event(scope, status, study)
            if event is not None:
                await run_in_threadpool(self._write, event)

    def _study_name(self, path: str) -> str:
        """Return the name of the study. It is read before the request, which can delete the study."""
        try:
            return audit.study_name(self.storage, study_id=permissions.study_id(path), trial_id=permissions.trial_id(path))
        except StorageError:
            return ""  # the request will fail, too

    def _write(self, event: audit.AuditEvent) -> None:
        try:
            audit.write(self.storage, event)
        except StorageError as error:
            _log.error("not recorded in the audit log: %s (%s) from %s: %s %s, status %d: %s", *_log_fields(event), error)


def identity_of(scope: Scope) -> Identity | None:
    """Return the identity of a request; None if it needs none."""
    found: Identity | None = scope.get("state", {}).get("identity")
    return found


def _log_fields(event: audit.AuditEvent) -> tuple[object, ...]:
    return (event.who, event.role or "refused", event.address, event.method, event.path, event.status)


def _event(scope: Scope, status: int, study: str) -> audit.AuditEvent | None:
    """Return the event to record; None for a request without a user, such as a throttled sign-in."""
    state, identity = scope.get("state", {}), identity_of(scope)
    if identity is None and "signing_in" not in state:
        return None
    request = Request(scope)
    return audit.AuditEvent(
        who=identity.name if identity is not None else state["signing_in"],
        role=str(identity.role) if identity is not None else "",
        method=scope["method"],
        path=scope["path"],
        status=status,
        study=str(state.get("study", study)),
        address=request.client.host if request.client else "",
    )


def _forbidden(scope: Scope, reason: str) -> Response:
    """Return a page for a browser, JSON for a program."""
    request = Request(scope)
    if "text/html" in request.headers.get("accept", ""):
        return rendering.error_page(request, HTTPStatus.FORBIDDEN, "Permission denied", f"Refused: {reason}.")
    return problem(HTTPStatus.FORBIDDEN, f"Refused: {reason}.")


def _is_same_origin(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    if origin is not None:
        return origin == f"{scope['scheme']}://{headers.get('host')}"
    return headers.get("sec-fetch-site") == "same-origin"
