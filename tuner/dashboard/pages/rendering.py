"""Templates and what they show into answers."""

import functools
import hashlib
import math
import shlex
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse

from tuner import wording
from tuner.dashboard.identity import Role

FOLDER = Path(__file__).resolve().parents[1]
STATIC = FOLDER / "static"
#: scripts and styles are ours and come in files, so that nothing in a name or a note can run
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'"
)
#: cookie in which the browser keeps whether pages are light or dark; absent: as the system is
THEME = "tuner_theme"
#: longest name that is shown whole
_LONGEST_NAME = 120
_LONGEST_VALUE = 2000
#: of a log, among other things
_LAST_LINES = 12


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
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "ago": _ago,
        "count": wording.count,
        "duration": wording.duration,
        "figure": figure,
        "bytes": _bytes,
        "moment": lambda seconds: _when(datetime.fromtimestamp(seconds, UTC)),
        "name": _name,
        "percent": lambda part: f"{part:.0%}",
        "quoted": shlex.quote,
        "setting": setting,
        "stage": lambda stage: "building" if stage is None else str(stage).replace("_", "-"),
        "tail": lambda text: "\n".join(text.splitlines()[-_LAST_LINES:])[-_LONGEST_VALUE:],
        "when": _when,
        "worker": wording.worker,
    }
    return environment


def figure(value: float | None) -> str:
    """A value of a trial: an accuracy in four digits, any other number in as many as it needs."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞" if value < 0 else "not a number"
    return f"{value:.4f}" if 0 <= value <= 1 else f"{value:.5g}"


def setting(value: Any) -> str:
    """A hyperparameter or attribute, as text of bounded length."""
    shown = wording.show(value, longest=_LONGEST_VALUE) if isinstance(value, dict) or value is None else wording.value(value)
    return shown if len(shown) <= _LONGEST_VALUE else shown[:_LONGEST_VALUE] + "…"


def _bytes(number: int) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def _name(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "…"


def _when(moment: datetime | None) -> str:
    return "–" if moment is None else moment.strftime("%Y-%m-%d %H:%M") + " UTC"


def _ago(moment: datetime | None) -> str:
    """How long ago a moment was that Optuna wrote down."""
    if moment is None:
        return "–"
    return wording.duration(max(0.0, (datetime.now(UTC).replace(tzinfo=None) - moment).total_seconds())) + " ago"
