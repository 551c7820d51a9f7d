"""A file of people and programs into who may come in with which password or token; the file holds hashes only."""

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
#: hashing a longer one would only keep the processor busy
MAX_PASSWORD_LENGTH = 1000
_NAME = re.compile(r"[\w.@+-]{1,64}")
_HASHER = argon2.PasswordHasher()
#: hashes that are computed at the same time: each takes 64 MiB
_AT_ONCE = threading.Semaphore(2)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Role
    #: seconds since the epoch
    added_at: float


class User(_Entry):
    """Someone who signs in, with a password or at an OpenID provider."""

    #: argon2id, with its salt and cost; None: at the provider only
    password: str | None = None


class Token(_Entry):
    """A program that shows a token."""

    #: of the token, which is too long to be guessed, so a quick hash suffices
    sha256: str
    #: seconds since the epoch; None: never
    ends_at: float | None = None


class UsersFile(BaseModel):
    """All that a file of users holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    users: dict[str, User] = Field(default_factory=dict)
    tokens: dict[str, Token] = Field(default_factory=dict)


class Accounts:
    """Who may come in, by a file that others may change at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[tuple[int, int, int] | None, UsersFile] = (None, UsersFile())

    def book(self) -> UsersFile:
        """What the file holds now; nothing if there is none.

        Raises:
            RequestError: it cannot be read.
        """
        stamp = self._stamp()
        seen = self._seen
        if stamp is None:
            return UsersFile()
        if seen[0] != stamp:
            seen = self._seen = (stamp, read(self.path))
        return seen[1]

    def check_password(self, name: str, password: str) -> Identity | None:
        """Who that is; None if there is no such user or the password is another. Takes as long either way."""
        user = self.book().users.get(name)
        known = (user and user.password) or _nobodys_hash()
        with _AT_ONCE:
            is_right = len(password) <= MAX_PASSWORD_LENGTH and _verify(known, password)
        return Identity(name=name, role=user.role) if user is not None and is_right else None

    def check_token(self, token: str) -> Identity | None:
        """Whose token that is; None if it is nobody's."""
        given = hash_token(token)
        for name, known in self.book().tokens.items():
            if secrets.compare_digest(known.sha256, given):
                is_over = known.ends_at is not None and known.ends_at < time.time()
                return None if is_over else Identity(name=name, role=known.role)
        return None

    def stamp(self, name: str) -> str | None:
        """What changes when a user's role or password does; None if there is no such user."""
        user = self.book().users.get(name)
        return None if user is None else hashlib.sha256(f"{user.role}:{user.password}".encode()).hexdigest()[:16]

    def role(self, name: str) -> Role | None:
        """What a user may do; None if there is no such user."""
        user = self.book().users.get(name)
        return None if user is None else user.role

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(self.path, error.strerror or "no access") from error
        return (found.st_mtime_ns, found.st_size, found.st_ino)


def read(path: Path) -> UsersFile:
    """What a file holds; nothing if there is none.

    Raises:
        RequestError: it cannot be read.
    """
    try:
        return UsersFile.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return UsersFile()
    except OSError as error:
        raise _unreadable(path, error.strerror or "no access") from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise _unreadable(path, "it is no file of `tuner dashboard users`") from error


def default_path() -> Path:
    """Where the users of this machine are kept, unless TUNER_USERS says otherwise."""
    given = os.environ.get("TUNER_USERS")
    if given:
        return Path(given).expanduser()
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "tuner" / "users.json"


def add_user(path: Path, name: str, role: Role, password: str | None) -> None:
    """Let someone in; without a password only by way of an OpenID provider, which must know the name as an e-mail address.

    Raises:
        RequestError: the name or the password will not do, or there is a user of this name.
    """
    check_name(name)
    hashed = None if password is None else hash_password(password)
    with _changing(path) as change:
        if name in change.book.users:
            raise RequestError(f"there is a user {name} already; change the role or the password with: tuner dashboard users change {name}")
        change.users[name] = User(role=role, password=hashed, added_at=time.time())


def change_user(path: Path, name: str, *, role: Role | None, password: str | None) -> None:
    """Give a user another role or password; whoever is signed in by this name must sign in again.

    Raises:
        RequestError: there is no such user, or the password will not do.
    """
    hashed = None if password is None else hash_password(password)
    with _changing(path) as change:
        known = change.users[_known_name(change.users, "user", name)]
        change.users[name] = known.model_copy(update={"role": role or known.role, "password": hashed or known.password})


def remove_user(path: Path, name: str) -> None:
    """Let someone in no more, at once.

    Raises:
        RequestError: there is no such user.
    """
    with _changing(path) as change:
        del change.users[_known_name(change.users, "user", name)]


def add_token(path: Path, name: str, role: Role, *, seconds: float | None) -> str:
    """Let a program in; gives its token, which is not kept.

    Raises:
        RequestError: the name will not do, or there is a token of this name.
    """
    check_name(name)
    token = f"tuner_{secrets.token_urlsafe(32)}"
    now = time.time()
    with _changing(path) as change:
        if name in change.tokens:
            raise RequestError(f"there is a token {name} already; take it back first with: tuner dashboard tokens remove {name}")
        ends_at = None if seconds is None else now + seconds
        change.tokens[name] = Token(role=role, sha256=hash_token(token), added_at=now, ends_at=ends_at)
    return token


def remove_token(path: Path, name: str) -> None:
    """Take a token back, at once.

    Raises:
        RequestError: there is no such token.
    """
    with _changing(path) as change:
        del change.tokens[_known_name(change.tokens, "token", name)]


def check_name(name: str) -> None:
    """Refuse a name that cannot be told from others at a glance, or would not stay on its line.

    Raises:
        RequestError: it will not do.
    """
    if not _NAME.fullmatch(name):
        raise RequestError(f"the name is {name!r}; expected at most 64 letters, digits and . _ - + @")


def hash_password(password: str) -> str:
    """An argon2id hash.

    Raises:
        RequestError: the password is too short or too long.
    """
    if not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
        raise RequestError(
            f"the password has {len(password)} characters; expected {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH}: several words do well"
        )
    return _HASHER.hash(password)


def hash_token(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


@functools.cache
def _nobodys_hash() -> str:
    """A hash that no password fits."""
    return _HASHER.hash(secrets.token_hex())


def _verify(hashed: str, password: str) -> bool:
    try:
        return _HASHER.verify(hashed, password)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHash):
        return False


class _Change:
    def __init__(self, book: UsersFile) -> None:
        self.book = book
        self.users = dict(book.users)
        self.tokens = dict(book.tokens)


@contextmanager
def _changing(path: Path) -> Iterator[_Change]:
    """What the file holds, to be changed in a `with` block; written at its end, one process at a time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with filelock.FileLock(f"{path}.lock", timeout=10, mode=0o600):
            change = _Change(read(path))
            yield change
            _write(path, UsersFile(users=change.users, tokens=change.tokens))
    except (OSError, filelock.Timeout) as error:
        reason = getattr(error, "strerror", None) or "another process holds it"
        raise RequestError(f"{path} cannot be written: {reason}; name another file with --users or TUNER_USERS.") from error


def _write(path: Path, book: UsersFile) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(book.model_dump_json(indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _known_name(entries: dict[str, User] | dict[str, Token], kind: str, name: str) -> str:
    if name not in entries:
        known = ", ".join(sorted(entries)) or "none"
        raise RequestError(f"there is no {kind} {name}. Known: {known}.")
    return name


def _unreadable(path: Path, reason: str) -> RequestError:
    return RequestError(f"the users' file {path} cannot be read: {reason}; name another with --users or TUNER_USERS.")
