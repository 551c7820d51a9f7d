"""Database errors: whether to retry after one, and what to tell people about it."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, StatementError

#: SQLSTATEs after which to retry, in addition to class 08 (connection): idle in a transaction, serialization, unknown completion,
#: deadlock, too many connections, lock timeout, statement timeout, shut down, crash, starting up, idle for too long
_TRANSIENT_STATES = {"25P03", "40001", "40003", "40P01", "53300", "55P03", "57014", "57P01", "57P02", "57P03", "57P05"}
#: the same for MySQL: too many connections, shutting down, network errors, lock wait timeout, deadlock, a table that another process
#: changes, connection killed, no connection (socket, TCP), server gone, connection lost (in a query, elsewhere), idle for too long
_TRANSIENT_NUMBERS = {1040, 1053, 1158, 1159, 1160, 1161, 1205, 1213, 1684, 1927, 2002, 2003, 2006, 2013, 2055, 4031}
_LOCK_WORDS = ("database is locked", "database table is locked", "database schema has changed", "deadlock")
_OUTAGE_WORDS = (
    *("connection refused", "server closed the connection", "terminating connection", "is starting up", "is shutting down"),
    *("connection reset", "broken pipe", "connection already closed", "lost connection", "the connection is lost"),
    *("the connection is closed", "connection socket closed", "connection has been closed", "connection not open", "in recovery mode"),
    *("could not receive data", "could not send data", "consuming input failed", "sending query failed", "ssl syscall error"),
    *("timeout expired", "timed out", "no route to host", "network is unreachable", "temporary failure in name resolution"),
)
_SECRET_WORDS = ("password", "passwd", "pwd", "passphrase")
_RACE_WORDS = ("already exists", "duplicate", "unique constraint", "integrityerror", "is starting up")
#: words that a database's message contains, and what to do about the error
_CURES = (
    (("password authentication failed",), "the user or the password is wrong; check the URL"),
    (("access denied for user",), "the user or the password is wrong; check the URL"),
    (("no password supplied",), "the database asks for a password; write it into the URL: user:password@host"),
    (("role", "does not exist"), "the database does not know this user; check the URL"),
    (("database", "does not exist"), "there is no such database on this server; create it (createdb) or correct the URL"),
    (("unknown database",), "there is no such database on this server; create it or correct the URL"),
    (("connection refused",), "no server listens there; start the database, or correct host and port"),
    (("no such file or directory", "socket"), "no server listens there; start the database, or correct the URL"),
    (("name or service not known",), "the host is unknown; correct the URL"),
    (("failed to resolve host",), "the host is unknown; correct the URL"),
    (("could not translate host",), "the host is unknown; correct the URL"),
    (("temporary failure in name resolution",), "the host is unknown; correct the URL"),
    (("timeout expired",), "the server does not answer; check host, port and firewall"),
    (("timed out",), "the server does not answer; check host, port and firewall"),
    (("can't connect to mysql server",), "no server listens there; start the database, or correct host and port"),
    (("readonly database",), "it is read-only; allow this user to write the file and its folder, or choose another --storage"),
    (("read-only",), "it is read-only; allow this user to write, or choose another --storage"),
    (("command denied to user",), "this user may not write there; grant the permission, or choose another --storage"),
    (("statement pooling mode",), "PgBouncer allows no transactions here; set pool_mode = transaction in its settings"),
    (
        ("unsupported startup parameter",),
        "PgBouncer does not pass on the options of the URL; remove them, or set them for the user with ALTER ROLE … SET",
    ),
    (("permission denied",), "this user may not write there; grant the permission, or choose another --storage"),
    (("file is not a database",), "the file is not an SQLite database; choose another --storage"),
    (("file is encrypted",), "the file is not an SQLite database; choose another --storage"),
    (("malformed",), "the file is damaged; restore a backup, or choose another --storage"),
    (
        ("max_allowed_packet",),
        "a value is longer than the server accepts; raise max_allowed_packet of the server, for example to 64M",
    ),
    (("data too long for column",), "a value is longer than its column; name fewer or shorter classes, or use PostgreSQL"),
    (("disk is full",), "the disk is full; free some space and run again"),
    (("no space left",), "the disk is full; free some space and run again"),
    (("disk i/o error",), "the disk could not be read or written; check whether it is full or on a network"),
    (
        ("database is locked",),
        "another process locks it for too long; check which programs use it, or use PostgreSQL for many workers",
    ),
    (("no such column",), "another program created its tables; choose another --storage"),
    (("no such table",), "another program created its tables; choose another --storage"),
    (("column", "does not exist"), "another program created its tables; choose another --storage"),
)
#: start of the options in a URL
_OPTIONS = re.compile(r"[?=]")
#: start of a libpq connection string: host=… password=…
_CONNECTION_STRING = re.compile(r"\s*\w+\s*=")


def is_transient(error: BaseException) -> bool:
    """Return whether the same statement may succeed if it is retried."""
    return _is_passing(error) or any(words in _text(error) for words in _OUTAGE_WORDS)


def is_creation_race(error: BaseException) -> bool:
    """Return whether another process was creating the same tables, so that a retry finds them."""
    return _is_passing(error) or any(words in _text(error) for words in _RACE_WORDS)


def _is_passing(error: BaseException) -> bool:
    for cause in _causes(error):
        if isinstance(cause, DBAPIError) and cause.connection_invalidated:
            return True
        state = getattr(cause, "sqlstate", None)
        if state in _TRANSIENT_STATES or (state or "").startswith("08"):
            return True
        if isinstance(cause, DBAPIError) and cause.orig is not None and cause.orig.args[:1] and cause.orig.args[0] in _TRANSIENT_NUMBERS:
            return True
    return any(words in _text(error) for words in _LOCK_WORDS)


def explain(error: BaseException, address: URL) -> str:
    """Return one line that names the database, its problem, and what to do."""
    text = _text(error)
    if "unable to open database file" in text:
        cure = _unopened(address)
    else:
        cure = next((cure for words, cure in _CURES if all(word in text for word in words)), "")
    if not cure:
        cure = _without_password(_first_line(error), address)
    return f"the storage {shown(address)} cannot be used: {cure}"


def shown(address: URL) -> str:
    """Return a URL without its password."""
    hidden = dict.fromkeys(_secret_options(address), "hidden")
    text = (address.update_query_dict(hidden) if hidden else address).render_as_string(hide_password=True)
    return blotted(address.render_as_string(hide_password=False)) if has_stray_at(address) else text


def has_stray_at(address: URL) -> bool:
    """Return whether the host or the database of a URL contains an @, which may be part of an unescaped password."""
    return address.get_backend_name() != "sqlite" and "@" in f"{address.host}{address.database}"


def blotted(text: str) -> str:
    """Return the parts of an unreadable URL that cannot contain a password."""
    scheme, separator, rest = text.partition("://")
    start = f"{scheme}://" if separator else ""
    if "@" in text and not _CONNECTION_STRING.match(text):
        return f"{start}***@{_OPTIONS.split(unquote(text).rpartition('@')[2])[0]}"
    if _OPTIONS.search(text) or (":" in rest if separator else ":" in text and not text.lower().startswith("sqlite:")):
        return f"{start}***"
    return text


def _secret_options(address: URL) -> list[str]:
    """Return the options of a URL that may contain a password; `options` of PostgreSQL can set anything."""
    words = {name: f"{name} {value}".lower() for name, value in address.query.items()}
    return [name for name, text in words.items() if name.lower() == "options" or any(word in text for word in _SECRET_WORDS)]


def _unopened(address: URL) -> str:
    path = Path(str(address.database).removeprefix("file:"))
    if path.is_dir():
        return f"{path} is a folder; name a file in it"
    if not path.parent.is_dir() and not path.is_absolute() and Path("/", path).parent.is_dir():
        return f"the folder {path.parent} does not exist in the current folder; for the file /{path}, write four slashes: sqlite:////{path}"
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist; create it or correct the URL"
    return "the file cannot be opened; check that this user may read and write it and its folder"


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        original = getattr(cause, "orig", None)
        if isinstance(original, BaseException):
            yield original
        cause = cause.__cause__


def _text(error: BaseException) -> str:
    """Return the messages of an error and its causes.

    Of SQLAlchemy's own errors only the name counts: their messages quote the statement and its values.
    """
    texts = (f"{type(cause).__name__} {'' if isinstance(cause, StatementError) else cause}" for cause in _causes(error))
    return " ".join(texts).lower()


def _first_line(error: BaseException) -> str:
    last = list(_causes(error))[-1]
    lines = str(last).strip().splitlines()
    return lines[0] if lines else type(last).__name__


def _without_password(text: str, address: URL) -> str:
    secrets = [str(address.password or ""), *(str(address.query[name]) for name in _secret_options(address))]
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text
