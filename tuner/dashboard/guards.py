"""ASGI applications around the dashboard: to whom it answers at all, and what they add to the answers."""

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuner.dashboard.pages import served

#: asked by machines, which know addresses and not names; their answers tell nothing
HEALTH = ("/healthz", "/readyz")

#: for every answer that brings none of its own; optuna-dashboard's page does
_POLICY = "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'"
#: files that someone uploaded: whatever they are, nothing in them runs
_UPLOADED_POLICY = "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; sandbox"
_UPLOADED = "/artifacts/"
_OF_PAGE = {"base-uri": "'none'", "form-action": "'self'"}
_OF_ALL = {"frame-ancestors": "'none'"}
_HEADERS = {
    "x-content-type-options": "nosniff",
    # with no-referrer the origin of a form would be null
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_A_YEAR = 31_536_000


class SafeHeaders:
    """Adds to every answer what a browser may do with it: what may run, who may frame it, that it is not kept."""

    def __init__(self, app: ASGIApp, *, may_be_kept: tuple[str, ...]) -> None:
        self.app = app
        self.may_be_kept = may_be_kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and the answer, with the headers, back."""

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add(MutableHeaders(scope=message), scope)
            await send(message)

        await self.app(scope, receive, send_safely)

    def _add(self, headers: MutableHeaders, scope: Scope) -> None:
        path = scope["path"]
        if path.startswith(_UPLOADED):
            policy = _UPLOADED_POLICY
            del headers["access-control-allow-origin"]
        else:
            own = headers.get("content-security-policy")
            policy = _completed(own, _OF_PAGE) if own else _POLICY
        headers["content-security-policy"] = _completed(policy, _OF_ALL)
        headers.update(_HEADERS)
        if not path.startswith(self.may_be_kept):
            headers["cache-control"] = "no-store"


def _completed(policy: str, wanted: Mapping[str, str]) -> str:
    """A policy with what it does not say itself: a browser complains of what is said twice."""
    said = {part.split()[0] for part in policy.split(";") if part.strip()}
    return "; ".join([policy, *(f"{name} {value}" for name, value in wanted.items() if name not in said)])


class Transport:
    """Tells browsers that came by TLS to come by it always. Stands behind the proxy's headers, which say how the client came."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and the answer, with the header, back."""

        async def send_strictly(message: Message) -> None:
            if message["type"] == "http.response.start" and scope.get("scheme") == "https":
                MutableHeaders(scope=message)["strict-transport-security"] = f"max-age={_A_YEAR}"
            await send(message)

        await self.app(scope, receive, send_strictly)


class KnownHosts:
    """Refuses requests to other names than the server's own: they come from pages that had a name point to this machine."""

    def __init__(self, app: ASGIApp, *, hosts: Sequence[str]) -> None:
        self.app = app
        self.checked = TrustedHostMiddleware(app, allowed_hosts=hosts, www_redirect=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with 400."""
        app = self.app if scope.get("path") in HEALTH else self.checked
        await app(scope, receive, send)


class Outage:
    """Answers with a page that says so while the database is away, and lets everything through when it is back."""

    def __init__(self, app: ASGIApp, *, is_there: Callable[[], bool], needs_no_database: tuple[str, ...]) -> None:
        self.app = app
        self.is_there = is_there
        self.needs_no_database = needs_no_database

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with 503."""
        if scope["type"] != "http" or scope["path"].startswith(self.needs_no_database) or await run_in_threadpool(self.is_there):
            await self.app(scope, receive, send)
            return
        await _away(Request(scope))(scope, receive, send)


def _away(request: Request) -> Response:
    if request.url.path.startswith(("/api", "/tuner/api/")):
        return JSONResponse({"reason": "The database is away."}, HTTPStatus.SERVICE_UNAVAILABLE)
    return served.away(request)
