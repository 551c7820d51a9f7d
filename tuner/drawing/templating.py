"""Templates into text, with the filters that turn figures into words; what is filled in is escaped."""

import math
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from tuner import wording

#: templates of parts that are drawn in several places
FOLDER = Path(__file__).resolve().parent / "templates"
#: longest name that is shown whole
_LONGEST_NAME = 120
_LONGEST_VALUE = 2000
#: of a log, among other things
_LAST_LINES = 12


def environment(folders: Sequence[Path], *, escaped: bool = True) -> jinja2.Environment:
    """The templates of some folders, and those that are ours; a template of text, not of HTML, escapes for itself."""
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
        "figure": figure,
        "moment": lambda seconds: when(datetime.fromtimestamp(seconds, UTC)),
        "name": name,
        "percent": lambda part: f"{part:.0%}",
        "quoted": shlex.quote,
        "rate": wording.rate,
        "setting": setting,
        "stage": lambda stage: "building" if stage is None else str(stage).replace("_", "-"),
        "tail": lambda text: "\n".join(text.splitlines()[-_LAST_LINES:])[-_LONGEST_VALUE:],
        "when": when,
        "worker": wording.worker,
    }
    return made


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


def name(given: str) -> str:
    """A name of bounded length."""
    return given if len(given) <= _LONGEST_NAME else given[:_LONGEST_NAME] + "…"


def when(moment: datetime | None) -> str:
    """A moment in UTC, to the minute."""
    return "–" if moment is None else moment.strftime("%Y-%m-%d %H:%M") + " UTC"


def _bytes(number: int) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def _ago(moment: datetime | None) -> str:
    """How long ago a moment was that Optuna wrote down."""
    if moment is None:
        return "–"
    return wording.duration(max(0.0, (datetime.now(UTC).replace(tzinfo=None) - moment).total_seconds())) + " ago"
