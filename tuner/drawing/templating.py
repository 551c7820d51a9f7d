"""Templating: a Jinja environment with tuner's filters, which format numbers, times and names."""

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from tuner import wording

#: templates that pages and reports share
FOLDER = Path(__file__).resolve().parent / "templates"
#: longer texts are cut
_LONGEST_NAME = 120
_LONGEST_VALUE = 2000
_LONGEST_LOG = 5000
#: lines of a log that are shown
_LAST_LINES = 12


def environment(folders: Sequence[Path], *, escaped: bool = True) -> jinja2.Environment:
    """Return an environment with the templates of some folders and the shared ones. `escaped` is for HTML."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, FOLDER]),
        autoescape=escaped,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters |= {
        "ago": _ago,
        "bytes": _bytes,
        "count": wording.count,
        "duration": wording.duration,
        "figure": wording.figure,
        "log": log,
        "moment": lambda seconds: when(datetime.fromtimestamp(seconds, UTC)),
        "name": name,
        "percent": lambda part: f"{part:.0%}",
        "quoted": shlex.quote,
        "rate": wording.rate,
        "setting": setting,
        "stage": lambda stage: "building" if stage is None else str(stage).replace("_", "-"),
        "tail": lambda text: wording.visible_on_page("\n".join(text.splitlines()[-_LAST_LINES:])[-_LONGEST_VALUE:]),
        "when": when,
        "worker": wording.worker,
    }
    return made


def setting(value: Any) -> str:
    """Format a hyperparameter or attribute, cut to a maximum length."""
    shown = wording.show(value, longest=_LONGEST_VALUE) if isinstance(value, dict) or value is None else wording.value(value)
    return wording.visible_on_page(shown if len(shown) <= _LONGEST_VALUE else shown[:_LONGEST_VALUE] + "…")


def log(text: str) -> str:
    """Return the end of a log, up to a maximum length."""
    return wording.visible_on_page(text if len(text) <= _LONGEST_LOG else "…" + text[-_LONGEST_LOG:])


def name(given: str) -> str:
    """Cut a name to a maximum length, with characters that a page obeys or hides as escapes."""
    shown = wording.one_line(wording.visible_on_page(given))
    return shown if len(shown) <= _LONGEST_NAME else shown[:_LONGEST_NAME] + "…"


def when(moment: datetime | None) -> str:
    """Format a time in UTC, to the minute."""
    return "–" if moment is None else moment.strftime("%Y-%m-%d %H:%M") + " UTC"


def _bytes(number: int) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def _ago(moment: datetime | None) -> str:
    """Format the time since a moment as Optuna stores it: in UTC, without a time zone."""
    if moment is None:
        return "–"
    return wording.duration(max(0.0, (datetime.now(UTC).replace(tzinfo=None) - moment).total_seconds())) + " ago"
