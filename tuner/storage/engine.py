"""Storage: an open database with the tables of Optuna and of tuner."""

import math
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import optuna
import psycopg
import sqlalchemy
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, InvalidatePoolError, NoSuchModuleError, SQLAlchemyError

from tuner.errors import MissingPackage, StorageError
from tuner.storage import database_errors, migrating, optuna_private, retry, tables
from tuner.storage.retry import Schedule

#: in what SQLAlchemy knows of a connection: whether a pool between tuner and the server passes the transactions on
_IS_POOLED = "tuner is pooled"
#: how long a statement may take, in seconds; longer than any wait for a lock that other workers hold
ANSWER_SECONDS = 30.0


class BoundedConnection(psycopg.Connection[Any]):
    """A PostgreSQL connection on which no statement takes longer than its limit. A connection that reaches it is closed.

    A proxy, a load balancer or a server that hangs acknowledges every packet and never answers. No setting of libpq or of the server ends
    such a wait (docs/reliability.md shows the measurement), so this class passes a timeout to psycopg's own wait.
    """

    answer_seconds = ANSWER_SECONDS

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait for an answer as psycopg does, with a limit if the caller sets none."""
        try:
            return super().wait(gen, interval, self.answer_seconds if timeout is None else timeout)
        except psycopg.errors._WaitTimeout as error:
            if timeout is not None:
                raise
            self.pgconn.finish()
            raise psycopg.OperationalError(f"the server took longer than {self.answer_seconds:.0f} s to answer: timed out") from error


def bound_waits(engine: Engine) -> None:
    """Make an engine open bounded connections. `tcp_user_timeout` in the URL, in milliseconds, changes the limit.

    A pool such as PgBouncer gives the sessions of the server to other clients, so there a setting must end with its transaction. It has
    another process id than the server.
    """
    given = engine.url.query.get("tcp_user_timeout")
    seconds = ANSWER_SECONDS if given is None else int(str(given)) / 1000
    # a worker that loses its network inside a transaction must not lock out the others
    limit = f"SET idle_in_transaction_session_timeout = {int(1000 * seconds)}"

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: Any, arguments: Any, parameters: Any) -> BoundedConnection:
        connection: BoundedConnection = BoundedConnection.connect(*arguments, **parameters)
        connection.answer_seconds = seconds
        (pid,) = connection.execute("SELECT pg_backend_pid()").fetchone() or (None,)
        record.info[_IS_POOLED] = pid != connection.info.backend_pid
        if not record.info[_IS_POOLED]:
            connection.execute(limit.encode())
        connection.commit()
        return connection

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.info.get(_IS_POOLED):
            connection.exec_driver_sql(limit.replace("SET", "SET LOCAL"))

    engine.dispose()  # the connections made so far are not bounded


T = TypeVar("T")

#: how long SQLite waits for another process to finish its transaction, in seconds
_SQLITE_PATIENCE_SECONDS = 60.0
_RETRY_SECONDS = 5.0
#: how to retry creating the tables while other processes do the same. One try, which waits for another process's lock on an SQLite file,
#: may take all of the time, so some tries are made in any case
_CREATION = Schedule(seconds=20.0, pauses=(0.05, 0.2), least_tries=20)
_CONNECT_SECONDS = 10
#: how long a connection may hang before it counts as lost; nothing else ends a connection whose packets are dropped
_SILENCE_SECONDS = 30
#: settings of libpq; they apply to connections over a network, not to a local socket
_KEEP_ALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4, "tcp_user_timeout": 1000 * _SILENCE_SECONDS}
#: names of psycopg 3 in a URL
_PSYCOPG = ("postgresql", "postgresql+psycopg")
#: no prepared statements: PgBouncer runs the next transaction on another connection, where they do not exist
_UNPREPARED: dict[str, Any] = {"prepare_threshold": None}
#: longer than MySQL waits for a lock
_MYSQL_SILENCE_SECONDS = 60
#: a worker needs two connections, one of them for its heartbeat; the dashboard's threads open more for a short time
_POOL: dict[str, Any] = {"pool_size": 2, "max_overflow": 14, "pool_recycle": 1800}
#: a connection that was idle for longer is checked before it is used; a check takes as long as a statement
_IDLE_SECONDS = 2.0
#: how SQLite begins a transaction: a deferred one that reads first and writes later fails at once (SQLITE_BUSY_SNAPSHOT)
_SQLITE_BEGIN = ContextVar("_SQLITE_BEGIN", default="BEGIN IMMEDIATE")
#: two names of one kind of database
_KINDS = {"mariadb": "mysql"}
_DRIVERS = {"mysql": "mysql+pymysql", "mariadb": "mariadb+pymysql"}


@dataclass
class _Contact:
    """What interrupted the contact of this process with a database."""

    #: time of the last failed access, on the monotonic clock
    lost_at: float = -math.inf
    #: returns the seconds since this process last woke up; infinite if it never slept
    awake_seconds: Callable[[], float] = lambda: math.inf


@dataclass(frozen=True, kw_only=True)
class Storage:
    """An open database with the tables of Optuna and of tuner."""

    #: the SQLAlchemy URL with its password; use `shown` for messages
    url: str = field(repr=False)
    #: Optuna's own storage on this database
    rdb: RDBStorage = field(repr=False)
    #: the same with a cache of finished trials, for Optuna's studies
    cached: BaseStorage = field(repr=False)
    #: how long to retry after transient errors
    retry_seconds: float = _RETRY_SECONDS
    _contact: _Contact = field(default_factory=_Contact, repr=False)

    @property
    def engine(self) -> Engine:
        """The connections, shared with Optuna."""
        return self.rdb.engine

    def within(self, seconds: float) -> "Storage":
        """Return the same storage with another `retry_seconds`."""
        return replace(self, retry_seconds=seconds)

    def steady_seconds(self) -> float:
        """Return the seconds since this process last failed to reach the database, or woke up; infinite if it never did."""
        return min(time.monotonic() - self._contact.lost_at, self._contact.awake_seconds())

    def heed_sleep(self, awake_seconds: Callable[[], float]) -> None:
        """Let `steady_seconds` take sleep into account; `awake_seconds` returns the seconds since this process last woke up."""
        self._contact.awake_seconds = awake_seconds

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def write(self, work: Callable[[Connection], T]) -> T:
        """Return the result of `work` in one transaction. It is retried on transient errors, so `work` must be safe to repeat."""
        return self.call(lambda: self.transact(work))

    def read(self, work: Callable[[Connection], T]) -> T:
        """Return the result of read-only `work`, with retries as in `write`. On SQLite it does not wait for writers."""
        return self.call(lambda: self.read_once(work))

    def read_once(self, work: Callable[[Connection], T]) -> T:
        """Return the result of read-only `work`, without a retry: for work inside of `call`."""
        return self.transact(work, sqlite_begin="BEGIN DEFERRED")

    def read_snapshot(self, work: Callable[[Connection], T]) -> T:
        """Return the result of read-only `work` that sees one moment of the database in all of its statements, without a retry."""
        if self.engine.dialect.name == "sqlite":
            return self.read_once(work)
        return self.transact(work, isolation_level="REPEATABLE READ")

    def call(self, work: Callable[[], T]) -> T:
        """Return the result of `work`, which opens its own connections. Retry it on transient errors.

        Raises:
            StorageError: the database failed; the message says why.
        """
        try:
            return retry.call(
                work, may_pass=database_errors.is_transient, schedule=Schedule(seconds=self.retry_seconds, pauses=(0.05, 1.0))
            )
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            if database_errors.is_transient(error):
                self._contact.lost_at = time.monotonic()
            raise StorageError(database_errors.explain(error, make_url(self.url))) from error

    def transact(self, work: Callable[[Connection], T], **options: Any) -> T:
        """Return the result of `work` in one transaction, without a retry; raise the errors of SQLAlchemy."""
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            return work(connection)


def open(url: str, *, sqlite_seconds: float = _SQLITE_PATIENCE_SECONDS, creation: Schedule = _CREATION) -> Storage:  # noqa: A001
    """Open the storage at a SQLAlchemy URL. Missing tables are created, even if many processes open it at once.

    `sqlite_seconds` limits how long SQLite waits for another process, and `creation` the attempts to create the tables.

    Raises:
        StorageError: the database cannot be reached, written or read.
        MissingPackage: the driver of this database is not installed.
    """
    address = _parse(url)
    # warnings of Optuna do not help users of tuner
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rdb = _connect(address, sqlite_seconds, creation)
    if address.get_backend_name() == "sqlite":
        _tune_sqlite(rdb.engine)
    if address.get_backend_name() == "postgresql" and rdb.engine.dialect.driver == "psycopg":
        bound_waits(rdb.engine)
    storage = Storage(url=url, rdb=rdb, cached=optuna.storages.get_storage(rdb))
    try:
        if not storage.read(migrating.is_up_to_date):
            storage.write(migrating.bring_up_to_date)
        storage.write(_try_to_write)
    except StorageError:
        storage.close()
        raise
    return storage


def holds(url: str, table: str) -> bool:
    """Return whether the database at a URL has a table, without creating anything.

    Raises:
        StorageError: the database cannot be reached or read.
        MissingPackage: the driver of this database is not installed.
    """
    address = _parse(url)
    try:
        engine = sqlalchemy.create_engine(address, **_engine_options(address))
    except (NoSuchModuleError, ImportError) as error:
        raise _missing_driver(address) from error
    try:
        return sqlalchemy.inspect(engine).has_table(table)
    except SQLAlchemyError as error:
        raise StorageError(database_errors.explain(error, address)) from error
    finally:
        engine.dispose()


def is_same(one: Storage, other: Storage) -> bool:
    """Return whether two storages are one database, whatever their URLs say: hosts have several names, and files several paths."""
    kinds = {_KINDS.get(storage.engine.dialect.name, storage.engine.dialect.name) for storage in (one, other)}
    if len(kinds) == 2:
        return False
    if kinds == {"sqlite"}:
        return one.read(_sqlite_file).samefile(other.read(_sqlite_file))
    name = secrets.token_hex(8)

    def read(first: Connection) -> bool:
        _takes_lock(first, name)
        return other.read(lambda second: not _takes_lock(second, name))

    return one.read(read)


def _sqlite_file(connection: Connection) -> Path:
    return Path(connection.exec_driver_sql("SELECT file FROM pragma_database_list WHERE name = 'main'").scalar_one())


def _takes_lock(connection: Connection, name: str) -> bool:
    """Take a lock that only one connection of a database (on PostgreSQL: of a schema) can have, until its transaction or session ends."""
    if connection.dialect.name == "postgresql":
        query = "SELECT pg_try_advisory_xact_lock(hashtext(:name), hashtext(current_schema()))"
        return bool(connection.execute(sqlalchemy.text(query), {"name": name}).scalar())
    query = "SELECT GET_LOCK(CONCAT(:name, LEFT(SHA2(DATABASE(), 256), 32)), 0)"
    is_taken = bool(connection.execute(sqlalchemy.text(query), {"name": name}).scalar())
    connection.detach()  # it keeps the lock until it is closed, so it must not go back into the pool
    return is_taken


def _try_to_write(connection: Connection) -> None:
    """Run a write that changes nothing; a read-only database refuses it."""
    connection.execute(sqlalchemy.delete(tables.LEASES).where(sqlalchemy.false()))


@contextmanager
def only_reading() -> Iterator[None]:
    """Return a context in which reads through Optuna neither wait for writers of an SQLite file nor block them."""
    token = _SQLITE_BEGIN.set("BEGIN DEFERRED")
    try:
        yield
    finally:
        _SQLITE_BEGIN.reset(token)


def shown(url: str) -> str:
    """Return a URL without its password, for messages."""
    try:
        return database_errors.shown(make_url(url))
    except (ArgumentError, ValueError):
        return database_errors.blotted(url)


def _parse(url: str) -> URL:
    try:
        address = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise StorageError(
            f"{shown(url)} is not a database URL; expected for example sqlite:///tuner.db or postgresql://user:password@host/database"
        ) from error
    if database_errors.has_stray_at(address):
        raise StorageError(f"{shown(url)} has an @ in its user or password, which must be written as %40")
    backend = address.get_backend_name()
    if backend == "postgres":
        raise StorageError(f"{shown(url)} starts with postgres://; write postgresql:// instead")
    if backend == "sqlite" and address.host:
        path = f"{address.host}/{address.database or ''}".rstrip("/")
        raise StorageError(
            f"{shown(url)} has two slashes, so {address.host} is read as a host; write sqlite:///{path} for a file in the current folder, "
            f"or sqlite:////{path} for /{path}"
        )
    if backend == "sqlite" and address.database in (None, "", ":memory:"):
        raise StorageError(f"{shown(url)} is a database in memory, which no other process can see; name a file: sqlite:///tuner.db")
    if backend in ("mysql", "mariadb") and not address.database:
        raise StorageError(f"{shown(url)} names no database; write mysql://user:password@host/database")
    return address.set(drivername=_DRIVERS.get(address.drivername, address.drivername))


def _connect(address: URL, sqlite_seconds: float, creation: Schedule) -> RDBStorage:
    """Open Optuna's storage and create its tables; retry if other processes create them at the same time."""
    try:
        return retry.call(lambda: _create(address, _engine_options(address, sqlite_seconds)), may_pass=_is_creation_race, schedule=creation)
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise StorageError(database_errors.explain(error, address)) from error


def _is_creation_race(error: BaseException) -> bool:
    is_of_database = isinstance(error, SQLAlchemyError | optuna.exceptions.StorageInternalError)
    return is_of_database and database_errors.is_creation_race(error)


def _create(address: URL, options: dict[str, Any]) -> RDBStorage:
    # Optuna uses the URL as a template, so a brace in a password must be doubled
    template = address.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    try:
        is_up_to_date = _create_tables(sqlalchemy.create_engine(address, **options))
        rdb = optuna_private.TolerantStorage(
            template, engine_kwargs=options, skip_table_creation=True, skip_compatibility_check=is_up_to_date
        )
        if address.get_backend_name() != "sqlite":
            _check_idle_connections(rdb.engine)
    except (NoSuchModuleError, ImportError) as error:
        raise _missing_driver(address) from error
    except TypeError as error:  # the driver does not know an option of the URL
        raise StorageError(
            f"{database_errors.shown(address)} has options that its driver does not accept: {error}. Correct the options after the ?"
        ) from error
    except RuntimeError as error:
        cure = "Or choose another --storage."
        raise StorageError(
            f"{database_errors.shown(address)} was created by another version of Optuna than {optuna.__version__}: {error} {cure}"
        ) from error
    return rdb


def _create_tables(engine: Engine) -> bool:
    """Create the missing tables of Optuna, and return `optuna_private.is_up_to_date`. Leave no connection open, even after an error."""
    try:
        optuna_private.METADATA.create_all(engine)
        with engine.begin() as connection:
            optuna_private.stamp(connection)
            return optuna_private.is_up_to_date(connection)
    finally:
        engine.dispose()


def _engine_options(address: URL, sqlite_seconds: float = _SQLITE_PATIENCE_SECONDS) -> dict[str, Any]:
    match address.get_backend_name():
        case "sqlite":
            return {"connect_args": {"timeout": sqlite_seconds}}
        case "postgresql":
            options = {"connect_timeout": _CONNECT_SECONDS, "application_name": "tuner", **_KEEP_ALIVE}
            if address.drivername in _PSYCOPG:
                options |= _UNPREPARED
            return _POOL | {"connect_args": _unless_given(address, **options)}
        case "mysql" | "mariadb":
            silence = {"read_timeout": _MYSQL_SILENCE_SECONDS, "write_timeout": _MYSQL_SILENCE_SECONDS}
            options = _unless_given(address, connect_timeout=_CONNECT_SECONDS, **silence)
            return _POOL | {"isolation_level": "READ COMMITTED", "connect_args": options}
        case _:
            return {}


def _unless_given(address: URL, **options: Any) -> dict[str, Any]:
    """Return options of a driver without those that the URL sets."""
    return {name: value for name, value in options.items() if name not in address.query}


def _missing_driver(address: URL) -> Exception:
    if address.drivername in _DRIVERS.values():
        return MissingPackage("pymysql", extra="mysql", needed_for=f"the storage {database_errors.shown(address)}")
    return StorageError(
        f"{database_errors.shown(address)} names the database driver {address.drivername}, which is unknown or not installed; "
        "expected sqlite, postgresql or mysql"
    )


def _check_idle_connections(engine: Engine) -> None:
    """Check a connection before it is used if it was idle, and replace all of them if the server has closed it.

    SQLAlchemy's `pool_pre_ping` checks before each transaction, and a worker has several in a row.
    """

    @event.listens_for(engine, "checkin")
    def note(connection: Any, record: Any) -> None:
        record.info["used_at"] = _clocks()

    @event.listens_for(engine, "checkout")
    def check(connection: Any, record: Any, proxy: Any) -> None:
        used_at = record.info.get("used_at")
        if used_at is None or max(now - then for now, then in zip(_clocks(), used_at, strict=True)) < _IDLE_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error


def _clocks() -> tuple[float, float]:
    """Return the time on the monotonic clock, which stands still while the machine sleeps, and on the clock that may be set."""
    return time.monotonic(), time.time()


def _tune_sqlite(engine: Engine) -> None:
    """Let many processes share one file: readers run beside a writer (WAL), and writers wait for each other at their first statement.

    See https://docs.sqlalchemy.org/en/21/dialects/sqlite.html#pysqlite-transactions and https://www.sqlite.org/wal.html.
    """

    @event.listens_for(engine, "connect")
    def configure(connection: Any, record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", _SQLITE_BEGIN.get()))

    engine.dispose()  # the connections made so far are not configured
