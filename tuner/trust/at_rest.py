"""Encryption at rest: writes weights and checkpoints encrypted if the environment names a key; plain data then never reach a disk."""

import contextlib
import io
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tuner.errors import RequestError
from tuner.trust import age, keys


class NoKey(RequestError):
    """A file is encrypted, and the environment names no key that opens it."""


def write(file: BinaryIO, save: Callable[[BinaryIO], None]) -> None:
    """Write what `save` writes to a file, encrypted if there is a key.

    Raises:
        RequestError: the environment names an invalid key.
        OSError: the file cannot be written.
    """
    identities = keys.artifact_identities()
    if not identities:
        save(file)
        return
    plain = io.BytesIO()
    save(plain)
    plain.seek(0)
    age.encrypt(plain, file, [keys.recipient_of(identity) for identity in identities])


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file of `write` decrypted; a plain file is read as it is.

    Raises:
        NoKey: the file is encrypted, and the environment names no key that opens it.
        Damaged: the file was changed or is incomplete.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        if not is_encrypted(file):
            yield file
            return
        identities = keys.artifact_identities()
        if not identities:
            raise NoKey(f"{path} is encrypted; set {keys.ARTIFACT_KEY} to its key, or to the file of the key")
        plain = io.BytesIO()
        try:
            age.decrypt(file, plain, identities, origin=str(path))
        except age.Locked as error:
            raise NoKey(f"{error}. The key comes from {keys.ARTIFACT_KEY}; set it to the key of the file") from error
        plain.seek(0)
        yield plain


def require_key(folder: Path) -> None:
    """Refuse to add plain files to a folder of encrypted files.

    Raises:
        NoKey: the environment names no key, and the folder has encrypted files.
    """
    if keys.artifact_identities():
        return
    for path in itertools.chain(folder.glob("trial-*/checkpoint"), folder.glob("trial-*/*.npz")):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            if is_encrypted(file):
                raise NoKey(
                    f"{path} is encrypted, so new files must be, too; set {keys.ARTIFACT_KEY} to its key, or to the file of the key"
                )


def is_encrypted(file: BinaryIO) -> bool:
    """Return whether a file that was just opened is encrypted; its position stays at the start."""
    start = file.read(len(age.MAGIC))
    file.seek(0)
    return start == age.MAGIC
