"""Accounts: the users file, with a role and a hash for each user and each token."""

import functools
import hashlib
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import argon2
import filelock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tuner.dashboard.auth.permissions import Identity, Role
from tuner.errors import RequestError

MIN_PASSWORD_LENGTH = 10
#: a limit, since hashing a very long password only uses time
MAX_PASSWORD_LENGTH = 1000
_NAME = re.compile(r"[\w.@+-]{1,64}")
_HASHER = argon2.PasswordHasher()
#: limits the hashes that are computed at the same time: each needs 64 MiB
_CONCURRENT_HASHES = threading.Semaphore(2)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Role
    #: seconds since the epoch
    added_at: float


class User(_Entry):
    """A user who signs in with a password or at an OpenID provider."""

    #: argon2id hash with its salt and cost; None: the user signs in at the provider only
    password: str | None = None


class Token(_Entry):
    """A token of a program."""

    #: a fast hash is enough, because the token is too long to guess
    sha256: str
    #: seconds since the epoch; None: it does not expire
    ends_at: float | None = None


class UsersFile(BaseModel):
    """Content of a users file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    users: dict[str, User] = Field(default_factory=dict)
    tokens: dict[str, Token] = Field(default_factory=dict)


class Accounts:
    """Users and tokens of a file, which commands can change at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cached: tuple[tuple[int, int, int] | None, UsersFile] = (None, UsersFile())

    def read(self) -> UsersFile:
        """Return the current content of the file; empty if the file does not exist.

        Raises:
            RequestError: the file cannot be read.
        """
        stamp = self._file_stamp()
        cached = self._cached
        if stamp is None:
            return UsersFile()
        if cached[0] != stamp:
            cached = self._cached = (stamp, read(self.path))
        return cached[1]

    def check_password(self, name: str, password: str) -> Identity | None:
        """Return the user's identity; None if the user or the password is wrong. Both cases take the same time."""
        user = self.read().users.get(name)
        known = (user and user.password) or _unknown_user_hash()
        with _CONCURRENT_HASHES:
            is_right = len(password) <= MAX_PASSWORD_LENGTH and _verify(known, password)
        return Identity(name=name, role=user.role) if user is not None and is_right else None

    def check_token(self, token: str) -> Identity | None:
        """Return the identity of a token; None if the token is unknown or has expired."""
        given = hash_token(token)
        for name, known in self.read().tokens.items():
            if secrets.compare_digest(known.sha256, given):
                is_expired = known.ends_at is not None and known.ends_at < time.time()
                return None if is_expired else Identity(name=name, role=known.role)
        return None

    def stamp(self, name: str) -> str | None:
        """Return a value that changes with the user's role or password; None if there is no such user."""
        user = self.read().users.get(name)
        return None if user is None else hashlib.sha256(f"{user.role}:{user.password}".encode()).hexdigest()[:16]

    def role(self, name: str) -> Role | None:
        """Return the role of a user; None if there is no such user."""
        user = self.read().users.get(name)
        return None if user is None else user.role

    def _file_stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(self.path, error.strerror or "no access") from error
        return (found.st_mtime_ns, found.st_size, found.st_ino)


def read(path: Path) -> UsersFile:
    """Read a users file; empty if the file does not exist.

    Raises:
        RequestError: the file cannot be read.
    """
    try:
        return UsersFile.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return UsersFile()
    except OSError as error:
        raise _unreadable(path, error.strerror or "no access") from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise _unreadable(path, "`tuner dashboard users` did not write it") from error


def default_path() -> Path:
    """Return the users file in TUNER_USERS, or the default one of this machine."""
    given = os.environ.get("TUNER_USERS")
    if given:
        return Path(given).expanduser()
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "tuner" / "users.json"


def add_user(path: Path, name: str, role: Role, password: str | None) -> None:
    """Add a user. A user without a password signs in only at an OpenID provider that has verified the name as an e-mail address.

    Raises:
        RequestError: the name or the password is invalid, or the user exists.
    """
    check_name(name)
    hashed = None if password is None else hash_password(password)
    with _changing(path) as change:
        if name in change.users:
            raise RequestError(f"user {name} already exists; change the role or the password with: tuner dashboard users change {name}")
        change.users[name] = User(role=role, password=hashed, added_at=time.time())


def change_user(path: Path, name: str, *, role: Role | None, password: str | None) -> None:
    """Change a user's role or password, and end the user's sessions.

    Raises:
        RequestError: there is no such user, or the password is invalid.
    """
    hashed = None if password is None else hash_password(password)
    with _changing(path) as change:
        known = change.users[_known_name(change.users, "user", name)]
        change.users[name] = known.model_copy(update={"role": role or known.role, "password": hashed or known.password})


def remove_user(path: Path, name: str) -> None:
    """Remove a user, and end the user's sessions at once.

    Raises:
        RequestError: there is no such user.
    """
    with _changing(path) as change:
        del change.users[_known_name(change.users, "user", name)]


def add_token(path: Path, name: str, role: Role, *, seconds: float | None) -> str:
    """Add a token and return it. Only its hash is stored.

    Raises:
        RequestError: the name is invalid, or a token of this name exists.
    """
    check_name(name)
    token = f"tuner_{secrets.token_urlsafe(32)}"
    now = time.time()
    with _changing(path) as change:
        if name in change.tokens:
            raise RequestError(f"token {name} already exists; revoke it first with: tuner dashboard tokens remove {name}")
        ends_at = None if seconds is None else now + seconds
        change.tokens[name] = Token(role=role, sha256=hash_token(token), added_at=now, ends_at=ends_at)
    return token


def remove_token(path: Path, name: str) -> None:
    """Revoke a token at once.

    Raises:
        RequestError: there is no such token.
    """
    with _changing(path) as change:
        del change.tokens[_known_name(change.tokens, "token", name)]


def check_name(name: str) -> None:
    """Refuse a name with characters that are hard to read or that break a line.

    Raises:
        RequestError: the name is invalid.
    """
    if not _NAME.fullmatch(name):
        raise RequestError(f"the name is {name!r}; expected at most 64 letters, digits and . _ - + @")


def hash_password(password: str) -> str:
    """Return the argon2id hash of a password.

    Raises:
        RequestError: the password is too short or too long.
    """
    if not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
        raise RequestError(
            f"the password has {len(password)} characters; expected {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH}, such as several words"
        )
    return _HASHER.hash(password)


def hash_token(token: str) -> str:
    """Return the hash of a token. The users file contains only the hash."""
    return hashlib.sha256(token.encode()).hexdigest()


@functools.cache
def _unknown_user_hash() -> str:
    """Return a hash that no password matches."""
    return _HASHER.hash(secrets.token_hex())


def _verify(hashed: str, password: str) -> bool:
    try:
        return _HASHER.verify(hashed, password)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHash):
        return False


class _Change:
    def __init__(self, content: UsersFile) -> None:
        self.users = dict(content.users)
        self.tokens = dict(content.tokens)


@contextmanager
def _changing(path: Path) -> Iterator[_Change]:
    """Yield the content of the file for changes, and write it when the `with` block ends. One process at a time can do so."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with filelock.FileLock(f"{path}.lock", timeout=10, mode=0o600):
            change = _Change(read(path))
            yield change
            _write(path, UsersFile(users=change.users, tokens=change.tokens))
    except (OSError, filelock.Timeout) as error:
        reason = getattr(error, "strerror", None) or "another process has locked it"
        raise RequestError(f"users file {path} cannot be written: {reason}; name another file with --users or TUNER_USERS.") from error


def _write(path: Path, content: UsersFile) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(content.model_dump_json(indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _known_name(entries: dict[str, User] | dict[str, Token], kind: str, name: str) -> str:
    if name not in entries:
        known = ", ".join(sorted(entries)) or "none"
        raise RequestError(f"{kind} {name} does not exist. Known: {known}.")
    return name


def _unreadable(path: Path, reason: str) -> RequestError:
    return RequestError(f"users file {path} cannot be read: {reason}; name another file with --users or TUNER_USERS.")
