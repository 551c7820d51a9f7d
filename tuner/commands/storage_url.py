"""Storage URL: which database a command uses, by its option, the environment and secret files.

Nothing heavy is imported here, so that the command line answers at once.
"""

import os
import re
from pathlib import Path

from tuner import machine
from tuner.errors import RequestError

DEFAULT = "sqlite:///tuner.db"

URL = "TUNER_STORAGE"
#: path of a database in memory
_IN_MEMORY = ":memory:"
#: a file with the URL, as Kubernetes mounts a secret
URL_FILE = "TUNER_STORAGE_FILE"
#: a file with the password of the URL's user, as Docker mounts a secret
PASSWORD_FILE = "TUNER_STORAGE_PASSWORD_FILE"


#: other names of databases in URLs
_SCHEMES = {"postgres": "postgresql", "pgsql": "postgresql", "postgis": "postgresql", "mysql2": "mysql", "sqlite3": "sqlite"}
#: schemes of addresses that people give by mistake
_NO_DATABASES = ("s3", "s3a", "s3n", "gs", "gcs", "az", "abfs", "http", "https", "redis", "rediss", "mongodb")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+_-]+")
#: endings of SQLite files
_SUFFIXES = (".db", ".db3", ".sqlite", ".sqlite3", ".s3db", ".sl3")


def url(given: str | Path | None) -> str:
    """Return the given URL, else the environment's, else the one in the environment's file, else a file in the current folder.

    A URL with a user and without a password gets the password of the password file.

    Raises:
        RequestError: a file cannot be read, or is empty; or the text has several readings.
    """
    found = str(given) if given is not None else os.environ.get(URL)
    if not found:
        found = (_read(URL_FILE) if os.environ.get(URL_FILE) else None) or DEFAULT
    found = understood(found)
    return _with_password(found) if os.environ.get(PASSWORD_FILE) else found


def understood(given: str) -> str:
    """Return the SQLAlchemy URL of a database, for the place as people write it: `tuner.db`, `sqlite:tuner.db`, `postgres://host/db`.

    A text with no reading comes back as it is; opening the storage refuses it.

    Raises:
        RequestError: it has several readings, or none on this system; the message shows the right spelling.
    """
    text = given.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":  # Docker and systemd keep the quotes of some files
        text = text[1:-1]
    if (linux := machine.without_windows(text)) is not None:
        raise RequestError(_windows(text, linux))
    scheme, colon, rest = text.removeprefix("jdbc:").partition(":")
    if not colon or not _SCHEME.fullmatch(scheme):
        return _of_path(text)
    name, plus, driver = scheme.lower().partition("+")
    name = _SCHEMES.get(name, name)
    if name in _NO_DATABASES:
        raise RequestError(
            f"the storage is an address of {name}, which is no database; expected for example sqlite:///tuner.db or "
            "postgresql://user:password@host/database. A bucket is for artifacts: --artifacts s3://BUCKET/PREFIX"
        )
    if name == "file":
        return _of_file_url(rest, text)
    if name == "sqlite":
        return _of_sqlite(f"sqlite{plus}{driver}", rest, text)
    return f"{name}{plus}{driver}:{rest}"


def _of_file_url(rest: str, given: str) -> str:
    """Return the URL of an SQLite file, for a `file:` URL after its scheme; its options are those of SQLite."""
    if rest.startswith(_IN_MEMORY):  # it is refused where the storage is opened
        return f"sqlite:///{_IN_MEMORY}"
    if "?" in rest:
        return f"sqlite:///file:{rest}&uri=true"
    num_slashes = len(rest) - len(rest.lstrip("/"))
    return _of_sqlite("sqlite", {1: f"///{rest}", 3: f"/{rest}"}.get(num_slashes, rest), given)


def _of_sqlite(scheme: str, rest: str, given: str) -> str:
    """Return the URL of an SQLite file, for the part of a URL after its scheme."""
    bare = rest.lstrip("/")
    num_slashes = len(rest) - len(bare)
    path, question, query = bare.partition("?")
    if path in ("", _IN_MEMORY) or path.startswith("file:"):
        return f"{scheme}:{rest}"
    linux = machine.without_windows(path) or (path.replace("\\", "/") if "\\" in path else None)
    if linux is not None:
        raise RequestError(_windows(given, linux))
    if num_slashes == 1 or (num_slashes == 2 and "/" in path and not path.startswith(("~", "./", "../"))):
        raise RequestError(
            f"the storage {given} can be read in two ways; write {scheme}:////{path} for the file /{path}, "
            f"or {scheme}:///{path} for {path} in the current folder."
        )
    if num_slashes > 3:
        return f"{scheme}:{rest}"
    return f"{scheme}:///{_expanded(path, given)}{question}{query}"


def _of_path(given: str) -> str:
    """Return the URL of a path without a scheme, if its name or its content is that of an SQLite file."""
    if given == _IN_MEMORY:
        return f"sqlite:///{_IN_MEMORY}"
    if "\\" in given and "@" not in given:
        raise RequestError(_windows(given, given.replace("\\", "/")))
    path = Path(_expanded(given, given))
    if given and _is_folder(path):
        raise RequestError(f"the storage {given} is a folder; name a file in it: sqlite:///{path / 'tuner.db'}")
    if _is_journal(path):
        raise RequestError(
            f"the storage {given} is a journal file of Optuna, but tuner stores studies in an SQL database; expected for example "
            "sqlite:///tuner.db"
        )
    is_file = _is_sqlite(path) or ("@" not in given and "=" not in given and path.suffix.lower() in _SUFFIXES)
    return f"sqlite:///{path}" if is_file and "?" not in given else given


def _expanded(path: str, given: str) -> str:
    """Return a path with `~` and variables replaced, as a shell does where no quotes prevent it."""
    try:
        return str(Path(os.path.expandvars(path)).expanduser()) if path.startswith(("~", "$")) else path
    except RuntimeError as error:
        raise RequestError(
            f"the storage {given} names no user of this machine; write the whole path: sqlite:////home/…/tuner.db"
        ) from error


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # the text is longer than a path can be
        return False


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(16) == b"SQLite format 3\0"
    except (OSError, ValueError):
        return False


def _is_journal(path: Path) -> bool:
    """Return whether a file is one of Optuna's `JournalStorage`: a line of JSON for each operation."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(100).startswith(b'{"op_code"')
    except (OSError, ValueError):
        return False


def _windows(given: str, linux: str) -> str:
    return f"the storage {given} is a path of Windows, but tuner runs on Linux; write sqlite:///{linux}"


def missing(url: str) -> str:
    """Return `sqlite:///a.db does not exist` for a missing SQLite file, with the current folder and a file of that name above it."""
    from tuner.storage import engine as storages

    path = _file(url)
    if path is None or path.is_absolute():
        return f"{storages.shown(url)} does not exist."
    above = _above(path)
    there = f" There is one in a folder above: --storage sqlite:///{above}." if above else ""
    return f"{storages.shown(url)} does not exist in the current folder {Path.cwd()}.{there}"


def announcement(url: str) -> str:
    """Return a line that says that a new SQLite file is created, and where; "" if the database exists or is no such file."""
    path = _file(url)
    if path is None or exists(url):
        return ""
    above = _above(path)
    there = f" There is one in a folder above; to use it: --storage sqlite:///{above}" if above else ""
    return f"new database: {path.absolute()}{'.' if there else ''}{there}"


def _above(path: Path) -> Path | None:
    """Return the nearest file of a relative path in the folders above the current one."""
    return None if path.is_absolute() else next((found for folder in Path.cwd().parents if (found := folder / path).is_file()), None)


def exists(url: str) -> bool:
    """Return whether a storage may hold studies. A command that only reads must not create an SQLite file."""
    path = _file(url)
    return path is None or path.exists() or not path.absolute().parent.is_dir()


def _file(url: str) -> Path | None:
    """Return the file of an SQLite URL; None for other databases, and for URLs that are refused where the storage is opened."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        return None
    if address.get_backend_name() != "sqlite" or address.host or address.database in (None, "", _IN_MEMORY):
        return None
    return Path(str(address.database).removeprefix("file:"))


def _with_password(given: str) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        address = make_url(given)
    except (ArgumentError, ValueError):
        return given  # the error is raised where the storage is opened
    if not address.username or address.password:
        return given
    return address.set(password=_read(PASSWORD_FILE)).render_as_string(hide_password=False)


def _read(variable: str) -> str:
    path = Path(os.environ[variable]).expanduser()
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise RequestError(f"{variable} is {path}, which cannot be read: {reason}. Name a file that you may read.") from error
    if not text:
        raise RequestError(f"{variable} is {path}, which is empty; expected one line.")
    return text
