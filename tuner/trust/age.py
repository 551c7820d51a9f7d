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
    """An encrypted file is not what was written, or none of the keys opens it."""


def encrypt(source: Source, target: Target, recipients: Sequence[Any]) -> None:
    """Encrypt a stream to recipients, in pieces of 64 KiB.

    Raises:
        RequestError: there are no recipients.
    """
    if not recipients:
        raise RequestError("there is no one to encrypt to; expected a public key")
    keys.pyrage().encrypt_io(source, target, list(recipients))


def decrypt(source: Source, target: Target, identities: Sequence[Any], *, origin: str) -> None:
    """Decrypt a stream; `target` gets pieces as they prove authentic, and may believe in the whole only when this returns.

    What `source` and `target` raise passes through, if it is no OSError; `origin` names the file in messages.

    Raises:
        Damaged: no identity opens it, or it is not all of what was written, and nothing else.
    """
    package = keys.pyrage()
    try:
        package.decrypt_io(source, target, list(identities))
    except package.DecryptError as error:
        raise Damaged(f"{origin} cannot be opened: {_why(str(error))}") from error
    except OSError as error:
        raise Damaged(f"{origin} is damaged: {_what(str(error))}") from error


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
