"""Middleware around the dashboard: security headers, allowed hosts, trusted proxies, database outages, and health checks."""

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from urllib.parse import quote, unquote

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from tuner.dashboard import settings
from tuner.dashboard.operations import problem
from tuner.dashboard.pages import rendering

#: addresses of health checks, which use IP addresses as host names; their answers contain no data
HEALTH = ("/healthz", "/readyz")
_ALIVE, _READY = HEALTH

#: for every response without a policy; optuna-dashboard's page has one
_POLICY = "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'"
#: for uploaded files, which must not run anything
_UPLOADED_POLICY = "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; sandbox"
_UPLOADED = "/artifacts/"
#: added to policies that do not contain them
_PAGE_DIRECTIVES = {"base-uri": "'none'", "form-action": "'self'"}
_DIRECTIVES = {"frame-ancestors": "'none'"}
_HEADERS = {
    "x-content-type-options": "nosniff",
    # with no-referrer, browsers would send the origin null with forms
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_YEAR_SECONDS = 31_536_000
_FORWARDED_PREFIX = b"x-forwarded-"
#: addresses that a proxy can mean if it has not removed the prefix /tuner
_BELOW_TUNER = ("/tuner/", *HEALTH, "/metrics", "/dashboard", "/favicon.ico")
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class SecurityHeaders:
    """Middleware that adds security headers to every response: they limit scripts, frames and caches."""

    def __init__(self, app: ASGIApp, *, cacheable: tuple[str, ...]) -> None:
        self.app = app
        self.cacheable = cacheable

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request, and add the headers to the response."""

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
            policy = _with_directives(own, _PAGE_DIRECTIVES) if own else _POLICY
        headers["content-security-policy"] = _with_directives(policy, _DIRECTIVES)
        headers.update(_HEADERS)
        if not path.startswith(self.cacheable):
            headers["cache-control"] = "no-store"


def _with_directives(policy: str, directives: Mapping[str, str]) -> str:
    """Return a policy with the directives that it lacks. Browsers warn about a directive that occurs twice."""
    names = {part.split()[0] for part in policy.split(";") if part.strip()}
    return "; ".join([policy, *(f"{name} {value}" for name, value in directives.items() if name not in names)])


class StrictTransport:
    """Middleware that tells browsers on TLS to always use TLS. It must run behind `TrustedProxies`, which sets the client's scheme."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request, and add the header to the response."""

        async def send_strictly(message: Message) -> None:
            if message["type"] == "http.response.start" and scope.get("scheme") == "https":
                MutableHeaders(scope=message)["strict-transport-security"] = f"max-age={_YEAR_SECONDS}"
            await send(message)

        await self.app(scope, receive, send_strictly)


class AllowedHosts:
    """Middleware that refuses requests to other host names than the server's. Such a request is a sign of DNS rebinding."""

    def __init__(self, app: ASGIApp, *, hosts: Sequence[str]) -> None:
        self.app = app
        self.checked = TrustedHostMiddleware(app, allowed_hosts=hosts, www_redirect=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request, or answer it with 400."""
        app = self.app if scope.get("path") in HEALTH else self.checked
        await app(scope, receive, send)


class DatabaseOutage:
    """Middleware that answers with 503 while the database does not answer."""

    def __init__(self, app: ASGIApp, *, is_available: Callable[[], bool], needs_no_database: tuple[str, ...]) -> None:
        self.app = app
        self.is_available = is_available
        self.needs_no_database = needs_no_database

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request, or answer it with 503."""
        if scope["type"] != "http" or scope["path"].startswith(self.needs_no_database) or await run_in_threadpool(self.is_available):
            await self.app(scope, receive, send)
            return
        await _outage(Request(scope))(scope, receive, send)


def _outage(request: Request) -> Response:
    if request.url.path.startswith(("/api", "/tuner/api/")):
        return problem(HTTPStatus.SERVICE_UNAVAILABLE, "The database cannot be reached.")
    return rendering.outage_page(request)


def routes(is_available: Callable[[], bool]) -> list[BaseRoute]:
    """Return the routes of the health checks. `is_available` tells whether the database answers."""

    async def alive(request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def ready(request: Request) -> Response:
        if await run_in_threadpool(is_available):
            return PlainTextResponse("ready\n")
        return PlainTextResponse("the database cannot be reached\n", HTTPStatus.SERVICE_UNAVAILABLE)

    return [Route(_ALIVE, alive), Route(_READY, ready)]


class TrustedProxies:
    """Middleware that reads client, scheme, host and path prefix from a trusted proxy, and removes these headers from every request.

    optuna-dashboard would trust the headers of any client, and redirect browsers to any host in them.
    """

    def __init__(self, app: ASGIApp, *, proxies: Sequence[str], root_path: str = "") -> None:
        """`root_path` is the path prefix of requests without the header X-Forwarded-Prefix."""
        self.root_path = root_path
        self.networks: list[_Network] = [ipaddress.ip_network(proxy) for proxy in proxies]
        # uvicorn's middleware sets client and scheme
        self.app = ProxyHeadersMiddleware(_without_headers(app), trusted_hosts=list(proxies))  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request as the client sent it to the proxy."""
        is_trusted = scope["type"] == "http" and self._is_trusted(scope)
        prefix = (_forwarded_prefix(scope) if is_trusted else None) or self.root_path
        if is_trusted:
            hosts = [value for name, value in scope["headers"] if name == b"x-forwarded-host"]
            if hosts:
                # with several proxies, the first host is the one that the client used
                host = hosts[0].split(b",")[0].strip()
                others = [(name, value) for name, value in scope["headers"] if name != b"host"]
                scope = {**scope, "headers": [*others, (b"host", host)]}
        if prefix and scope["type"] == "http":
            scope, send = _below(scope, prefix), _with_prefix(send, prefix)
        await self.app(scope, receive, send)  # type: ignore[arg-type]

    def _is_trusted(self, scope: Scope) -> bool:
        try:
            client = ipaddress.ip_address(scope["client"][0])
        except (ValueError, TypeError):
            return False
        return any(client in network for network in self.networks)


def _forwarded_prefix(scope: Scope) -> str | None:
    """Return the path prefix that a proxy has removed; None if it names none. With several proxies, the first one counts."""
    given = Headers(scope=scope).get("x-forwarded-prefix", "").split(",")[0].strip().rstrip("/")
    return given if settings.ROOT_PATH.fullmatch(given) else None


def _below(scope: Scope, prefix: str) -> Scope:
    """Return a request as it would be without the prefix. Some proxies have removed it from the path, others have not."""
    path, decoded = scope["path"], unquote(prefix)
    rest = path.removeprefix(decoded)
    is_prefixed = rest != path and rest[:1] in ("", "/")
    if decoded == "/tuner" and rest not in ("", "/"):  # then the path /tuner/workers is one of ours
        is_prefixed = is_prefixed and rest.startswith(_BELOW_TUNER)
    rest = rest or "/"
    state = {**scope.get("state", {}), "path_prefix": prefix}
    return {**scope, "state": state} | ({"path": rest, "raw_path": quote(rest).encode()} if is_prefixed else {})


def _with_prefix(send: Send, prefix: str) -> Send:
    """Return a function that sends answers whose redirects and cookies are below the prefix."""

    async def send_below(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            goal = headers.get("location", "")
            if goal.startswith("/") and not goal.startswith("//"):
                headers["location"] = prefix + goal
        await send(message)

    return send_below


def _without_headers(app: ASGIApp) -> ASGIApp:
    """Return an application that gets requests without forwarded headers."""

    async def forward(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            kept = [(name, value) for name, value in scope["headers"] if not name.startswith(_FORWARDED_PREFIX) and name != b"forwarded"]
            scope = {**scope, "headers": kept}
        await app(scope, receive, send)

    return forward
