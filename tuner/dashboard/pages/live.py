"""A page into what stays current while it is open: parts of it, sent again when they have changed.

A page's stream is its own address, asked for as `text/event-stream`. Viewers of the same page share what is read for them.
"""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import StreamingResponse

from tuner import errors

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
