"""Artifacts: files of interrupted trials, undelivered reports, the weights of versions, and the key that encrypts them."""

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
from tuner.workers.worker import outbox

INTERRUPTED = "leftovers"
_UNDELIVERED = "undelivered"
_WEIGHTS = "weights"
_ENCRYPTION = "encryption"
#: minimum age of a file of interrupted work: a running process may still write or delete a younger one
AGE_SECONDS = 3600.0
_TRIAL_FOLDER = re.compile(r"trial-(\d+)")
_CHECKPOINT = "checkpoint"
_SPOOLED_FILES = "*/spool/*.jsonl"
_ENCRYPTED_FILES = ("*/trial-*/*.npz", "*/trial-*/checkpoint", "*/soup-*.npz", "*/ensemble-*.zip")
#: versions that a finding names
_MAX_NAMED = 3
#: time limit for reading weights
_READ_SECONDS = 5.0
#: files that the check of the encryption reads; further files of a study have the same key
_MAX_ENCRYPTED_FILES = 2000

#: when each trial ended, in seconds since the epoch, by study and trial number
Ends = Mapping[tuple[str, int], float]


def interrupted_work(opened: Storage, artifacts: Path) -> Iterator[Finding]:
    """Find partly written files and checkpoints of trials that have ended."""
    known = opened.read(ends)
    found = find_interrupted(artifacts, known, before=time.time() - AGE_SECONDS)
    if not found:
        yield findings.ok(INTERRUPTED, f"no files of interrupted work in {artifacts}")
        return
    yield Finding(
        subject=INTERRUPTED,
        level=Level.NOTE,
        found=f"{_count_and_size(found)} of interrupted work in {artifacts}",
        cure="delete them with tuner doctor --fix",
        fix=lambda: _delete(artifacts, known),
    )


def find_interrupted(artifacts: Path, known: Ends, *, before: float) -> list[Path]:
    """Return files that were last written before a moment and that no trial can still need.

    A checkpoint counts only if its trial ended after the checkpoint was written. A younger checkpoint belongs to a study of the same name
    in another storage.
    """
    parts = [*artifacts.glob("*/*.part"), *artifacts.glob("*/trial-*/*.part")]
    checkpoints = [
        path
        for path in artifacts.glob(f"*/trial-*/{_CHECKPOINT}")
        if (ended := known.get((path.parent.parent.name, _trial_number(path.parent)))) is not None and _written_at(path) < ended
    ]
    return sorted(path for path in (*parts, *checkpoints) if _written_at(path) < before and path.is_file() and not path.is_symlink())


def ends(connection: Connection) -> dict[tuple[str, int], float]:
    """Return when each trial ended, by study and number, without running trials."""
    trials = tables.TRIALS.c
    query = select(tables.STUDIES.c.study_name, trials.number, trials.datetime_complete).join(tables.TRIALS)
    rows = connection.execute(query.where(trials.datetime_complete.is_not(None)))
    return {(study, number): ended.replace(tzinfo=dt.UTC).timestamp() for study, number, ended in rows}


def _delete(artifacts: Path, known: Ends) -> Finding:
    """Delete the files that no trial needs, after looking for them again."""
    found = find_interrupted(artifacts, known, before=time.time() - AGE_SECONDS)
    deleted = f"deleted {_count_and_size(found)} of interrupted work in {artifacts}"
    for path in found:
        path.unlink(missing_ok=True)
    return Finding(subject=INTERRUPTED, level=Level.NOTE, found=deleted, fixed=bool(found))


def _trial_number(folder: Path) -> int:
    match = _TRIAL_FOLDER.fullmatch(folder.name)
    return int(match[1]) if match else -1


def _written_at(path: Path) -> float:
    """Return when a file was last written; infinity if it has been deleted meanwhile."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _count_and_size(paths: Sequence[Path]) -> str:
    """Return `2 files (1 KB)`."""
    return f"{wording.count(len(paths), 'file')} ({entries.show_size(sum(_size(path) for path in paths))})"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@dataclass(frozen=True, kw_only=True)
class _SpoolFile:
    """A file with reports that a worker has not delivered to the storage."""

    path: Path
    study: str
    age_seconds: float


def undelivered_reports(opened: Storage, artifacts: Path) -> Iterator[Finding]:
    """Find reports of ended workers that never reached the storage, and of running workers that wait for it."""
    known = studies.names(opened)
    folders = sorted({path.parent for path in artifacts.glob(_SPOOLED_FILES)})
    abandoned = {file.path: file for folder in folders for file in outbox.abandoned_spools(folder)}
    files = [_spool_file(path) for path in sorted(artifacts.glob(_SPOOLED_FILES))]
    unreadable = [file for file in files if file.path in abandoned and abandoned[file.path].origin is None]
    foreign = [file for file in files if file.path in abandoned and file.study not in known and file not in unreadable]
    due = [file for file in files if file.path in abandoned and file not in unreadable and file not in foreign]
    waiting = [file for file in files if file.path not in abandoned]
    if due:
        cure = "start a worker of the study on this machine with these artifacts: tuner run STUDY.yaml or tuner worker STUDY"
        yield findings.warning(_UNDELIVERED, f"reports of ended workers: {_listed(due)}", cure)
    if foreign:
        cure = "name the storage of these studies with --storage, or delete the files if you no longer need the studies"
        yield findings.note(_UNDELIVERED, f"reports of studies that are not in this storage: {_listed(foreign)}", cure)
    if unreadable:
        cure = "no worker can deliver them; delete them if you do not need them"
        yield findings.warning(_UNDELIVERED, f"files that cannot be read: {', '.join(str(file.path) for file in unreadable)}", cure)
    if waiting:
        cure = "check that these workers can reach the storage"
        yield findings.note(_UNDELIVERED, f"reports of running workers that wait for the storage: {_listed(waiting)}", cure)
    if not files:
        yield findings.ok(_UNDELIVERED, f"no undelivered reports in {artifacts}")


def _spool_file(path: Path) -> _SpoolFile:
    try:
        age_seconds = max(0.0, time.time() - path.stat().st_mtime)
    except FileNotFoundError:  # a worker has just delivered it
        age_seconds = 0.0
    return _SpoolFile(path=path, study=path.parent.parent.name, age_seconds=age_seconds)


def _listed(files: Sequence[_SpoolFile]) -> str:
    """Return `2 files of flowers, the oldest 3 h old` for each study."""
    ages: dict[str, list[float]] = defaultdict(list)
    for file in files:
        ages[file.study].append(file.age_seconds)
    return "; ".join(
        f"{wording.count(len(found), 'file')} of {study}, the oldest {findings.age(max(found))} old" for study, found in ages.items()
    )


def version_weights(opened: Storage) -> Iterator[Finding]:
    """Check that the weights of versions exist and are unchanged, versions in a stage first, within a time limit."""
    versions = opened.read(_read_versions)
    if not versions:
        return
    here = [row for row in versions if "://" not in row.artifact]
    missing = [row for row in here if not Path(row.artifact).is_file()]
    deadline = time.monotonic() + _READ_SECONDS
    existing = [row for row in here if row not in missing]
    read = {row: _digest(Path(row.artifact)) for row in existing if time.monotonic() < deadline}
    changed = [row for row, digest in read.items() if digest != row.sha256]
    if changed:
        cure = "restore the original files, or delete these versions: an export of them would be another model"
        yield findings.problem(_WEIGHTS, f"files that were changed since the version was made: {_named(changed)}", cure)
    if missing:
        yield findings.warning(_WEIGHTS, f"not on this machine: {_named(missing)}", "look for them on the machine that trained them")
    if not changed and not missing:
        found = f"{wording.count(len(versions), 'version')}, {len(here)} with files on this machine, {len(read)} read and unchanged"
        yield findings.ok(_WEIGHTS, found)


def _read_versions(connection: Connection) -> list[Row[str, int, str, str]]:
    """Return the versions that are not deleted: those in a stage first, then the newest first."""
    last = select(func.max(STAGES.c.id)).group_by(STAGES.c.name, STAGES.c.stage)
    staged = {(row.name, row.version) for row in connection.execute(select(STAGES.c.name, STAGES.c.version).where(STAGES.c.id.in_(last)))}
    query = select(VERSIONS.c.name, VERSIONS.c.number, VERSIONS.c.artifact, VERSIONS.c.sha256).where(VERSIONS.c.deleted_at.is_(None))
    rows = connection.execute(query.order_by(VERSIONS.c.created_at.desc(), VERSIONS.c.name, VERSIONS.c.number.desc())).all()
    return sorted(rows, key=lambda row: (row.name, row.number) not in staged)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _named(rows: Sequence[Row[str, int, str, str]]) -> str:
    shown = ", ".join(f"{row.name} {row.number} ({row.artifact})" for row in rows[:_MAX_NAMED])
    return shown + (f" and {len(rows) - _MAX_NAMED} more" if len(rows) > _MAX_NAMED else "")


def encryption(artifacts: Path) -> Iterator[Finding]:
    """Check that the key of the environment opens the encrypted files; without a key and encrypted files there is no finding."""
    encrypted, plain = _by_encryption(artifacts)
    try:
        identities = keys.artifact_identities()
    except RequestError as error:
        yield findings.problem(_ENCRYPTION, str(error), "fix this first: workers do not start without a valid key")
        return
    if not identities:
        if encrypted:
            cure = f"set {keys.ARTIFACT_KEY} to the key or its file; without it you cannot score, export or resume these trials"
            yield findings.problem(_ENCRYPTION, f"{_files(encrypted)} encrypted, but {keys.ARTIFACT_KEY} is not set", cure)
        return
    locked = [path for path in encrypted if not _opens(path, identities)]
    if locked:
        cure = f"set {keys.ARTIFACT_KEY} to a file that also holds that key, one key a line; without it these files cannot be read"
        yield findings.problem(_ENCRYPTION, f"{_files(locked)} encrypted with another key than {keys.ARTIFACT_KEY}", cure)
    if plain:
        cure = "delete files that you do not need; a resumed trial encrypts its next checkpoint"
        yield findings.note(_ENCRYPTION, f"{_files(plain)} not encrypted, because no key was set when they were written", cure)
    if not locked and not plain:
        recipients = wording.listed(keys.recipient_of(identity) for identity in identities)
        yield findings.ok(_ENCRYPTION, f"weights and checkpoints are encrypted to {recipients}")


def _by_encryption(artifacts: Path) -> tuple[list[Path], list[Path]]:
    """Return the encrypted files and the plain files."""
    found: tuple[list[Path], list[Path]] = ([], [])
    paths = itertools.chain.from_iterable(artifacts.glob(pattern) for pattern in _ENCRYPTED_FILES)
    for path in itertools.islice(paths, _MAX_ENCRYPTED_FILES):
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


def _files(paths: Sequence[Path]) -> str:
    """Return `3 files of weights and checkpoints, such as a/b, are`."""
    return f"{wording.count(len(paths), 'file')} of weights and checkpoints, such as {paths[0]}, {'is' if len(paths) == 1 else 'are'}"
