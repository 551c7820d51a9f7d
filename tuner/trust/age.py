"""Streams into encrypted streams and back, in age's format; what comes back is authentic, piece by piece, or an error."""

from collections.abc import Sequence
from typing import Any, Protocol

from tuner.errors import RequestError
from tuner.trust import keys

#: how every age file begins
MAGIC = b"age-encryption.org/v1"


class Source(Protocol):
    """What is read."""

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes; none at the end."""


class Target(Protocol):
    """What is written to."""

    def write(self, data: bytes, /) -> int:
        """Take all of them."""

    def flush(self) -> None:
        """No more will come for a while."""


class Damaged(RequestError):
    """An encrypted file is not what was written."""


class Locked(Damaged):
    """None of the keys opens an encrypted file, or its first bytes are not what was written."""


class _Faithful:
    """A target whose own failure is known from one of the encryption."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.failure: OSError | None = None

    def write(self, data: bytes, /) -> int:
        try:
            return self._target.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self._target.flush()


def encrypt(source: Source, target: Target, recipients: Sequence[Any]) -> None:
    """Encrypt a stream to recipients, in pieces of 64 KiB.

    Raises:
        RequestError: there are no recipients.
        OSError: the target does not take it.
    """
    if not recipients:
        raise RequestError("there is no one to encrypt to; expected a public key")
    package = keys.pyrage()
    faithful = _Faithful(target)
    try:
        package.encrypt_io(source, faithful, list(recipients))
    except (package.EncryptError, OSError) as error:
        raise faithful.failure or error from None


def decrypt(source: Source, target: Target, identities: Sequence[Any], *, origin: str) -> None:
    """Decrypt a stream; `target` gets pieces as they prove authentic, and may believe in the whole only when this returns.

    What `target` raises passes through; `origin` names the file in messages.

    Raises:
        Locked: no identity opens it.
        Damaged: it is not all of what was written, and nothing else.
    """
    package = keys.pyrage()
    faithful = _Faithful(target)
    try:
        package.decrypt_io(source, faithful, list(identities))
    except package.DecryptError as error:
        raise Locked(f"{origin} cannot be opened: {_why(str(error))}") from error
    except OSError as error:
        if faithful.failure is not None:
            raise faithful.failure from None
        raise Damaged(f"{origin} is damaged: {_what(str(error))}") from error


def is_opened(source: Source, identities: Sequence[Any]) -> bool:
    """Whether one of the keys opens an encrypted stream; only its first piece is read."""
    try:
        decrypt(source, _FirstPiece(), identities, origin="")
    except Locked:
        return False
    except (_Enough, Damaged):
        pass
    return True


class _Enough(Exception):
    """A piece has come."""


class _FirstPiece:
    def write(self, data: bytes, /) -> int:
        raise _Enough

    def flush(self) -> None:
        pass


def _why(said: str) -> str:
    if said in ("No matching keys found", "Decryption failed"):
        return "the key is not one that it was encrypted to, or its first bytes are damaged"
    return f"it is no encrypted file, or its first bytes are damaged ({said})"


def _what(said: str) -> str:
    known = {
        "decryption error": "a part of it was changed, or its end is missing",
        "age file is truncated": "its end is missing",
        "last chunk has been processed": "something was added at its end",
    }
    return known.get(said, said)
