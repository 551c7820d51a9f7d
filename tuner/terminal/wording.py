"""Durations, accuracies and counts in few, readable characters."""

import math
import socket

#: of a normal distribution, for an interval of 95 %
_Z95 = 1.959964


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
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


def accuracy(value: float | None) -> str:
    """Four digits, or a dash."""
    return "–" if value is None else f"{value:.4f}"


def count(number: int, noun: str) -> str:
    """`1 trial`, `20 trials`, `1,000 images`."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + ("es" if noun.endswith("s") else "s")
    return f"{number:,} {noun if number == 1 else plural}"


def value(given: object) -> str:
    """A hyperparameter: numbers in three significant digits, lists as widths, names as they are."""
    if isinstance(given, bool):
        return "yes" if given else "no"
    if isinstance(given, float):
        return f"{given:.3g}"
    if isinstance(given, tuple | list):
        return " → ".join(str(part) for part in given) or "linear"
    return str(getattr(given, "value", given))


def worker(name: str) -> str:
    """A worker's name without this host's."""
    return name.removeprefix(f"{socket.gethostname()}/")


def wilson(share: float, num: int) -> tuple[float, float]:
    """The 95 % interval of a share that was counted on `num` images (Wilson 1927)."""
    squared = _Z95**2 / num
    centre = (share + squared / 2) / (1 + squared)
    half = _Z95 / (1 + squared) * math.sqrt(share * (1 - share) / num + squared / (4 * num))
    return max(0.0, centre - half), min(1.0, centre + half)
