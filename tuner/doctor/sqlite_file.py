"""An SQLite file into who keeps it locked, how it writes, and whether its pages are whole."""

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

from tuner.doctor import findings
from tuner.doctor.findings import Finding
from tuner.search.storage import Storage

#: workers hold the lock for some milliseconds
_LOCK_SECONDS = 5.0
#: a check of all pages reads about a gigabyte in so long
_CHECK_SECONDS = 5.0
#: steps of SQLite's machine between two looks at the time
_STEPS = 10_000
_MESSAGES = 3
_LOCKS = Path("/proc/locks")


def locked(path: Path, *, patience_seconds: float = _LOCK_SECONDS) -> Finding | None:
    """A problem if another process keeps the file from being written; None if it can be tried."""
    connection = sqlite3.connect(path, timeout=patience_seconds, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return None  # it is said when the storage is opened
    else:
        return None
    finally:
        connection.close()
    holders = _holders(path)
    who = f"{' and '.join(holders)} has" if holders else "another process has"
    cure = f"wait until {'it' if not holders else holders[0]} is done, or end it; no worker can store anything meanwhile"
    return findings.problem("storage", f"{path} is locked: {who} kept others from writing it for over {patience_seconds:g} s", cure)


def journal(opened: Storage) -> Iterator[Finding]:
    """Whether readers and a writer can be at the file at once."""
    if opened.engine.dialect.name != "sqlite":
        return
    mode = opened.read(lambda connection: str(connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()))
    if mode == "wal":
        yield findings.ok("journal", "write-ahead (wal): readers do not wait for writers")
    else:
        cure = "its file system lacks shared memory, as network ones do; move the file to a local disk, or use PostgreSQL"
        yield findings.warning("journal", f"the journal is {mode} and not wal: readers and writers wait for each other", cure)


def pages(opened: Storage, *, patience_seconds: float = _CHECK_SECONDS) -> Iterator[Finding]:
    """What SQLite's quick check says, or that a part was looked at and no damage found in the time that it has."""
    path = opened.engine.url.database
    if opened.engine.dialect.name != "sqlite" or path is None:
        return
    deadline = time.monotonic() + patience_seconds
    with contextlib.closing(sqlite3.connect(path, timeout=_LOCK_SECONDS)) as connection:
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
        try:
            said = [str(row[0]) for row in connection.execute(f"PRAGMA quick_check({_MESSAGES})")]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
            yield findings.ok("pages", f"no damage within {patience_seconds:g} s; all of it: sqlite3 {path} 'PRAGMA quick_check'")
            return
        except sqlite3.DatabaseError as error:
            said = [str(error)]
    if said == ["ok"]:
        yield findings.ok("pages", "SQLite's quick check finds no damage")
    else:
        cure = f"end all workers and restore a copy, or save what can be read: sqlite3 {path} .recover | sqlite3 NEW.db"
        yield findings.problem("pages", f"the file is damaged: {'; '.join(' '.join(line.split()) for line in said)}", cure)


def _holders(path: Path) -> list[str]:
    """The processes of this machine that hold a lock for writing, as `process 123 (python)`; empty where the system does not tell."""
    files = [path, path.with_name(f"{path.name}-shm")]
    inodes = {file.stat().st_ino for file in files if file.exists()}
    try:
        lines = _LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    return [_shown(pid) for pid in sorted(writers(lines, inodes))]


def writers(lines: Iterable[str], inodes: set[int]) -> set[int]:
    """Process numbers that hold a lock for writing on one of some files, out of Linux's table of locks."""
    found = set()
    for line in lines:
        match line.split():
            case [_, "POSIX" | "OFDLCK", _, "WRITE", pid, file, *_] if int(file.rpartition(":")[2]) in inodes and int(pid) > 0:
                found.add(int(pid))
    return found


def _shown(pid: int) -> str:
    try:
        return f"process {pid} ({psutil.Process(pid).name()})"
    except psutil.Error:
        return f"process {pid}"
