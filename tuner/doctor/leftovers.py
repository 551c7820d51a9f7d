"""The folder of artifacts into the files that interrupted work left in it and no one needs."""

import datetime as dt
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sqlalchemy import Connection, select

from tuner.data import room
from tuner.doctor import findings
from tuner.doctor.findings import Finding, Level
from tuner.search import tables
from tuner.search.storage import Storage

SUBJECT = "leftovers"
#: what is younger may still be written, or be about to be deleted by its own process
AGE_SECONDS = 3600.0
_TRIAL_FOLDER = re.compile(r"trial-(\d+)")
_CHECKPOINT = "checkpoint"

#: when each trial ended, in seconds since the epoch, by study and number
Ends = Mapping[tuple[str, int], float]


def look(opened: Storage, artifacts: Path) -> Iterator[Finding]:
    """Half-written files, and checkpoints of trials that have ended."""
    known = opened.read(ends)
    left = find(artifacts, known, before=time.time() - AGE_SECONDS)
    if not left:
        yield findings.ok(SUBJECT, f"none among the artifacts in {artifacts}")
        return
    total = room.show_size(sum(_size(path) for path in left))
    yield Finding(
        subject=SUBJECT,
        level=Level.NOTE,
        found=f"{_count(left)} ({total}) of interrupted work in {artifacts}",
        cure="delete them with tuner doctor --fix",
        mend=lambda: _delete(artifacts, known),
    )


def find(artifacts: Path, known: Ends, *, before: float) -> list[Path]:
    """Files that were last written before a moment and belong to no work that may go on.

    A checkpoint is one of them only if its trial ended after it was written: one that is younger belongs to another storage's study of
    the same name.
    """
    parts = [*artifacts.glob("*/*.part"), *artifacts.glob("*/trial-*/*.part")]
    checkpoints = [
        path
        for path in artifacts.glob(f"*/trial-*/{_CHECKPOINT}")
        if (ended := known.get((path.parent.parent.name, _number(path.parent)))) is not None and _written(path) < ended
    ]
    return sorted(path for path in (*parts, *checkpoints) if _written(path) < before and path.is_file() and not path.is_symlink())


def ends(connection: Connection) -> dict[tuple[str, int], float]:
    """When the trials that have ended did."""
    trials = tables.TRIALS.c
    query = select(tables.STUDIES.c.study_name, trials.number, trials.datetime_complete).join(tables.TRIALS)
    rows = connection.execute(query.where(trials.datetime_complete.is_not(None)))
    return {(study, number): ended.replace(tzinfo=dt.UTC).timestamp() for study, number, ended in rows}


def _delete(artifacts: Path, known: Ends) -> Finding:
    """Delete what is a leftover still."""
    left = find(artifacts, known, before=time.time() - AGE_SECONDS)
    total = sum(_size(path) for path in left)
    for path in left:
        path.unlink(missing_ok=True)
    found = f"deleted {_count(left)} ({room.show_size(total)}) of interrupted work in {artifacts}"
    return Finding(subject=SUBJECT, level=Level.NOTE, found=found, fixed=bool(left))


def _number(folder: Path) -> int:
    match = _TRIAL_FOLDER.fullmatch(folder.name)
    return int(match[1]) if match else -1


def _written(path: Path) -> float:
    """When a file was last written; never, of one that has gone meanwhile."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _count(paths: Sequence[Path]) -> str:
    return f"{len(paths)} file{'' if len(paths) == 1 else 's'}"
