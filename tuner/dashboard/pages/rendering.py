"""Rendering: pages from templates, live pages that send their parts again when they change, and error pages.

A live page streams its parts at its own address, to requests that accept `text/event-stream`.
All viewers of a page share one read of the storage.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from tuner import errors
from tuner.dashboard.auth import sessions
from tuner.dashboard.auth.permissions import Role
from tuner.dashboard.streams import MAX_STREAM_SECONDS, Parts, PartsCache, Streams
from tuner.drawing import templating
from tuner.views.regret import RegretBounds
from tuner.views.studies import StudyReader

FOLDER = Path(__file__).resolve().parents[1]
STATIC = FOLDER / "static"
#: pages load scripts and styles from our files only, so that text from a study can never run
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'"
)
#: cookie with the chosen theme, light or dark; without it, pages follow the system
THEME = "tuner_theme"


class NotFound(Exception):
    """The requested page does not exist. The message names what was requested."""


class Refused(Exception):
    """A request that cannot be granted. The message says why."""


class Page(HTMLResponse):
    """An HTML response. Text that is not valid Unicode, which a database can contain, becomes question marks."""

    def render(self, content: Any) -> bytes:
        """Return the bytes of the page."""
        return str(content).encode("utf-8", "replace")


def page(request: Request, template: str, status: int = HTTPStatus.OK, **variables: Any) -> Page:
    """Return a whole page."""
    headers = {"content-security-policy": POLICY, "cache-control": "no-store", "vary": "accept, cookie", "referrer-policy": "same-origin"}
    return Page(text(request, template, **variables), status, headers)


def text(request: Request, template: str, **variables: Any) -> str:
    """Render a template for the user of a request."""
    # before the sign-in, the page about an unavailable database has no identity
    identity = getattr(request.state, "identity", None)
    theme, root = request.cookies.get(THEME), sessions.path_prefix(request)
    return (
        _environment()
        .get_template(template)
        .render(
            identity=identity,
            may_edit=identity is not None and identity.role.allows(Role.EDITOR),
            takes_studies=getattr(getattr(request.scope.get("app"), "state", None), "takes_studies", False),
            theme=theme if theme in ("light", "dark") else "",
            path=request.url.path,
            root=root,
            static=lambda name: root + static(name),
            **variables,
        )
    )


@functools.cache
def static(name: str) -> str:
    """Return the address of a static file. It changes with the content, so that browsers can cache the file forever."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/tuner/static/{name}?v={digest}"


@functools.cache
def _environment() -> jinja2.Environment:
    return templating.environment([FOLDER / "templates"])


def with_error_pages(respond: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """Return the same function, but with an error page for each error of tuner."""

    def guard(request: Request) -> Response:
        try:
            return respond(request)
        except NotFound as error:
            return error_page(request, HTTPStatus.NOT_FOUND, "Page not found", str(error))
        except Refused as error:
            return error_page(request, HTTPStatus.BAD_REQUEST, "Nothing was changed", str(error))
        except errors.StorageError:
            return outage_page(request)
        except errors.TunerError as error:
            return error_page(request, HTTPStatus.CONFLICT, "Nothing was changed", str(error))

    return guard


def error_page(request: Request, status: HTTPStatus, title: str, message: str) -> Response:
    """Return a page with an error."""
    return page(request, "error.html", status, title=title, message=message, code=status.value)


def outage_page(request: Request) -> Response:
    """Return the page for a database that does not answer. It reloads itself."""
    message = "The dashboard is running, but the database does not answer. This page tries again every few seconds."
    answer = error_page(request, HTTPStatus.SERVICE_UNAVAILABLE, "Database unavailable", message)
    answer.headers["refresh"] = "5"
    return answer


def parse_whole(text: str | None, *, otherwise: int, least: int = 0, most: int = 2**31 - 1) -> int:
    """Return a whole number from an address, or `otherwise` if it is not a number or exceeds the limits."""
    if text is None or not text.isascii() or not text.isdecimal() or len(text) > 10:
        return otherwise
    return int(text) if least <= int(text) <= most else otherwise


@dataclass(frozen=True, kw_only=True)
class Site:
    """Sources of all pages."""

    reader: StudyReader
    regrets: RegretBounds
    #: folder with the pictures of trials; None: this server does not know it
    artifacts: Path | None = None
    #: length of a stream, after which the browser opens a new one
    max_stream_seconds: float = MAX_STREAM_SECONDS
    cache: PartsCache = field(default_factory=PartsCache)
    streams: Streams = field(default_factory=Streams)


@dataclass(frozen=True, kw_only=True)
class LivePage:
    """A page of tuner."""

    path: str
    template: str
    #: template of each live part, by the id of its element
    parts: Mapping[str, str]
    #: returns the variables of the templates
    read: Callable[[Site, Request], Mapping[str, Any]]

    def route(self, site: Site) -> Route:
        """Return the route of the page and of its stream."""

        def respond(request: Request) -> Response:
            if _wants_stream(request):
                return _stream(request, site, lambda: self._render_parts(site, request))
            return page(request, self.template, **self.read(site, request))

        return Route(self.path, with_error_pages(respond), methods=["GET"])

    def _render_parts(self, site: Site, request: Request) -> Parts:
        try:
            variables = self.read(site, request)
        except NotFound:
            return {}
        return {name: text(request, template, **variables) for name, template in self.parts.items()}


def _wants_stream(request: Request) -> bool:
    return "text/event-stream" in request.headers.get("accept", "")


def _stream(request: Request, site: Site, render: Callable[[], Parts]) -> Response:
    """Return a response that sends all parts of a page, then the changed ones."""
    identity = request.state.identity
    key = (sessions.path_prefix(request), request.url.path, request.url.query, identity.role)
    return site.streams.respond(request, lambda: site.cache.get(key, render), max_seconds=site.max_stream_seconds)
