"""Weights and checkpoints to and from files, encrypted where the environment names a key; the plain ones never come to a disk then."""

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
    """A file is encrypted, and there is no key for it, or another's."""


def write(file: BinaryIO, save: Callable[[BinaryIO], None]) -> None:
    """Have `save` write into a file, encrypted if there is a key.

    Raises:
        RequestError: what the environment names is no key.
        OSError: the file does not take it.
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
    """What `write` wrote, as it was before it was encrypted; a file that was never encrypted is read as it is.

    Raises:
        NoKey: it is encrypted, and the environment names no key that opens it.
        Damaged: it is not what was written.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if not is_encrypted(file):
            yield file
            return
        identities = keys.artifact_identities()
        if not identities:
            raise NoKey(f"{path} is encrypted; set {keys.ARTIFACT_KEY} to the key that it was encrypted with, or to the file of it")
        plain = io.BytesIO()
        try:
            age.decrypt(file, plain, identities, origin=str(path))
        except age.Locked as error:
            raise NoKey(f"{error}. The key is what {keys.ARTIFACT_KEY} names") from error
        plain.seek(0)
        yield plain


def require_key(folder: Path) -> None:
    """Refuse to add plain files to a study's folder of encrypted ones.

    Raises:
        NoKey: the environment names no key, and an earlier one has encrypted what lies there.
    """
    if keys.artifact_identities():
        return
    for path in itertools.chain(folder.glob("trial-*/checkpoint"), folder.glob("trial-*/*.npz")):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            if is_encrypted(file):
                raise NoKey(f"{path} is encrypted, so others are to be as well; set {keys.ARTIFACT_KEY} to that key, or to the file of it")


def is_encrypted(file: BinaryIO) -> bool:
    """Whether a file that was just opened is an encrypted one; it stands at its beginning afterwards."""
    begin = file.read(len(age.MAGIC))
    file.seek(0)
    return begin == age.MAGIC
