"""The folder of artifacts into the files that interrupted work left in it and no one needs.

What workers could not deliver to the storage into a finding: how much, how old, of which study.

The versions in a storage into whether their weights are still those that were kept.

The key of the artifacts, and the weights and checkpoints that lie there, into whether the one opens the others.
"""

import datetime as dt
import hashlib
import itertools
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, func, select

from tuner import wording
from tuner.cache import entries
from tuner.doctor import findings
from tuner.doctor.findings import Finding, Level
from tuner.errors import RequestError
from tuner.storage import tables
from tuner.storage.engine import Storage
from tuner.storage.tables import STAGES, VERSIONS
from tuner.studies import study as studies
from tuner.trust import age, at_rest, keys
from tuner.workers.worker import spool

LEFTOVERS = "leftovers"
#: what is younger may still be written, or be about to be deleted by its own process
AGE_SECONDS = 3600.0
_TRIAL_FOLDER = re.compile(r"trial-(\d+)")
_CHECKPOINT = "checkpoint"

#: when each trial ended, in seconds since the epoch, by study and number
Ends = Mapping[tuple[str, int], float]


def look_for_leftovers(opened: Storage, artifacts: Path) -> Iterator[Finding]:
    """Half-written files, and checkpoints of trials that have ended."""
    known = opened.read(ends)
    left = find(artifacts, known, before=time.time() - AGE_SECONDS)
    if not left:
        yield findings.ok(LEFTOVERS, f"none among the artifacts in {artifacts}")
        return
    total = entries.show_size(sum(_size(path) for path in left))
    yield Finding(
        subject=LEFTOVERS,
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
    found = f"deleted {_count(left)} ({entries.show_size(total)}) of interrupted work in {artifacts}"
    return Finding(subject=LEFTOVERS, level=Level.NOTE, found=found, fixed=bool(left))


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


_UNDELIVERED = "undelivered"
_SPOOLED_FILES = "*/spool/*.jsonl"


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """A file of one attempt."""

    path: Path
    study: str
    age_seconds: float


def look_for_undelivered(opened: Storage, artifacts: Path) -> Iterator[Finding]:
    """Files of workers that are gone, and of workers that wait for the storage now."""
    known = studies.names(opened)
    gone = {left.path: left for folder in sorted({path.parent for path in artifacts.glob(_SPOOLED_FILES)}) for left in spool.left(folder)}
    kept = [_spooled(path) for path in sorted(artifacts.glob(_SPOOLED_FILES))]
    unreadable = [each for each in kept if each.path in gone and gone[each.path].origin is None]
    foreign = [each for each in kept if each.path in gone and each.study not in known and each not in unreadable]
    due = [each for each in kept if each.path in gone and each not in unreadable and each not in foreign]
    held = [each for each in kept if each.path not in gone]
    if due:
        cure = (
            "the next worker of the study that starts here with these artifacts delivers them: tuner run STUDY.yaml or tuner worker STUDY"
        )
        yield findings.warning(_UNDELIVERED, f"of workers that are gone: {_listed(due)}", cure)
    if foreign:
        cure = "look at the storage that they are of, with --storage; or delete them if the study is of no use any more"
        yield findings.note(_UNDELIVERED, f"of studies that are not in this storage: {_listed(foreign)}", cure)
    if unreadable:
        cure = "no worker delivers them; delete them if they are of no use"
        yield findings.warning(_UNDELIVERED, f"files that cannot be read: {', '.join(str(each.path) for each in unreadable)}", cure)
    if held:
        yield findings.note(
            _UNDELIVERED, f"of workers that live and wait for the storage: {_listed(held)}", "see whether they reach the storage"
        )
    if not kept:
        yield findings.ok(_UNDELIVERED, f"nothing in {artifacts}")


def _spooled(path: Path) -> _Kept:
    try:
        age = max(0.0, time.time() - path.stat().st_mtime)
    except FileNotFoundError:  # delivered just now
        age = 0.0
    return _Kept(path=path, study=path.parent.parent.name, age_seconds=age)


def _listed(kept: list[_Kept]) -> str:
    """`2 files of flowers, the oldest 3 h old`, for each study."""
    ages: dict[str, list[float]] = defaultdict(list)
    for each in kept:
        ages[each.study].append(each.age_seconds)
    return "; ".join(
        f"{len(found)} file{'' if len(found) == 1 else 's'} of {study}, the oldest {findings.age(max(found))} old"
        for study, found in ages.items()
    )


WEIGHTS = "weights"
#: of a list of versions
_SHOWN = 3
#: for reading files
_READ_SECONDS = 5.0


def look_at_weights(opened: Storage) -> Iterator[Finding]:
    """The weights of all versions, those in a stage first: whether they are there, and as they were kept, as far as some seconds go."""
    kept = opened.read(_kept_weights)
    if not kept:
        return
    here = [row for row in kept if "://" not in row.artifact]
    gone = [row for row in here if not Path(row.artifact).is_file()]
    deadline = time.monotonic() + _READ_SECONDS
    there = [row for row in here if row not in gone]
    read = {row: _digest(Path(row.artifact)) for row in there if time.monotonic() < deadline}
    changed = [row for row, digest in read.items() if digest != row.sha256]
    if changed:
        cure = "delete these versions, or put back the files as they were; their exports would be of other models"
        yield findings.problem(WEIGHTS, f"not those that were kept: {_named(changed)}", cure)
    if gone:
        yield findings.warning(WEIGHTS, f"not on this machine: {_named(gone)}", "look for them where they were trained")
    if not changed and not gone:
        told = f"of {wording.count(len(kept), 'version')}, {len(here)} of them in files here, {len(read)} read and as they were kept"
        yield findings.ok(WEIGHTS, told)


def _kept_weights(connection: Connection) -> list[Row[str, int, str, str]]:
    last = select(func.max(STAGES.c.id)).group_by(STAGES.c.name, STAGES.c.stage)
    staged = {(row.name, row.version) for row in connection.execute(select(STAGES.c.name, STAGES.c.version).where(STAGES.c.id.in_(last)))}
    query = select(VERSIONS.c.name, VERSIONS.c.number, VERSIONS.c.artifact, VERSIONS.c.sha256).where(VERSIONS.c.deleted_at.is_(None))
    rows = connection.execute(query.order_by(VERSIONS.c.created_at.desc())).all()
    return sorted(rows, key=lambda row: (row.name, row.number) not in staged)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _named(rows: list[Row[str, int, str, str]]) -> str:
    shown = ", ".join(f"{row.name} {row.number} ({row.artifact})" for row in rows[:_SHOWN])
    return shown + (f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else "")


_ENCRYPTION = "encryption"
_ENCRYPTED_FILES = ("*/trial-*/*.npz", "*/trial-*/checkpoint", "*/soup-*.npz")
#: files that are looked at; more of one study are of the same key
_MOST = 2000


def look_at_encryption(artifacts: Path) -> Iterator[Finding]:
    """What is to be said of a key that is set, or of files that need one; nothing where there is neither."""
    encrypted, plain = _parted(artifacts)
    try:
        identities = keys.artifact_identities()
    except RequestError as error:
        yield findings.problem(_ENCRYPTION, str(error), "workers do not start until it is mended")
        return
    if not identities:
        if encrypted:
            cure = f"set {keys.ARTIFACT_KEY} to that key, or to the file of it; without it they cannot be scored, exported or gone on from"
            yield findings.problem(_ENCRYPTION, f"{_files(encrypted)} encrypted, and {keys.ARTIFACT_KEY} is not set", cure)
        return
    locked = [path for path in encrypted if not _opens(path, identities)]
    if locked:
        cure = f"set {keys.ARTIFACT_KEY} to a file with that key too, a line each; without it they cannot be read"
        yield findings.problem(_ENCRYPTION, f"{_files(locked)} encrypted with another key than the one of {keys.ARTIFACT_KEY}", cure)
    if plain:
        what = "was" if len(plain) == 1 else "were"
        cure = "delete what is not needed any more; a trial that goes on encrypts its checkpoint from then on"
        yield findings.note(_ENCRYPTION, f"{_files(plain)} not encrypted, because there {what} no key when they were written", cure)
    if not locked and not plain:
        recipients = wording.listed(keys.recipient_of(identity) for identity in identities)
        yield findings.ok(_ENCRYPTION, f"weights and checkpoints are encrypted to {recipients}")


def _parted(artifacts: Path) -> tuple[list[Path], list[Path]]:
    """Encrypted files, and others."""
    found: tuple[list[Path], list[Path]] = ([], [])
    paths = itertools.chain.from_iterable(artifacts.glob(pattern) for pattern in _ENCRYPTED_FILES)
    for path in itertools.islice(paths, _MOST):
        try:
            with path.open("rb") as file:
                found[0 if at_rest.is_encrypted(file) else 1].append(path)
        except FileNotFoundError:
            pass  # its trial has just ended
    return found


def _opens(path: Path, identities: list[Any]) -> bool:
    try:
        with path.open("rb") as file:
            return age.is_opened(file, identities)
    except FileNotFoundError:
        return True  # its trial has just ended


def _files(paths: list[Path]) -> str:
    """`3 files of weights and checkpoints, such as a/b, are`."""
    return f"{wording.count(len(paths), 'file')} of weights and checkpoints, such as {paths[0]}, {'is' if len(paths) == 1 else 'are'}"
