"""Whether the process lives, and whether it can do its work, for what watches over it."""

from collections.abc import Callable
from http import HTTPStatus

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from tuner.dashboard import guards

_ALIVE, _READY = guards.HEALTH


def routes(is_there: Callable[[], bool]) -> list[BaseRoute]:
    """`/healthz` and `/readyz`; `is_there` tells whether the database answers."""

    async def alive(request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def ready(request: Request) -> Response:
        if await run_in_threadpool(is_there):
            return PlainTextResponse("ready\n")
        return PlainTextResponse("the database is away\n", HTTPStatus.SERVICE_UNAVAILABLE)

    return [Route(_ALIVE, alive), Route(_READY, ready)]
