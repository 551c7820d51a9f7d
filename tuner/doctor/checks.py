"""A storage, its folders and this machine into findings, each within its time."""

import multiprocessing
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from tuner.cache import entries
from tuner.cache.entries import CacheEntry
from tuner.doctor import artifacts as doctor_artifacts
from tuner.doctor import buckets, database, findings, hardware, lost_trials
from tuner.doctor.findings import DoctorContext, Finding, Level
from tuner.errors import StorageError, TunerError
from tuner.storage import engine as storages
from tuner.storage.engine import Storage

#: for reading entries of the cache
_READ_SECONDS = 5.0
#: of a list of entries
_SHOWN = 3
_FAILURES = (OSError, TunerError, SQLAlchemyError, sqlite3.Error, ValueError, LookupError)
Look = Callable[[DoctorContext], Iterable[Finding]]

#: what is looked at in an open storage
_IN_STORAGE: tuple[Callable[[Storage], Iterable[Finding]], ...] = (
    database.server,
    database.schema,
    database.latency,
    database.clock,
    database.connections,
    database.journal,
    database.pages,
    lost_trials.running,
    lost_trials.stopped,
    lost_trials.versions,
    doctor_artifacts.look_at_weights,
)


def storage(visit: DoctorContext) -> Iterator[Finding]:
    """The database and what it holds."""
    if not visit.is_storage_there:
        yield from database.missing(visit.url)
        return
    path = database.file_of(visit.url)
    held = None if path is None else database.locked(path)
    if held is not None:
        yield held
        return
    try:
        opened = storages.open(visit.url)
    except TunerError as error:
        yield database.unusable(visit.url, str(error))
        return
    try:
        for look in _IN_STORAGE:
            yield from _tried("storage", partial(look, opened))
        yield from _tried("storage disk", partial(database.disk, visit.url))
        yield from _tried("leftovers", partial(doctor_artifacts.look_for_leftovers, opened, visit.artifacts))
        yield from _tried("undelivered", partial(doctor_artifacts.look_for_undelivered, opened, visit.artifacts))
        if visit.bucket is not None:
            yield from _tried("leftovers", partial(buckets.left, opened, visit.bucket))
    finally:
        opened.close()


def artifacts(visit: DoctorContext) -> Iterator[Finding]:
    """The folder of weights, checkpoints and logs, and the bucket that others see of it."""
    yield from hardware.writable("artifacts", visit.artifacts, "--artifacts" if visit.bucket is None else "TUNER_SCRATCH")
    yield hardware.space("artifacts", visit.artifacts)
    yield from doctor_artifacts.look_at_encryption(visit.artifacts)
    if visit.bucket is not None:
        yield from buckets.look(visit.bucket)


def cache(visit: DoctorContext) -> Iterator[Finding]:
    """The folder of images and features, and its size against its limit."""
    yield from hardware.writable("cache", visit.cache, "--cache")
    known = entries.find(visit.cache)
    held = sum(entry.num_bytes for entry in known) + entries.num_bytes_unfinished(visit.cache)
    yield judge_size(visit.cache, held, entries.limit_bytes(visit.cache, held))
    yield from _damaged(known)
    yield hardware.space("cache", visit.cache)


def _damaged(known: Sequence[CacheEntry]) -> Iterator[Finding]:
    """Entries that are not what was written; what no process has verified since the machine started is read for some seconds."""
    deadline = time.monotonic() + _READ_SECONDS
    damaged = [(entry, why) for entry in known if (why := entry.damage(deadline)) is not None]
    if not damaged:
        return
    told = "; ".join(f"{entry.kind}/{entry.path.name}: {why}" for entry, why in damaged[:_SHOWN])
    more = f"; and {len(damaged) - _SHOWN} more" if len(damaged) > _SHOWN else ""
    yield Finding(
        subject="cache",
        level=Level.NOTE,
        found=f"{_entries(len(damaged))} damaged: {told}{more}",
        cure="whoever needs one makes it anew; or delete them with tuner doctor --fix",
        mend=lambda: _removed([entry for entry, _ in damaged]),
    )


def _removed(damaged: Sequence[CacheEntry]) -> Finding:
    deadline = time.monotonic() + _READ_SECONDS
    gone = sum(entry.remove() for entry in damaged if entry.damage(deadline) is not None)
    return Finding(subject="cache", level=Level.NOTE, found=f"deleted {_entries(gone)} that were damaged", fixed=gone > 0)


def _entries(number: int) -> str:
    return f"{number} entr{'y' if number == 1 else 'ies'}"


def judge_size(folder: Path, held_bytes: int, limit_bytes: int) -> Finding:
    """Whether a cache keeps to its limit."""
    found = f"{entries.show_size(held_bytes)} of at most {entries.show_size(limit_bytes)}"
    if held_bytes > limit_bytes:
        return findings.note("cache", f"{found} in {folder}", f"the next entry makes room by itself; or raise {entries.LIMIT}")
    return findings.ok("cache", found)


#: in the order in which they are told
LOOKS: tuple[tuple[str, Look], ...] = (
    ("storage", storage),
    ("artifacts", artifacts),
    ("cache", cache),
    ("GPU", lambda visit: hardware.gpu()),
    ("machine", lambda visit: hardware.cores_and_memory()),
    ("packages", lambda visit: hardware.look()),
)


def examine(visit: DoctorContext, patience_seconds: float, looks: Sequence[tuple[str, Look]] = LOOKS) -> list[Finding]:
    """What all looks find, taken at once; one that does not come to its end in time is left behind, and is a finding itself."""
    pool = ThreadPool(len(looks))  # of daemons, which do not keep a process from its end
    begun = [(subject, pool.apply_async(_all, (subject, look, visit))) for subject, look in looks]
    pool.close()
    deadline = time.monotonic() + patience_seconds
    found: list[Finding] = []
    for subject, result in begun:
        try:
            found += result.get(max(0.0, deadline - time.monotonic()))
        except multiprocessing.TimeoutError:
            cure = "see whether its disk or its server hangs, or another process holds it; or give it longer with --timeout"
            found.append(findings.problem(subject, f"no answer within {patience_seconds:g} s", cure))
    return found


def mended(found: Sequence[Finding]) -> list[Finding]:
    """The same, with all that can be mended safely mended."""
    return [told for finding in found for told in _mended(finding)]


def _mended(finding: Finding) -> Iterable[Finding]:
    mend = finding.mend
    return [finding] if mend is None else _tried(finding.subject, lambda: [mend()])


def _all(subject: str, look: Look, visit: DoctorContext) -> list[Finding]:
    return list(_tried(subject, partial(look, visit)))


def _tried(subject: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What a look finds; that it failed is a finding too."""
    try:
        yield from look()
    except StorageError as error:
        yield findings.problem(subject, str(error))
    except _FAILURES as error:
        told = " ".join(str(error).split()) or type(error).__name__
        yield findings.problem(subject, f"it cannot be looked at: {told}", "mend that and look again")
