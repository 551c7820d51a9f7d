"""A page into what stays current while it is open: parts of it, sent again when they have changed.

A page's stream is its own address, asked for as `text/event-stream`. Viewers of the same page share what is read for them.

What a page is: an address, a template, the parts that stay current, and what it reads.
"""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tuner import errors
from tuner.dashboard.pages import rendering
from tuner.views.regret import RegretBounds
from tuner.views.studies import Looks

#: how often the storage is asked while someone looks
PERIOD_SECONDS = 0.7
#: a stream ends after this long and the browser opens another, so that someone who may look no more does not
_LONGEST_SECONDS = 300.0
#: something is sent at least so often, so that a browser that has left is noticed
_SILENCE_SECONDS = 15.0
#: pages that are remembered at a time
_REMEMBERED = 256

Parts = dict[str, str]


@dataclass(kw_only=True)
class Shared:
    """What was made last for each of some keys, made again when it is older than a period."""

    period_seconds: float = PERIOD_SECONDS * 0.9
    _kept: dict[tuple[str, ...], tuple[float, Parts]] = field(default_factory=dict)
    _locks: dict[tuple[str, ...], threading.Lock] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, key: tuple[str, ...], make: Callable[[], Parts]) -> Parts:
        """What was made of a key a moment ago, or is made now; others who ask meanwhile wait for it."""
        with self._lock:
            if len(self._locks) > _REMEMBERED:
                self._kept.clear()
                self._locks.clear()
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            made, parts = self._kept.get(key, (float("-inf"), {}))
            if time.monotonic() - made > self.period_seconds:
                parts = make()
                self._kept[key] = (time.monotonic(), parts)
            return parts


def wants(request: Request) -> bool:
    """Whether a page's stream is asked for."""
    return "text/event-stream" in request.headers.get("accept", "")


def stream(request: Request, shared: Shared, make: Callable[[], Parts]) -> StreamingResponse:
    """The parts of a page, then those that change."""
    identity = request.state.identity
    key = (request.url.path, request.url.query, identity.role)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no", "vary": "accept, cookie"}
    is_over: Callable[[], bool] = getattr(request.app.state, "is_over", lambda: False)
    return StreamingResponse(_events(lambda: shared.get(key, make), is_over), media_type="text/event-stream", headers=headers)


async def _events(read: Callable[[], Parts], is_over: Callable[[], bool]) -> AsyncIterator[bytes]:
    """What is sent until the browser leaves, its time is up or the server ends."""
    began = said = time.monotonic()
    known: Mapping[str, str] = {}
    while time.monotonic() - began < _LONGEST_SECONDS and not is_over():
        try:
            parts = await run_in_threadpool(read)
        except errors.StorageError:
            yield b"event: away\ndata: {}\n\n"
            said = time.monotonic()
        else:
            changed = {name: html for name, html in parts.items() if known.get(name) != html}
            if changed:
                yield _event(changed)
                known, said = parts, time.monotonic()
        if time.monotonic() - said > _SILENCE_SECONDS:
            yield b": still here\n\n"
            said = time.monotonic()
        await asyncio.sleep(PERIOD_SECONDS)


def _event(parts: Mapping[str, str]) -> bytes:
    # JSON in ASCII has no line breaks of its own, and no half characters
    return f"data: {json.dumps(parts)}\n\n".encode("ascii")


class Missing(Exception):
    """There is no such page; says what was asked for."""


class Refused(Exception):
    """A request that cannot be granted; says why."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """What all pages read from."""

    looks: Looks
    regrets: RegretBounds
    #: folder of artifacts, with the pictures of trials; None: this server does not know it
    artifacts: Path | None = None
    shared: Shared = field(default_factory=Shared)


@dataclass(frozen=True, kw_only=True)
class PageOf:
    """A page of ours."""

    path: str
    template: str
    #: id of an element of the page, and the template of what is in it
    parts: Mapping[str, str]
    #: what the templates show
    read: Callable[[Site, Request], Mapping[str, Any]]

    def route(self, site: Site) -> Route:
        """The page at its address; as `text/event-stream` its parts."""

        def answer(request: Request) -> Response:
            if wants(request):
                return stream(request, site.shared, lambda: self._parts(site, request))
            return rendering.page(request, self.template, **self.read(site, request))

        return Route(self.path, guarded(answer), methods=["GET"])

    def _parts(self, site: Site, request: Request) -> Parts:
        try:
            shown = self.read(site, request)
        except Missing:
            return {}
        return {name: rendering.text(request, template, **shown) for name, template in self.parts.items()}


def guarded(answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """The same, with a page of its own for what is not there, what is refused, and a storage that is away."""

    def guard(request: Request) -> Response:
        try:
            return answer(request)
        except Missing as missing:
            return failure(request, HTTPStatus.NOT_FOUND, "There is no such page", str(missing))
        except Refused as refused:
            return failure(request, HTTPStatus.BAD_REQUEST, "This was not done", str(refused))
        except errors.StorageError:
            return away(request)
        except errors.TunerError as error:
            return failure(request, HTTPStatus.CONFLICT, "This was not done", str(error))

    return guard


def failure(request: Request, status: HTTPStatus, title: str, message: str) -> Response:
    """A page that says what went wrong."""
    return rendering.page(request, "error.html", status, title=title, message=message, code=status.value)


def away(request: Request) -> Response:
    """The page for a database that does not answer; it tries again by itself."""
    message = "The dashboard is running, but it cannot read the studies at the moment. This page tries again every few seconds."
    answer = failure(request, HTTPStatus.SERVICE_UNAVAILABLE, "The database is away", message)
    answer.headers["refresh"] = "5"
    return answer


def whole(text: str | None, *, otherwise: int, least: int = 0, most: int = 2**31 - 1) -> int:
    """A number in an address; what is none, or beyond the limits, is the other one."""
    if text is None or not text.isascii() or not text.isdecimal() or len(text) > 10:
        return otherwise
    return int(text) if least <= int(text) <= most else otherwise
