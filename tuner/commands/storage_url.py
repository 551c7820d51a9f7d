"""Where things are kept unless someone says otherwise; nothing is imported for it, so that the command line answers at once.

What the command line, the environment and secret files say of the database, into its URL.
"""

import os
from pathlib import Path

from tuner.errors import RequestError

STORAGE = "sqlite:///tuner.db"
ARTIFACTS = "tuner-artifacts"


URL = "TUNER_STORAGE"
#: a file that holds the URL, as Kubernetes mounts a secret
URL_FILE = "TUNER_STORAGE_FILE"
#: a file that holds the password of the URL's user, as Docker mounts a secret
PASSWORD_FILE = "TUNER_STORAGE_PASSWORD_FILE"


def url(given: str | None) -> str:
    """The URL given, else the environment's, else the one in the environment's file, else a file in the current folder.

    A URL with a user and without a password gets the one of the password file.

    Raises:
        RequestError: a file cannot be read, or is empty.
    """
    found = given if given is not None else os.environ.get(URL)
    if not found:
        found = (_read(URL_FILE) if os.environ.get(URL_FILE) else None) or STORAGE
    return _with_password(found) if os.environ.get(PASSWORD_FILE) else found


def _with_password(given: str) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        address = make_url(given)
    except (ArgumentError, ValueError):
        return given  # what is wrong with it is said where it is opened
    if not address.username or address.password:
        return given
    return address.set(password=_read(PASSWORD_FILE)).render_as_string(hide_password=False)


def _read(variable: str) -> str:
    path = Path(os.environ[variable]).expanduser()
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise RequestError(f"{variable} is {path}, which cannot be read: {reason}; name a file that this user may read.") from error
    if not text:
        raise RequestError(f"{variable} is {path}, which is empty; expected one line.")
    return text
