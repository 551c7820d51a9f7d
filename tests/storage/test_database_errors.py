"""Which database errors are transient."""

import sqlite3
from typing import Any

import psycopg
import pytest
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, OperationalError

from tuner.storage import database_errors


def wrapped(error: Exception, statement: str = "SELECT 1", parameters: Any = ()) -> DBAPIError:
    """Return the error of a driver as SQLAlchemy raises it."""
    return OperationalError(statement, parameters, error)


@pytest.mark.parametrize(
    "error",
    [
        # PostgreSQL: errors of the server by SQLSTATE
        psycopg.errors.AdminShutdown("terminating connection due to administrator command"),
        psycopg.errors.CrashShutdown("terminating connection because of crash of another server process"),
        psycopg.errors.CannotConnectNow("the database system is starting up"),
        psycopg.errors.IdleSessionTimeout("terminating connection due to idle-session timeout"),
        psycopg.errors.IdleInTransactionSessionTimeout("terminating connection due to idle-in-transaction timeout"),
        psycopg.errors.TooManyConnections("sorry, too many clients already"),
        psycopg.errors.SerializationFailure("could not serialize access due to concurrent update"),
        psycopg.errors.DeadlockDetected("deadlock detected"),
        psycopg.errors.LockNotAvailable("canceling statement due to lock timeout"),
        psycopg.errors.QueryCanceled("canceling statement due to statement timeout"),
        psycopg.errors.StatementCompletionUnknown("who knows"),
        psycopg.errors.ConnectionFailure("any"),
        # errors of libpq, which have no SQLSTATE
        psycopg.OperationalError("consuming input failed: server closed the connection unexpectedly"),
        psycopg.OperationalError("consuming input failed: SSL connection has been closed unexpectedly"),
        psycopg.OperationalError("consuming input failed: could not receive data from server: Connection timed out"),
        psycopg.OperationalError("sending query failed: another command is already in progress"),
        psycopg.OperationalError("SSL SYSCALL error: EOF detected"),
        psycopg.OperationalError("the connection is lost"),
        psycopg.OperationalError("the connection is closed"),
        psycopg.OperationalError("connection socket closed"),
        psycopg.OperationalError('connection to server at "db", port 5432 failed: Connection refused'),
        psycopg.OperationalError('connection to server at "db", port 5432 failed: No route to host'),
        psycopg.OperationalError("connection to server failed: FATAL:  the database system is in recovery mode"),
        psycopg.OperationalError("[Errno -3] Temporary failure in name resolution"),
        psycopg.errors.ConnectionTimeout("connection timeout expired"),
        # MySQL: errors by number
        *(Exception(number, "words in any language") for number in (1053, 1205, 1213, 1684, 1927, 2002, 2003, 2006, 2013, 2055, 4031)),
        # SQLite: another process writes
        sqlite3.OperationalError("database is locked"),
        sqlite3.OperationalError("database table is locked: trials"),
    ],
    ids=lambda error: f"{type(error).__name__}-{error}"[:60],
)
def test_a_transient_database_error_is_retried(error: Exception) -> None:
    assert database_errors.is_transient(wrapped(error))
    by_optuna = StorageInternalError("An exception is raised during the commit.")
    by_optuna.__cause__ = wrapped(error)
    assert database_errors.is_transient(by_optuna)


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.UndefinedTable('relation "trials" does not exist'),
        psycopg.errors.InvalidPassword('password authentication failed for user "me"'),
        psycopg.errors.InsufficientPrivilege("permission denied for table trials"),
        psycopg.errors.DiskFull("could not extend file: No space left on device"),
        psycopg.errors.UniqueViolation("duplicate key value violates unique constraint"),
        Exception(1045, "Access denied for user"),
        Exception(1146, "Table 'tuner.trials' doesn't exist"),
        # a retry does not help against a failing disk or file system
        sqlite3.OperationalError("disk I/O error"),
        sqlite3.OperationalError("database or disk is full"),
        sqlite3.OperationalError("attempt to write a readonly database"),
        sqlite3.OperationalError("unable to open database file"),
        sqlite3.DatabaseError("database disk image is malformed"),
    ],
    ids=lambda error: f"{type(error).__name__}-{error}"[:60],
)
def test_a_permanent_database_error_is_not_retried(error: Exception) -> None:
    assert not database_errors.is_transient(wrapped(error))


def test_words_in_written_values_are_not_mistaken_for_the_databases_message() -> None:
    message = "the training process crashed: connection refused, deadlock, timed out"
    error = wrapped(sqlite3.OperationalError("no such table: trials"), "INSERT INTO trials VALUES (?)", (message,))
    assert not database_errors.is_transient(error)


def test_an_exhausted_pool_of_connections_is_retried() -> None:
    error = sqlalchemy.exc.TimeoutError("QueuePool limit of size 2 overflow 14 reached, connection timed out, timeout 30.00")
    assert database_errors.is_transient(error)
