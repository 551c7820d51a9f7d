"""ASGI applications around the dashboard: to whom it answers at all, and what they add to the answers.

Whether the process lives, and whether it can do its work, for what watches over it.

What a proxy says of a request, believed only if the proxy is one of ours.
"""

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

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


_ALIVE, _READY = HEALTH


def routes(is_there: Callable[[], bool]) -> list[BaseRoute]:
    """`/healthz` and `/readyz`; `is_there` tells whether the database answers."""

    async def alive(request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def ready(request: Request) -> Response:
        if await run_in_threadpool(is_there):
            return PlainTextResponse("ready\n")
        return PlainTextResponse("the database is away\n", HTTPStatus.SERVICE_UNAVAILABLE)

    return [Route(_ALIVE, alive), Route(_READY, ready)]


_PREFIX = b"x-forwarded-"
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Forwarded:
    """Takes client, scheme and host from a trusted proxy's headers, and takes those headers away from everything behind it.

    optuna-dashboard would believe them of anyone, and send browsers to whatever host they name.
    """

    def __init__(self, app: ASGIApp, *, proxies: Sequence[str]) -> None:
        self.networks: list[_Network] = [ipaddress.ip_network(proxy) for proxy in proxies]
        # of client and scheme: uvicorn's own
        self.app = ProxyHeadersMiddleware(_without_them(app), trusted_hosts=list(proxies))  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on as its client sent it to the proxy."""
        if scope["type"] == "http" and self._is_trusted(scope):
            hosts = [value for name, value in scope["headers"] if name == b"x-forwarded-host"]
            if hosts:
                # of several proxies the first one was asked by the client
                host = hosts[0].split(b",")[0].strip()
                others = [(name, value) for name, value in scope["headers"] if name != b"host"]
                scope = {**scope, "headers": [*others, (b"host", host)]}
        await self.app(scope, receive, send)  # type: ignore[arg-type]

    def _is_trusted(self, scope: Scope) -> bool:
        try:
            client = ipaddress.ip_address(scope["client"][0])
        except (ValueError, TypeError):
            return False
        return any(client in network for network in self.networks)


def _without_them(app: ASGIApp) -> ASGIApp:
    async def pass_on(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            kept = [(name, value) for name, value in scope["headers"] if not name.startswith(_PREFIX) and name != b"forwarded"]
            scope = {**scope, "headers": kept}
        await app(scope, receive, send)

    return pass_on
