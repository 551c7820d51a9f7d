"""Wording: values, names and figures as text for a message or a page."""

import datetime as dt
import difflib
import math
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

#: maximum number of names in a list; the others become an ellipsis
LISTED = 12
#: maximum length of a user's text in a message
SHOWN = 80
#: characters that a screen obeys or hides: controls, marks of the writing direction, characters without width, halves of characters
_HIDDEN = r"\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
_ANY_HIDDEN, _HIDDEN_IN_LINES = re.compile(f"[{_HIDDEN}]"), re.compile(rf"(?![\n\t])[{_HIDDEN}]")
#: on a page, every text is isolated, so changes of the writing direction end with it
_HIDDEN_ON_PAGES = re.compile(rf"(?![\n\t\u202a-\u202e\u2066-\u2069])[{_HIDDEN}]")
_BREAKS = re.compile(r"[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
#: `e-07` and `e+15`, written as `e-7` and `e15`
_SHORT_EXPONENT = re.compile(r"e(?:(-)|\+)0*(\d+)")
_MARKUP = re.compile(r"([\\`*_\[\]<>|#~$&])")


def show(value: Any, *, longest: int = 60) -> str:
    """Return a value as a study file would give it: text in quotes, true, null, `[1, 2]`, `{a: 1}`."""
    if isinstance(value, str):
        shown = f"'{value}'"
    elif value is None or isinstance(value, bool):
        shown = {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, float):
        shown = number(value)
    elif isinstance(value, dict):
        shown = "{" + ", ".join(f"{key}: {show(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, list | tuple):
        shown = "[" + ", ".join(show(item) for item in value) + "]"
    else:
        shown = str(value)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def visible(text: str) -> str:
    r"""Return text from data on one line, as it is; characters that a screen obeys or hides are written as `\n` or `\u001b`."""
    return _ANY_HIDDEN.sub(_escaped, text)


def visible_lines(text: str) -> str:
    """Return text of several lines like `visible`, but keep line ends and tabs."""
    return _HIDDEN_IN_LINES.sub(_escaped, text)


def visible_on_page(text: str) -> str:
    """Return text like `visible_lines` for a page of HTML, which shows any writing direction."""
    return _HIDDEN_ON_PAGES.sub(_escaped, text)


def one_line(text: str) -> str:
    """Return text on one line for a file of lines: only characters that end a line are escaped."""
    return _BREAKS.sub(_escaped, text)


def markdown(text: str) -> str:
    """Return text on one line with the markup of Markdown and HTML escaped, also inside a table."""
    return _MARKUP.sub(r"\\\1", visible(" ".join(text.split())))


def _escaped(found: re.Match[str]) -> str:
    # the escapes of JSON, so that JSON with them is still the same JSON
    return {"\n": r"\n", "\r": r"\r", "\t": r"\t"}.get(found[0], f"\\u{ord(found[0]):04x}")


def shortened(names: Sequence[str], *, longest: int) -> list[str]:
    """Return names cut to a length, so that different names stay different: `Bird [ad…`, or else `Bird…lt]`, or else `Bird 2`."""
    shown = [visible(name) for name in names]
    cut = [name if len(name) <= longest else f"{name[: longest - 1]}…" for name in shown]
    if len(set(cut)) < len(set(shown)):
        half = (longest - 1) // 2
        cut = [name if len(name) <= longest else f"{name[: longest - 1 - half]}…{name[-half:]}" for name in shown]
    if len(set(cut)) < len(set(shown)):
        ends = [f" {number}" for number in range(1, len(shown) + 1)]
        cut = [
            name if len(name) <= longest else f"{name[: max(1, longest - len(end))]}{end}" for name, end in zip(shown, ends, strict=True)
        ]
    return cut


def cut(text: str, longest: int = SHOWN) -> str:
    """Return a user's text for a message: on one line, and shortened."""
    line = visible(" ".join(text[: 2 * longest].split()))
    return line if len(line) <= longest and len(text) <= 2 * longest else f"{line[: longest - 1]}…"


def number(value: float) -> str:
    """Return a number in the fewest characters that read back equal: 32, 0.5, 1e-6."""
    if abs(value) < 1e15 and value == int(value):
        return str(int(value))
    return repr(float(value)).replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def listed(names: Iterable[Any]) -> str:
    """Return names as a list: `a, b, c`."""
    return ", ".join(show(name) if isinstance(name, bool) else str(name) for name in names)


def known(names: Sequence[str], given: object) -> str:
    """Return `Known: a, b, c. Did you mean b?`; of many names, only those most similar to the given one."""
    shown = names
    if len(names) > LISTED:
        alike = set(difflib.get_close_matches(str(given), names, n=LISTED, cutoff=0.0))
        shown = [name for name in names if name in alike]
    return f"Known: {listed(shown)}{', …' if len(shown) < len(names) else ''}.{question(given, names)}"


def one_of(names: Sequence[str], given: object) -> str:
    """Return `one of a, b, c. Did you mean b?`; the question only if a name is similar."""
    hint = question(given, names)
    return f"one of {listed(names)}{'.' if hint else ''}{hint}" if len(names) > 1 else listed(names)


def question(given: object, names: Sequence[str]) -> str:
    """Return ` Did you mean b?`, or an empty text if no name is similar."""
    meant = nearest(given, names)
    return f" Did you mean {meant}?" if meant else ""


def nearest(given: object, names: Sequence[str]) -> str | None:
    """Return the name that was probably meant, or None."""
    plain = {name.lower().replace("-", "_"): name for name in reversed(names)}
    wanted = str(given).lower().replace("-", "_").replace(" ", "_")
    matches = difflib.get_close_matches(wanted, plain, n=1, cutoff=0.6)
    return plain[matches[0]] if matches else None


def flatten(values: Any) -> dict[str, Any]:
    """Return nested values by dotted names: `{"a": {"b": 1}}` gives `{"a.b": 1}`.

    An item of a list of mappings goes by its `name`, or else by its index. Other lists are values.
    """
    return dict(_flatten(values, ""))


def _flatten(values: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _flatten(value, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(values, list | tuple) and any(isinstance(value, Mapping) for value in values):
        for index, value in enumerate(values):
            name = value.get("name", index) if isinstance(value, Mapping) else index
            yield from _flatten(value, f"{prefix}.{name}")
    else:
        yield prefix, list(values) if isinstance(values, tuple) else values


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: `4.2 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def moment(seconds: float) -> str:
    """Return seconds since the epoch as `2026-01-31 14:05 UTC`."""
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%d %H:%M} UTC"


def figure(value: float | None) -> str:
    """Return the value of a metric: `0.9300`, `1234.5`, `1,234,568`, `1e-7`, or a dash for None.

    From 0.01 to 1, it has the four decimals of an accuracy. Smaller values have four significant digits, larger ones five, or all before
    the point.
    """
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞" if value < 0 else "not a number"
    size = abs(value)
    if size == 0 or 0.01 <= size <= 1:
        return f"{value:.4f}"
    if 99_999.5 <= size < 1e12:
        return f"{value:,.0f}"
    return _SHORT_EXPONENT.sub(r"e\1\2", f"{value:.4g}" if size < 1 else f"{value:.5g}")


def with_spread(mean: float, spread: float | None) -> str:
    """Return a mean as a `figure` with its standard deviation, if that is known: `0.9300 ± 0.0042`, `2e-7 ± 1.4e-8`."""
    if spread is None:
        return figure(mean)
    is_like_accuracy = 0.01 <= abs(mean) <= 1 and (spread == 0 or spread >= 0.0001)
    return f"{figure(mean)} ± {f'{spread:.4f}' if is_like_accuracy else figure(spread)}"


def shorten(name: str, *, longest: int = 40) -> str:
    """Return a name as `visible`, cut if it is long."""
    shown = visible(name)
    return shown if len(shown) <= longest else f"{shown[:longest]}…"


def count(number: int, noun: str) -> str:
    """Return a number with its noun: `1 trial`, `20 trials`, `1,000 images`."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + ("es" if noun.endswith(("s", "tch")) else "s")
    return f"{number:,} {noun if number == 1 else plural}"


def rate(given: float) -> str:
    """Return a rate: a whole number from 100, three significant digits below."""
    return f"{given:,.0f}" if given >= 100 else f"{given:.3g}"


def value(given: object) -> str:
    """Return the value of a hyperparameter: numbers with three significant digits, lists as widths, names unchanged."""
    if isinstance(given, bool):
        return "yes" if given else "no"
    if isinstance(given, float):
        return f"{given:.3g}"
    if isinstance(given, tuple | list):
        return " → ".join(str(part) for part in given) or "linear"
    return str(getattr(given, "value", given))


def worker(name: str) -> str:
    """Return a worker's name without the name of this host."""
    return name.removeprefix(f"{socket.gethostname()}/")
