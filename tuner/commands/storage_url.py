"""Storage URL: which database a command uses, by its option, the environment and secret files.

Nothing heavy is imported here, so that the command line answers at once.
"""

import os
from pathlib import Path

from tuner.errors import RequestError

DEFAULT = "sqlite:///tuner.db"

URL = "TUNER_STORAGE"
#: a file with the URL, as Kubernetes mounts a secret
URL_FILE = "TUNER_STORAGE_FILE"
#: a file with the password of the URL's user, as Docker mounts a secret
PASSWORD_FILE = "TUNER_STORAGE_PASSWORD_FILE"


def url(given: str | None) -> str:
    """Return the given URL, else the environment's, else the one in the environment's file, else a file in the current folder.

    A URL with a user and without a password gets the password of the password file.

    Raises:
        RequestError: a file cannot be read, or is empty.
    """
    found = given if given is not None else os.environ.get(URL)
    if not found:
        found = (_read(URL_FILE) if os.environ.get(URL_FILE) else None) or DEFAULT
    return _with_password(found) if os.environ.get(PASSWORD_FILE) else found


def exists(url: str) -> bool:
    """Return whether a storage may hold studies. A command that only reads must not create an SQLite file."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        return True  # the error is raised where the storage is opened
    if address.get_backend_name() != "sqlite" or address.database in (None, "", ":memory:"):
        return True
    path = Path(str(address.database).removeprefix("file:"))
    return path.exists() or not path.absolute().parent.is_dir()


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
