"""Streams: server-sent events of what changes, bounded in number and length, with one read of the storage for all viewers."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from tuner import errors

#: time between two reads of the storage for an open stream
PERIOD_SECONDS = 0.7
#: a stream ends after this time and the browser opens a new one, so that a user who lost their rights is signed out
MAX_STREAM_SECONDS = 300.0
#: a stream sends something at least this often, so that a closed browser is noticed
_MAX_SILENCE_SECONDS = 15.0
#: most entries in a cache
_MAX_PAGES = 256
#: open streams of a server, of its pages or of programs
MAX_STREAMS = 500

#: what a stream sends of each part: the HTML of an element by its id, or plain values by their name
Parts = dict[str, Any]


@dataclass(kw_only=True)
class PartsCache:
    """The latest parts of each page. Parts are rendered again when they are older than a period."""

    period_seconds: float = PERIOD_SECONDS * 0.9
    _parts: dict[tuple[str, ...], tuple[float, Parts]] = field(default_factory=dict)
    _locks: dict[tuple[str, ...], threading.Lock] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, key: tuple[str, ...], render: Callable[[], Parts]) -> Parts:
        """Return the parts of a page. If they are too old, render them once while other callers wait."""
        with self._lock:
            if len(self._locks) > _MAX_PAGES:
                self._parts.clear()
                self._locks.clear()
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            rendered_at, parts = self._parts.get(key, (float("-inf"), {}))
            if time.monotonic() - rendered_at > self.period_seconds:
                parts = render()
                self._parts[key] = (time.monotonic(), parts)
            return parts


@dataclass(kw_only=True)
class Streams:
    """The open streams of a server."""

    most: int = MAX_STREAMS
    num_open: int = 0

    def respond(self, request: Request, read: Callable[[], Parts], *, max_seconds: float = MAX_STREAM_SECONDS) -> Response:
        """Return a response that sends all parts, then the changed ones; if too many streams are open, one that asks to come later."""
        if self.num_open >= self.most:
            reason = f"{self.most} streams are open, as many as this server keeps. Try again later.\n"
            return PlainTextResponse(reason, HTTPStatus.SERVICE_UNAVAILABLE, {"retry-after": "30"})
        headers = {"cache-control": "no-store", "x-accel-buffering": "no", "vary": "accept, cookie"}
        is_over: Callable[[], bool] = getattr(request.app.state, "is_over", lambda: False)
        return StreamingResponse(self._counted(read, is_over, max_seconds), media_type="text/event-stream", headers=headers)

    async def _counted(self, read: Callable[[], Parts], is_over: Callable[[], bool], max_seconds: float) -> AsyncIterator[bytes]:
        self.num_open += 1
        try:
            async for event in _events(read, is_over, max_seconds):
                yield event
        finally:
            self.num_open -= 1


async def _events(read: Callable[[], Parts], is_over: Callable[[], bool], max_seconds: float) -> AsyncIterator[bytes]:
    """Yield events until the browser disconnects, the stream has its maximum length, or the server stops."""
    started = sent_at = time.monotonic()
    known: Mapping[str, Any] = {}
    while time.monotonic() - started < max_seconds and not is_over():
        try:
            parts = await run_in_threadpool(read)
        except errors.StorageError:
            yield b"event: away\ndata: {}\n\n"
            sent_at = time.monotonic()
        else:
            changed = {name: part for name, part in parts.items() if known.get(name) != part}
            if changed:
                yield _event(changed)
                known, sent_at = parts, time.monotonic()
        if time.monotonic() - sent_at > _MAX_SILENCE_SECONDS:
            yield b": still here\n\n"
            sent_at = time.monotonic()
        await asyncio.sleep(PERIOD_SECONDS)


def _event(parts: Mapping[str, Any]) -> bytes:
    # JSON in ASCII contains no line breaks and no surrogates
    return f"data: {json.dumps(parts)}\n\n".encode("ascii")
