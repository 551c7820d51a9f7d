"""An SQLite file into who keeps it locked, how it writes, and whether its pages are whole.

An open storage into how well it serves: server, tables, latency, clock, connections, disk.
"""

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
from tuner.storage import migrating, tables
from tuner.storage.engine import Storage
from tuner.studies import leases

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


_SAMPLES = 10
#: a report an epoch and a claim a trial are some transactions of this length
_SLOW_SECONDS = 0.1
#: leases go by the database's clock; dates and the order of events by each machine's own
_SKEW_SECONDS = 5.0
#: what a worker holds of a server's connections, most of the time
_CONNECTIONS_A_WORKER = 2
_FEW_CONNECTIONS = 10
_CONNECT_SECONDS = 5
#: of no study: studies are counted from 1
_NO_STUDY = -1


def unusable(url: str, message: str) -> Finding:
    """What is said of a storage that could not be opened."""
    return explain(message, is_standby="read-only" in message and _is_standby(url))


def explain(message: str, *, is_standby: bool) -> Finding:
    """An error of the storage, which names its own cure but where the server is a copy of another one."""
    cure = "this server is a standby, which only reads; name its primary in --storage" if is_standby else ""
    return findings.problem("storage", message, cure)


def missing(url: str) -> Iterator[Finding]:
    """What is said of an SQLite file that is not there."""
    found = f"{storages.shown(url)} does not exist yet"
    yield findings.note("storage", found, "tuner run STUDY.yaml makes it; or name the one you mean with --storage")
    yield from disk(url)


def server(opened: Storage) -> Iterator[Finding]:
    """Which database it is, and how much it holds."""

    def count(connection: Connection) -> tuple[int, int]:
        studies, trials = (sqlalchemy.select(sqlalchemy.func.count()).select_from(table) for table in (tables.STUDIES, tables.TRIALS))
        return connection.execute(studies).scalar_one(), connection.execute(trials).scalar_one()

    num_studies, num_trials = opened.read(count)
    dialect = opened.engine.dialect
    version = ".".join(map(str, dialect.server_version_info or ()))
    name = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MySQL", "mariadb": "MariaDB"}.get(dialect.name, dialect.name)
    studies = f"{num_studies:,} {'study' if num_studies == 1 else 'studies'}"
    trials = f"{num_trials:,} trial{'' if num_trials == 1 else 's'}"
    yield findings.ok("storage", f"{storages.shown(opened.url)}: {name} {version}, {studies}, {trials}")


def schema(opened: Storage) -> Iterator[Finding]:
    """Whether the tables are those that this version knows, and which version of Optuna made them."""
    lacking = _lacking(opened)
    if lacking:
        cure = "another program made or dropped these tables; restore a copy of the database, or choose another --storage"
        yield findings.problem("schema", f"tables or columns are missing: {wording.listed(lacking)}", cure)
        return
    made_by = opened.read(lambda connection: connection.scalar(sqlalchemy.select(tables.OPTUNA.tables["version_info"].c.library_version)))
    steps = opened.read(migrating.version)
    own = f"{len(migrating.METADATA.tables)} of tuner's (step {steps} of {migrating.HEAD})"
    found = f"tables of Optuna {made_by} ({opened.rdb.get_current_version()}) and {own}"
    if str(made_by).partition(".")[0] != optuna.__version__.partition(".")[0]:
        cure = "use one version of Optuna on all machines that share the storage"
        yield findings.warning("schema", f"{found}; here is Optuna {optuna.__version__}", cure)
    else:
        yield findings.ok("schema", found)


def _lacking(opened: Storage) -> list[str]:
    """Tables and columns that should be there."""
    seen = sqlalchemy.inspect(opened.engine)
    there = {*seen.get_table_names()}
    lacking = []
    for table in (*tables.OPTUNA.sorted_tables, *migrating.METADATA.sorted_tables):
        if table.name in there:
            columns = {found["name"] for found in seen.get_columns(table.name)}
            lacking += [f"{table.name}.{column}" for column in sorted(set(table.columns.keys()) - columns)]
        else:
            lacking.append(table.name)
    return lacking


def latency(opened: Storage) -> Iterator[Finding]:
    """How long a read and a write take, by medians."""
    read = _median_seconds(lambda: opened.read(_read_little))
    yield judge_latency(read, _median_seconds(lambda: opened.write(_write_nothing)))


def judge_latency(read_seconds: float, write_seconds: float) -> Finding:
    """Whether that is quick enough."""
    found = f"a read takes {_milliseconds(read_seconds)}, a write {_milliseconds(write_seconds)} (medians of {_SAMPLES})"
    if max(read_seconds, write_seconds) > _SLOW_SECONDS:
        return findings.warning("latency", found, "workers wait for it; put the database nearer to them, or on a faster disk")
    return findings.ok("latency", found)


def clock(opened: Storage) -> Iterator[Finding]:
    """How far the database's clock is from this machine's."""

    def ask(connection: Connection) -> float:
        connection.execute(sqlalchemy.select(1))
        before = time.time()
        told = tables.clock(connection)
        return told - (before + time.time()) / 2

    yield judge_clock(opened.read(ask))


def judge_clock(ahead_seconds: float) -> Finding:
    """Whether the clocks agree; `ahead_seconds` is how far the database's is ahead."""
    found = f"the database's is {abs(ahead_seconds):.2f} s {'ahead of' if ahead_seconds > 0 else 'behind'} this machine's"
    if abs(ahead_seconds) > _SKEW_SECONDS:
        return findings.warning("clock", found, "set both by NTP; leases go by the database's clock, dates of trials by each machine's")
    return findings.ok("clock", found)


def connections(opened: Storage) -> Iterator[Finding]:
    """How many connections a PostgreSQL server has left for workers; of other databases nothing is said."""
    if opened.engine.dialect.name != "postgresql":
        return

    def ask(connection: Connection) -> tuple[int, int, int]:
        kept = "current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
        used = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        row = connection.execute(sqlalchemy.text(f"SELECT ({used}), {kept}")).one()
        return int(row[0]), int(row[1]), leases.count_workers(connection)

    yield judge_connections(*opened.read(ask))


def judge_connections(num_used: int, num_allowed: int, num_workers: int) -> Finding:
    """Whether there is room for the workers that hold trials, and for more."""
    left = max(0, num_allowed - num_used)
    found = (
        f"{num_used} of {num_allowed} in use, {num_workers} workers at work; room for about {left // _CONNECTIONS_A_WORKER} more workers"
    )
    if left < _FEW_CONNECTIONS or num_workers * _CONNECTIONS_A_WORKER > num_allowed:
        cure = "raise max_connections of the server, or put a pool such as PgBouncer before it, or end what else uses it"
        return findings.warning("connections", f"{found}; each keeps up to {_CONNECTIONS_A_WORKER}", cure)
    return findings.ok("connections", found)


def disk(url: str) -> Iterator[Finding]:
    """Of an SQLite file, whether it lies on this machine and has room to grow."""
    path = file_of(url)
    if path is None:
        return
    kind = hardware.kind(path)
    if hardware.is_network(kind):
        cure = "its locks do not hold there; move it to a local disk, or use PostgreSQL"
        yield findings.problem("storage disk", f"{path} lies on a network file system ({kind})", cure)
    yield hardware.space("storage disk", path)


def file_of(url: str) -> Path | None:
    """The file of an SQLite URL."""
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
    """A transaction that is written and leaves nothing."""
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
    """Whether a PostgreSQL server that can be reached is a copy of another one."""
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
