"""age encryption: encrypt and decrypt streams; decrypted data are authentic, piece by piece, or an error is raised."""

from collections.abc import Sequence
from typing import Any, Protocol

from tuner.errors import RequestError
from tuner.trust import keys

#: first bytes of every age file
MAGIC = b"age-encryption.org/v1"


class Source(Protocol):
    """A stream to read."""

    def read(self, size: int = -1, /) -> bytes:
        """Read at most `size` bytes; b"" at the end."""


class Target(Protocol):
    """A stream to write."""

    def write(self, data: bytes, /) -> int:
        """Write all bytes."""

    def flush(self) -> None:
        """Flush the stream."""


class Damaged(RequestError):
    """An encrypted file was changed or is incomplete."""


class Locked(Damaged):
    """None of the keys opens an encrypted file, or its first bytes were changed."""


class _RecordingTarget:
    """A target that remembers its own errors, to tell them from errors of the encryption."""

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
        OSError: the target cannot be written.
    """
    if not recipients:
        raise RequestError("there is no recipient; expected a public key")
    package = keys.pyrage()
    recording = _RecordingTarget(target)
    try:
        package.encrypt_io(source, recording, list(recipients))
    except (package.EncryptError, OSError) as error:
        raise recording.failure or error from None


def decrypt(source: Source, target: Target, identities: Sequence[Any], *, origin: str) -> None:
    """Decrypt a stream; `target` gets authentic pieces, and the whole is authentic only when this function returns.

    Errors of `target` pass through; `origin` names the file in messages.

    Raises:
        Locked: no identity opens it.
        Damaged: it was changed or is incomplete.
    """
    package = keys.pyrage()
    recording = _RecordingTarget(target)
    try:
        package.decrypt_io(source, recording, list(identities))
    except package.DecryptError as error:
        raise Locked(f"{origin} cannot be opened: {_locked_reason(str(error))}") from error
    except OSError as error:
        if recording.failure is not None:
            raise recording.failure from None
        raise Damaged(f"{origin} is damaged: {_damage(str(error))}") from error


def is_opened(source: Source, identities: Sequence[Any]) -> bool:
    """Return whether one of the keys opens an encrypted stream, by its first piece."""
    try:
        decrypt(source, _FirstPiece(), identities, origin="")
    except Locked:
        return False
    except (_Enough, Damaged):
        pass
    return True


class _Enough(Exception):
    """The first piece was decrypted."""


class _FirstPiece:
    def write(self, data: bytes, /) -> int:
        raise _Enough

    def flush(self) -> None:
        pass


def _locked_reason(message: str) -> str:
    if message in ("No matching keys found", "Decryption failed"):
        return "it was encrypted with another key, or its first bytes are damaged"
    return f"it is not an encrypted file, or its first bytes are damaged ({message})"


def _damage(message: str) -> str:
    known = {
        "decryption error": "a part of it was changed, or its end is missing",
        "age file is truncated": "its end is missing",
        "last chunk has been processed": "data were added at its end",
    }
    return known.get(message, message)
