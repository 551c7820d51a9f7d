"""Checks: everything that `tuner doctor` checks, at once and each within a time limit."""

import multiprocessing
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from tuner import wording
from tuner.cache import entries
from tuner.cache.entries import CacheEntry
from tuner.doctor import artifacts as doctor_artifacts
from tuner.doctor import buckets, database, findings, hardware, lost_trials, packages
from tuner.doctor.findings import DoctorContext, Finding, Level
from tuner.errors import StorageError, TunerError
from tuner.storage import engine as storages
from tuner.storage.engine import Storage
from tuner.workers.worker import trainer

#: time limit for reading cache entries
_READ_SECONDS = 5.0
#: damaged cache entries that a finding names
_MAX_NAMED = 3
_FAILURES = (OSError, TunerError, SQLAlchemyError, sqlite3.Error, ValueError, LookupError)
DoctorCheck = Callable[[DoctorContext], Iterable[Finding]]

#: checks of an open storage
_STORAGE_CHECKS: tuple[Callable[[Storage], Iterable[Finding]], ...] = (
    database.server,
    database.schema,
    database.latency,
    database.clock,
    database.connections,
    database.journal,
    database.pages,
    lost_trials.running,
    lost_trials.stopped,
    packages.of_studies,
    doctor_artifacts.version_weights,
)


def storage(context: DoctorContext) -> Iterator[Finding]:
    """Check the database and its contents."""
    if not context.is_storage_there:
        yield from database.missing(context.url)
        return
    path = database.file_of(context.url)
    lock = None if path is None else database.locked(path)
    if lock is not None:
        yield lock
        return
    try:
        opened = storages.open(context.url)
    except TunerError as error:
        yield database.unusable(context.url, str(error))
        return
    try:
        for check in _STORAGE_CHECKS:
            yield from _run("storage", partial(check, opened))
        yield from _run("storage disk", partial(database.disk, context.url))
        yield from _run("leftovers", partial(doctor_artifacts.interrupted_work, opened, context.folders.artifacts))
        yield from _run("undelivered", partial(doctor_artifacts.undelivered_reports, opened, context.folders.artifacts))
        if context.folders.bucket is not None:
            yield from _run("leftovers", partial(buckets.interrupted_work, opened, context.folders.bucket))
    finally:
        opened.close()


def artifacts(context: DoctorContext) -> Iterator[Finding]:
    """Check the folder of weights, checkpoints and logs, and the bucket that all machines share."""
    folder, bucket = context.folders.artifacts, context.folders.bucket
    yield from hardware.writable("artifacts", folder, "--artifacts" if bucket is None else "TUNER_SCRATCH")
    yield hardware.space("artifacts", folder)
    yield from doctor_artifacts.encryption(folder)
    if bucket is not None:
        yield from buckets.reachable(bucket)


def cache(context: DoctorContext) -> Iterator[Finding]:
    """Check the cache folder: its size, its entries and its disk."""
    folder = context.folders.cache
    yield from hardware.writable("cache", folder, "--cache")
    known = entries.find(folder)
    num_bytes = sum(entry.num_bytes for entry in known) + entries.num_bytes_unfinished(folder)
    yield judge_size(folder, num_bytes, entries.limit_bytes(folder, num_bytes))
    yield from _damaged(known)
    yield hardware.space("cache", folder)


def judge_size(folder: Path, num_bytes: int, limit_bytes: int) -> Finding:
    """Compare the size of a cache with its limit."""
    found = f"{entries.show_size(num_bytes)} of at most {entries.show_size(limit_bytes)}"
    if num_bytes > limit_bytes:
        cure = f"nothing to do: the next new entry deletes old ones; or raise the limit with {entries.LIMIT}"
        return findings.note("cache", f"{found} in {folder}", cure)
    return findings.ok("cache", found)


def _damaged(known: Sequence[CacheEntry]) -> Iterator[Finding]:
    """Find damaged entries; entries that no process has verified since the machine started are read, within a time limit."""
    deadline = time.monotonic() + _READ_SECONDS
    damaged = [(entry, damage) for entry in known if (damage := entry.damage(deadline)) is not None]
    if not damaged:
        return
    named = "; ".join(f"{entry.kind}/{entry.path.name}: {damage}" for entry, damage in damaged[:_MAX_NAMED])
    more = f"; and {len(damaged) - _MAX_NAMED} more" if len(damaged) > _MAX_NAMED else ""
    yield Finding(
        subject="cache",
        level=Level.NOTE,
        found=f"{wording.count(len(damaged), 'entry')} damaged: {named}{more}",
        cure="nothing to do: a trainer that needs one computes it again; or delete them with tuner doctor --fix",
        fix=lambda: _remove([entry for entry, _ in damaged]),
    )


def _remove(damaged: Sequence[CacheEntry]) -> Finding:
    deadline = time.monotonic() + _READ_SECONDS
    num_removed = sum(entry.remove() for entry in damaged if entry.damage(deadline) is not None)
    found = f"deleted {wording.count(num_removed, 'damaged entry')}"
    return Finding(subject="cache", level=Level.NOTE, found=found, fixed=num_removed > 0)


def settings(given: Mapping[str, str], encoding: str) -> Iterator[Finding]:
    """Name settings of Keras, TensorFlow and Python that child processes do not get, and an encoding of file names other than UTF-8."""
    found = [*trainer.overridden_variables(given), *trainer.keras_settings(given)]
    if found:
        cure = "nothing to do: tuner trains with the TensorFlow backend and default settings; set threads with --threads"
        yield findings.note("settings", f"ignored in workers, trainers and exports: {wording.listed(found)}", cure)
    else:
        yield findings.ok("settings", "no setting of Keras, TensorFlow or Python has to be ignored")
    if encoding != "utf-8":
        cure = "set a UTF-8 locale before you start tuner: export LC_ALL=C.UTF-8"
        yield findings.warning("locale", f"Python reads the names of files as {encoding}; other machines can see other class names", cure)


#: every check, in the order of the output
CHECKS: tuple[tuple[str, DoctorCheck], ...] = (
    ("storage", storage),
    ("artifacts", artifacts),
    ("cache", cache),
    ("GPU", lambda context: hardware.gpu()),
    ("machine", lambda context: hardware.cores_and_memory()),
    ("packages", lambda context: packages.installed()),
    ("settings", lambda context: settings(os.environ, sys.getfilesystemencoding())),
)


def run_all(context: DoctorContext, timeout_seconds: float, checks: Sequence[tuple[str, DoctorCheck]] = CHECKS) -> list[Finding]:
    """Run all checks at once and return their findings; a check that takes too long becomes a finding itself."""
    pool = ThreadPool(len(checks))  # of daemon threads, which do not keep the process alive
    started = [(subject, pool.apply_async(_run_one, (subject, check, context))) for subject, check in checks]
    pool.close()
    deadline = time.monotonic() + timeout_seconds
    found: list[Finding] = []
    for subject, result in started:
        try:
            found += result.get(max(0.0, deadline - time.monotonic()))
        except multiprocessing.TimeoutError:
            cure = "check whether its disk or server hangs or another process locks it, or allow more time with --timeout"
            found.append(findings.problem(subject, f"no answer within {timeout_seconds:g} s", cure))
    return found


def fix_all(found: Sequence[Finding]) -> list[Finding]:
    """Fix what can be fixed safely and return the findings after that."""
    return [after for finding in found for after in _fix(finding)]


def _fix(finding: Finding) -> Iterable[Finding]:
    fix = finding.fix
    return [finding] if fix is None else _run(finding.subject, lambda: [fix()])


def _run_one(subject: str, check: DoctorCheck, context: DoctorContext) -> list[Finding]:
    return list(_run(subject, partial(check, context)))


def _run(subject: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Run a check; its failure becomes a finding."""
    try:
        yield from check()
    except StorageError as error:
        yield findings.problem(subject, str(error))
    except _FAILURES as error:
        message = " ".join(str(error).split()) or type(error).__name__
        yield findings.problem(subject, f"the check failed: {message}", "fix this and run tuner doctor again")
