"""What a look at one thing came to: a level, what was found, and what to do."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    #: worth knowing
    NOTE = "note"
    #: works, and may not for long or not as well as it could
    WARNING = "warning"
    #: does not work
    PROBLEM = "problem"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one look found."""

    #: what was looked at, in a word or two
    subject: str
    level: Level
    #: with figures
    found: str
    #: what to do; empty where nothing is to be done
    cure: str = ""
    #: whether it was mended meanwhile
    fixed: bool = False
    #: mends it and tells what came of that; None where a person must decide
    mend: Callable[[], "Finding"] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class DoctorContext:
    """What is looked at."""

    #: of the storage, password and all
    url: str = field(repr=False)
    #: whether the storage may hold something; an SQLite file that is not there is not made for a look
    is_storage_there: bool
    artifacts: Path
    #: s3://BUCKET/PREFIX of the artifacts that other machines see; None: the folder has them all
    bucket: str | None = None
    cache: Path


def ok(subject: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(subject=subject, level=Level.OK, found=found)


def note(subject: str, found: str, cure: str = "") -> Finding:
    """Worth knowing."""
    return Finding(subject=subject, level=Level.NOTE, found=found, cure=cure)


def warning(subject: str, found: str, cure: str) -> Finding:
    """May not work for long, or not as well as it could."""
    return Finding(subject=subject, level=Level.WARNING, found=found, cure=cure)


def problem(subject: str, found: str, cure: str = "") -> Finding:
    """Does not work."""
    return Finding(subject=subject, level=Level.PROBLEM, found=found, cure=cure)


def age(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h` or `5 days`."""
    for most, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < most:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:.0f} days"
