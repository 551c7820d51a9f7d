"""What a page is: an address, a template, the parts that stay current, and what it reads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tuner import errors
from tuner.dashboard.pages import live, rendering
from tuner.search.look import Looks
from tuner.search.regret import Regrets


class Missing(Exception):
    """There is no such page; says what was asked for."""


class Refused(Exception):
    """A request that cannot be granted; says why."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """What all pages read from."""

    looks: Looks
    regrets: Regrets
    #: folder of artifacts, with the pictures of trials; None: this server does not know it
    artifacts: Path | None = None
    shared: live.Shared = field(default_factory=live.Shared)


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
            if live.wants(request):
                return live.stream(request, site.shared, lambda: self._parts(site, request))
            return rendering.page(request, self.template, **self.read(site, request))

        return Route(self.path, guarded(answer), methods=["GET"])

    def _parts(self, site: Site, request: Request) -> live.Parts:
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
