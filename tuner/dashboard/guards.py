"""ASGI applications around the dashboard: what they let through, and what they add to the answers."""

from collections.abc import Callable
from http import HTTPStatus

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuner.dashboard.pages import served

READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class SameOrigin:
    """Refuses a changing request unless the browser says that a page of this very server sent it.

    optuna-dashboard has no guard of its own: any page open in the same browser could delete a study.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with 403."""
        if scope["type"] != "http" or scope["method"] in READING_METHODS or _comes_from_here(scope):
            await self.app(scope, receive, send)
            return
        answer = PlainTextResponse("Refused: only the dashboard's own pages may change a study.\n", HTTPStatus.FORBIDDEN)
        await answer(scope, receive, send)


class SafeHeaders:
    """Adds to every answer that its type is not to be guessed and that no other page may frame it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and the answer, with the headers, back."""

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                policy = headers.get("content-security-policy")
                headers["content-security-policy"] = f"{policy};frame-ancestors 'none'" if policy else "frame-ancestors 'none'"
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        await self.app(scope, receive, send_safely)


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


def _comes_from_here(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    if origin is not None:
        return origin == f"{scope['scheme']}://{headers.get('host')}"
    return headers.get("sec-fetch-site") == "same-origin"


def _away(request: Request) -> Response:
    if request.url.path.startswith("/api"):
        return JSONResponse({"reason": "The database is away."}, HTTPStatus.SERVICE_UNAVAILABLE)
    return served.away(request)
