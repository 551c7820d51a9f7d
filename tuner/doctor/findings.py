"""Findings: the result of one check, with a level, what was found and what to do about it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from tuner.workers.bucket.transfer import Folders


class Level(StrEnum):
    """Severity of a finding."""

    OK = "ok"
    #: information
    NOTE = "note"
    #: works now, but slowly or not reliably
    WARNING = "warning"
    #: does not work
    PROBLEM = "problem"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check."""

    #: what was checked, in one or two words
    subject: str
    level: Level
    #: the result, with figures
    found: str
    #: what to do; "" if nothing needs to be done
    cure: str = ""
    #: whether `tuner doctor --fix` has fixed it
    fixed: bool = False
    #: fixes it and returns the new finding; None if a person must decide
    fix: Callable[[], "Finding"] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class DoctorContext:
    """Subject of the checks of `tuner doctor`."""

    #: URL of the storage, with its password
    url: str = field(repr=False)
    #: whether the storage may exist; a check never creates a missing SQLite file
    is_storage_there: bool
    folders: Folders


def ok(subject: str, found: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(subject=subject, level=Level.OK, found=found)


def note(subject: str, found: str, cure: str = "") -> Finding:
    """Return a finding that is information."""
    return Finding(subject=subject, level=Level.NOTE, found=found, cure=cure)


def warning(subject: str, found: str, cure: str) -> Finding:
    """Return a finding about something that works slowly or not reliably."""
    return Finding(subject=subject, level=Level.WARNING, found=found, cure=cure)


def problem(subject: str, found: str, cure: str = "") -> Finding:
    """Return a finding about something that does not work."""
    return Finding(subject=subject, level=Level.PROBLEM, found=found, cure=cure)


def age(seconds: float) -> str:
    """Return an age in one unit: `40 s`, `12 min`, `3 h` or `5 days`."""
    for most, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < most:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:.0f} days"
