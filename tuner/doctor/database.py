"""Database: server, tables, latency, clock, connections and disk, and of an SQLite file its lock, its journal and its pages."""

import contextlib
import secrets
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import optuna
import psutil
import sqlalchemy
from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from tuner import wording
from tuner.doctor import findings, hardware
from tuner.doctor.findings import Finding
from tuner.storage import engine as storages
from tuner.storage import migrating, optuna_private, tables
from tuner.storage.engine import Storage
from tuner.studies import leases

#: time to wait for an SQLite file's lock; workers hold it for some milliseconds
_LOCK_SECONDS = 5.0
#: time limit of the check of SQLite's pages, which reads about a gigabyte in this time
_CHECK_SECONDS = 5.0
#: virtual-machine instructions of SQLite between two checks of the clock
_STEPS = 10_000
#: maximum number of damages that SQLite reports
_MAX_DAMAGES = 3
_LOCKS = Path("/proc/locks")
_SAMPLES = 10
#: a report of an epoch and a claim of a trial take several transactions of this length
_SLOW_SECONDS = 0.1
#: leases use the clock of the database; dates and the order of events use the clock of each machine
_MAX_SKEW_SECONDS = 5.0
#: connections to a server that a worker usually holds
_CONNECTIONS_PER_WORKER = 2
_MIN_FREE_CONNECTIONS = 10
_CONNECT_SECONDS = 5
#: study id of a row that belongs to no study; real ids start at 1
_NO_STUDY = -1


def locked(path: Path, *, timeout_seconds: float = _LOCK_SECONDS) -> Finding | None:
    """Return a problem if another process keeps an SQLite file locked, else None."""
    connection = sqlite3.connect(path, timeout=timeout_seconds, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return None  # opening the storage reports it
    else:
        return None
    finally:
        connection.close()
    holders = _holders(path)
    who = wording.listed(holders) if holders else "another process"
    cure = f"wait until {holders[0] if holders else 'it'} has finished, or end it; until then, no worker can store results"
    return findings.problem("storage", f"{path} has been locked by {who} for more than {timeout_seconds:g} s", cure)


def journal(opened: Storage) -> Iterator[Finding]:
    """Check that readers and a writer can use the SQLite file at the same time."""
    if opened.engine.dialect.name != "sqlite":
        return
    mode = opened.read(lambda connection: str(connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()))
    if mode == "wal":
        yield findings.ok("journal", "write-ahead (wal): readers do not wait for writers")
    else:
        cure = "move the file to a local disk, or use PostgreSQL: its file system has no shared memory, like most network file systems"
        yield findings.warning("journal", f"the journal mode is {mode}, not wal: readers and writers wait for each other", cure)


def pages(opened: Storage, *, timeout_seconds: float = _CHECK_SECONDS) -> Iterator[Finding]:
    """Run SQLite's quick check of the file, within a time limit."""
    path = opened.engine.url.database
    if opened.engine.dialect.name != "sqlite" or path is None:
        return
    deadline = time.monotonic() + timeout_seconds
    with contextlib.closing(sqlite3.connect(path, timeout=_LOCK_SECONDS)) as connection:
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
        try:
            damages = [str(row[0]) for row in connection.execute(f"PRAGMA quick_check({_MAX_DAMAGES})")]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
            cure = f"for a complete check: sqlite3 {path} 'PRAGMA quick_check'"
            yield findings.ok("pages", f"no damage found within {timeout_seconds:g} s; {cure}")
            return
        except sqlite3.DatabaseError as error:
            damages = [str(error)]
    if damages == ["ok"]:
        yield findings.ok("pages", "SQLite's quick check found no damage")
    else:
        cure = f"end all workers, then restore a backup or recover what is readable: sqlite3 {path} .recover | sqlite3 NEW.db"
        yield findings.problem("pages", f"the file is damaged: {'; '.join(' '.join(line.split()) for line in damages)}", cure)


def _holders(path: Path) -> list[str]:
    """Return the local processes that hold a write lock, as `process 123 (python)`; empty if the system does not list locks."""
    files = [path, path.with_name(f"{path.name}-shm")]
    inodes = {file.stat().st_ino for file in files if file.exists()}
    try:
        lines = _LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    return [_shown(pid) for pid in sorted(writers(lines, inodes))]


def writers(lines: Iterable[str], inodes: set[int]) -> set[int]:
    """Return the ids of the processes that hold a write lock on one of the files, from the lines of /proc/locks."""
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


def unusable(url: str, message: str) -> Finding:
    """Return the finding of a storage that cannot be opened."""
    return explain(message, is_standby="read-only" in message and _is_standby(url))


def explain(message: str, *, is_standby: bool) -> Finding:
    """Return the finding of a storage error; for a standby server, it names the cure."""
    cure = "this server is a read-only standby; name its primary in --storage" if is_standby else ""
    return findings.problem("storage", message, cure)


def missing(url: str) -> Iterator[Finding]:
    """Return the findings of an SQLite file that does not exist."""
    found = f"{storages.shown(url)} does not exist yet"
    yield findings.note("storage", found, "create it with tuner run STUDY.yaml, or name another storage with --storage")
    yield from disk(url)


def server(opened: Storage) -> Iterator[Finding]:
    """Tell the database, its version, and the number of its studies and trials."""

    def count(connection: Connection) -> tuple[int, int]:
        studies, trials = (sqlalchemy.select(sqlalchemy.func.count()).select_from(table) for table in (tables.STUDIES, tables.TRIALS))
        return connection.execute(studies).scalar_one(), connection.execute(trials).scalar_one()

    num_studies, num_trials = opened.read(count)
    dialect = opened.engine.dialect
    version = ".".join(map(str, dialect.server_version_info or ()))
    name = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MySQL", "mariadb": "MariaDB"}.get(dialect.name, dialect.name)
    contents = f"{wording.count(num_studies, 'study')}, {wording.count(num_trials, 'trial')}"
    yield findings.ok("storage", f"{storages.shown(opened.url)}: {name} {version}, {contents}")


def schema(opened: Storage) -> Iterator[Finding]:
    """Check that all tables and columns exist, and tell which version of Optuna made them."""
    missing = _missing_tables(opened)
    if missing:
        cure = "another program has changed the tables; restore a backup of the database, or name another --storage"
        yield findings.problem("schema", f"missing tables or columns: {wording.listed(missing)}", cure)
        return
    made_by = opened.read(lambda connection: connection.scalar(sqlalchemy.select(optuna_private.VERSION_INFO.c.library_version)))
    steps = opened.read(migrating.version)
    own = f"{len(migrating.METADATA.tables)} of tuner's (step {steps} of {migrating.HEAD})"
    found = f"tables of Optuna {made_by} ({opened.rdb.get_current_version()}) and {own}"
    if str(made_by).partition(".")[0] != optuna.__version__.partition(".")[0]:
        cure = "use the same version of Optuna on all machines that share the storage"
        yield findings.warning("schema", f"{found}; installed here: Optuna {optuna.__version__}", cure)
    else:
        yield findings.ok("schema", found)


def _missing_tables(opened: Storage) -> list[str]:
    """Return the tables and columns that should exist and do not."""
    seen = sqlalchemy.inspect(opened.engine)
    existing = {*seen.get_table_names()}
    missing = []
    for table in (*optuna_private.METADATA.sorted_tables, *migrating.METADATA.sorted_tables):
        if table.name in existing:
            columns = {found["name"] for found in seen.get_columns(table.name)}
            missing += [f"{table.name}.{column}" for column in sorted(set(table.columns.keys()) - columns)]
        else:
            missing.append(table.name)
    return missing


def latency(opened: Storage) -> Iterator[Finding]:
    """Measure the median time of a read and of a write."""
    read = _median_seconds(lambda: opened.read(_read_little))
    yield judge_latency(read, _median_seconds(lambda: opened.write(_write_nothing)))


def judge_latency(read_seconds: float, write_seconds: float) -> Finding:
    """Judge whether reads and writes are fast enough."""
    found = f"a read takes {_milliseconds(read_seconds)}, a write {_milliseconds(write_seconds)} (medians of {_SAMPLES})"
    if max(read_seconds, write_seconds) > _SLOW_SECONDS:
        return findings.warning("latency", found, "workers wait for the database; move it closer to them, or to a faster disk")
    return findings.ok("latency", found)


def clock(opened: Storage) -> Iterator[Finding]:
    """Measure the difference between the database's clock and this machine's."""

    def ask(connection: Connection) -> float:
        connection.execute(sqlalchemy.select(1))
        before = time.time()
        database_time = tables.clock(connection)
        return database_time - (before + time.time()) / 2

    yield judge_clock(opened.read(ask))


def judge_clock(ahead_seconds: float) -> Finding:
    """Judge the difference of the clocks; `ahead_seconds` is positive if the database's is ahead."""
    found = f"the database's clock is {abs(ahead_seconds):.2f} s {'ahead of' if ahead_seconds > 0 else 'behind'} this machine's"
    if abs(ahead_seconds) > _MAX_SKEW_SECONDS:
        cure = "synchronize both with NTP: leases use the database's clock, and dates of trials use each machine's"
        return findings.warning("clock", found, cure)
    return findings.ok("clock", found)


def connections(opened: Storage) -> Iterator[Finding]:
    """Check how many connections a PostgreSQL server has left for workers; other databases give no finding."""
    if opened.engine.dialect.name != "postgresql":
        return

    def ask(connection: Connection) -> tuple[int, int, int]:
        allowed = "current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
        used = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        row = connection.execute(sqlalchemy.text(f"SELECT ({used}), {allowed}")).one()
        return int(row[0]), int(row[1]), leases.count_workers(connection)

    yield judge_connections(*opened.read(ask))


def judge_connections(num_used: int, num_allowed: int, num_workers: int) -> Finding:
    """Judge whether the connections are sufficient for the workers that hold trials, and for more."""
    left = max(0, num_allowed - num_used)
    more = wording.count(left // _CONNECTIONS_PER_WORKER, "more worker")
    found = f"{num_used} of {num_allowed} in use, {wording.count(num_workers, 'running worker')}; enough for about {more}"
    if left < _MIN_FREE_CONNECTIONS or num_workers * _CONNECTIONS_PER_WORKER > num_allowed:
        cure = "raise max_connections of the server, use a connection pool such as PgBouncer, or close other connections"
        return findings.warning("connections", f"{found}; each uses up to {_CONNECTIONS_PER_WORKER}", cure)
    return findings.ok("connections", found)


def disk(url: str) -> Iterator[Finding]:
    """Check that an SQLite file is on a local disk with free space."""
    path = file_of(url)
    if path is None:
        return
    kind = hardware.kind(path)
    if hardware.is_network(kind):
        cure = "move it to a local disk, or use PostgreSQL: SQLite's locks are not reliable there"
        yield findings.problem("storage disk", f"{path} is on a network file system ({kind})", cure)
    yield hardware.space("storage disk", path)


def file_of(url: str) -> Path | None:
    """Return the file of an SQLite URL, or None for another database or one in memory."""
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        return None
    if address.get_backend_name() != "sqlite" or not address.database or address.database == ":memory:":
        return None
    return Path(address.database.removeprefix("file:"))


def _read_little(connection: Connection) -> None:
    connection.execute(sqlalchemy.select(tables.STUDIES.c.study_id).limit(1)).all()


def _write_nothing(connection: Connection) -> None:
    """Commit a transaction that leaves no rows."""
    number = secrets.randbelow(2**31)
    connection.execute(sqlalchemy.insert(tables.EPOCHS).values(study_id=_NO_STUDY, trial_number=number, step=0, stage="doctor"))
    is_it = (tables.EPOCHS.c.study_id == _NO_STUDY, tables.EPOCHS.c.trial_number == number)
    connection.execute(sqlalchemy.delete(tables.EPOCHS).where(*is_it))


def _median_seconds(work: Callable[[], None]) -> float:
    seconds = []
    for _ in range(_SAMPLES):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _is_standby(url: str) -> bool:
    """Return whether a URL names a PostgreSQL server that answers and is a standby."""
    try:
        address = make_url(url)
        if address.get_backend_name() != "postgresql":
            return False
        engine = sqlalchemy.create_engine(address, connect_args={"connect_timeout": _CONNECT_SECONDS})
    except (ArgumentError, ValueError, SQLAlchemyError, ImportError):
        return False
    try:
        with engine.connect() as connection:
            return bool(connection.scalar(sqlalchemy.text("SELECT pg_is_in_recovery()")))
    except SQLAlchemyError:
        return False
    finally:
        engine.dispose()
