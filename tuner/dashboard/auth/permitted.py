"""Changing requests: let through only with the role and the origin that they need, and recorded."""

import logging
from http import HTTPStatus

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuner.dashboard.auth import authentication, permissions
from tuner.dashboard.auth.permissions import READING_METHODS, Identity
from tuner.dashboard.pages import served
from tuner.errors import StorageError
from tuner.storage import audit
from tuner.storage.engine import Storage

_NEED_NO_ROLE = (authentication.SIGN_IN, authentication.SIGN_OUT)

_log = logging.getLogger(__name__)


class SameOrigin:
    """Refuses a changing request unless the browser says that a page of this very server sent it, or a token shows that no browser did.

    optuna-dashboard has no guard of its own: any page open in the same browser could delete a study.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with 403."""
        if scope["type"] != "http" or scope["method"] in READING_METHODS or authentication.is_by_token(scope) or _comes_from_here(scope):
            await self.app(scope, receive, send)
            return
        answer = _forbidden(scope, "only the dashboard's own pages may change a study")
        await answer(scope, receive, send)


class Permitted:
    """Refuses what the role of who asks does not allow, and any change that no role is named for."""

    def __init__(self, app: ASGIApp, *, allow_migration: bool) -> None:
        self.app = app
        self.allow_migration = allow_migration

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with 403."""
        await (self._refusal(scope) or self.app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        if scope["type"] != "http" or scope["path"] in _NEED_NO_ROLE:
            return None
        needed = permissions.needed(scope["method"], scope["path"], allow_migration=self.allow_migration)
        if needed is None:
            return _forbidden(scope, "this is closed to everyone")
        identity = identity_of(scope)
        # without an identity the door lets through only what is open to anyone, which changes nothing
        if identity is None:
            return None if scope["method"] in READING_METHODS else _forbidden(scope, "sign in first")
        if identity.role.allows(needed):
            return None
        return _forbidden(scope, f"this needs the role {needed}; {identity.name} is {identity.role}")


class Recorded:
    """Writes into the storage who sent which changing request, and what came of it; sign-ins too."""

    def __init__(self, app: ASGIApp, *, storage: Storage) -> None:
        self.app = app
        self.storage = storage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and record it with its answer's status."""
        if scope["type"] != "http" or (scope["method"] in READING_METHODS and scope["path"] != authentication.BACK_FROM_ELSEWHERE):
            await self.app(scope, receive, send)
            return
        study = await run_in_threadpool(self._study, scope["path"])
        status = int(HTTPStatus.INTERNAL_SERVER_ERROR)

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, note)
        finally:
            deed = _deed(scope, status, study)
            if deed is not None:
                await run_in_threadpool(self._write, deed)

    def _study(self, path: str) -> str:
        """Before the request: it may delete it."""
        try:
            return audit.study_name(self.storage, study_id=permissions.study_id(path), trial_id=permissions.trial_id(path))
        except StorageError:
            return ""  # whatever is asked for will not be done

    def _write(self, deed: audit.AuditEvent) -> None:
        try:
            audit.write(self.storage, deed)
        except StorageError as error:
            _log.error("%s (%s) from %s: %s %s, status %d; not recorded: %s", *_words(deed), error)


def identity_of(scope: Scope) -> Identity | None:
    """Who asks; None if no one needs to be known for it."""
    found: Identity | None = scope.get("state", {}).get("identity")
    return found


def _words(deed: audit.AuditEvent) -> tuple[object, ...]:
    return (deed.who, deed.role or "refused", deed.address, deed.method, deed.path, deed.status)


def _deed(scope: Scope, status: int, study: str) -> audit.AuditEvent | None:
    """What is recorded; None of a sign-in that was not looked at."""
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
    """A page to whom looks at pages, JSON to a program."""
    request = Request(scope)
    if "text/html" in request.headers.get("accept", ""):
        return served.failure(request, HTTPStatus.FORBIDDEN, "You may not do this", f"Refused: {reason}.")
    return JSONResponse({"reason": f"Refused: {reason}."}, HTTPStatus.FORBIDDEN)


def _comes_from_here(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    if origin is not None:
        return origin == f"{scope['scheme']}://{headers.get('host')}"
    return headers.get("sec-fetch-site") == "same-origin"
