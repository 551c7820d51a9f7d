"""Templates and what they show into answers."""

import functools
import hashlib
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse

from tuner.dashboard.auth.permissions import Role
from tuner.drawing import templating

FOLDER = Path(__file__).resolve().parents[1]
STATIC = FOLDER / "static"
#: scripts and styles are ours and come in files, so that nothing in a name or a note can run
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'"
)
#: cookie in which the browser keeps whether pages are light or dark; absent: as the system is
THEME = "tuner_theme"


class Page(HTMLResponse):
    """A page; what is no Unicode text, of which a database may hold any, becomes question marks."""

    def render(self, content: Any) -> bytes:
        """The page's bytes."""
        return str(content).encode("utf-8", "replace")


def page(request: Request, template: str, status: int = HTTPStatus.OK, **shown: Any) -> Page:
    """A whole page."""
    headers = {"content-security-policy": POLICY, "cache-control": "no-store", "vary": "accept, cookie", "referrer-policy": "same-origin"}
    return Page(text(request, template, **shown), status, headers)


def text(request: Request, template: str, **shown: Any) -> str:
    """A template, filled in for whoever asks."""
    # a database that is away is also said to someone whose name is not known yet
    identity = getattr(request.state, "identity", None)
    theme = request.cookies.get(THEME)
    return (
        _environment()
        .get_template(template)
        .render(
            identity=identity,
            may_edit=identity is not None and identity.role.allows(Role.EDITOR),
            theme=theme if theme in ("light", "dark") else "",
            path=request.url.path,
            static=static,
            **shown,
        )
    )


@functools.cache
def static(name: str) -> str:
    """The address of a file of ours; it changes with the file, so that browsers may keep it."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/tuner/static/{name}?v={digest}"


@functools.cache
def _environment() -> jinja2.Environment:
    return templating.environment([FOLDER / "templates"])
