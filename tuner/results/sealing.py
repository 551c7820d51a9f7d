"""A bundle into one encrypted file, and such a file into the bundle, whole and authentic or not at all."""

import os
import re
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from tuner.errors import RequestError
from tuner.results import archive, manifest
from tuner.trust import age, keys, passphrases

#: the first line of a file that a passphrase opens: version and salt; one that keys open is an age file from its first byte
_LINE = re.compile(rb"tuner-passphrase-1 ([0-9a-f]{32})\n")
_LINE_BYTES = len("tuner-passphrase-1 \n") + 2 * passphrases.SALT_BYTES


@dataclass(frozen=True, kw_only=True)
class Lock:
    """Who may open a sealed bundle: recipients, or whoever knows the passphrase."""

    recipients: Sequence[Any] = ()
    passphrase: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Key:
    """What a sealed bundle is opened with."""

    identities: Sequence[Any] = field(default=(), repr=False)
    passphrase: str | None = field(default=None, repr=False)


def seal(bundle: Path, to: Path, lock: Lock, *, replaces: bool) -> int:
    """Encrypt a bundle into a file, written beside and renamed: its bytes.

    Raises:
        RequestError: the bundle is not as it was exported, or the file is there and is not to be replaced.
    """
    _require_whole(bundle)
    if to.exists() and not replaces:
        raise RequestError(f"{to} exists and is left as it is; name another file, or give --force")
    names = [manifest.NAME, *manifest.read(bundle).files]
    if (bundle / manifest.SIGNATURE).is_file():
        names.append(manifest.SIGNATURE)
    beside = to.with_name(f".{to.name}.{os.getpid()}")
    try:
        with beside.open("xb") as file:
            recipients = _recipients(file, lock)
            age.encrypt(archive.Packed(bundle, names), file, recipients)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(to)
    except OSError as error:
        raise RequestError(f"{to} cannot be written: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)
    return to.stat().st_size


def unseal(sealed: Path, to: Path, ask: Callable[[bool], Key]) -> manifest.Manifest:
    """Decrypt a sealed bundle into a folder, written beside and renamed once all of it has proved authentic.

    `ask` gives the key; it is told whether a passphrase is needed.

    Raises:
        RequestError: the folder is there, the key does not open the file, or it is not what was sealed, or no bundle.
    """
    if to.exists() or to.is_symlink():
        raise RequestError(f"{to} exists and is left as it is; name a folder that is not there yet")
    if not to.absolute().parent.is_dir():
        raise RequestError(f"{to} cannot be written: there is no folder {to.absolute().parent}; make it first")
    beside = to.with_name(f".{to.name}.{os.getpid()}")
    try:
        with manifest.open_file(sealed) as file:
            beside.mkdir()
            _open(file, sealed, beside, ask)
        _require_whole(beside, origin=str(sealed))
        found = manifest.read(beside)
        beside.rename(to)
    except OSError as error:
        raise RequestError(f"{sealed} cannot be unsealed to {to}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return found


def _open(file: BinaryIO, sealed: Path, to: Path, ask: Callable[[bool], Key]) -> None:
    line = _LINE.fullmatch(file.read(_LINE_BYTES))
    if line is None:
        file.seek(0)
    key = ask(line is not None)
    identities = key.identities if line is None else [passphrases.identity(_known(key), bytes.fromhex(line[1].decode()))]
    unpacking = archive.Unpacking(to, most_bytes=sealed.stat().st_size)
    try:
        age.decrypt(file, unpacking, identities, origin=str(sealed))
        unpacking.close()
    except age.Damaged:
        raise
    except RequestError as error:
        raise RequestError(f"{sealed} is refused: {error}") from error
    finally:
        unpacking.abandon()


def _known(key: Key) -> str:
    assert key.passphrase is not None, "whoever is asked for a passphrase gives one, or raises"
    return key.passphrase


def _recipients(file: BinaryIO, lock: Lock) -> Sequence[Any]:
    """Whom to encrypt to; what a passphrase needs to be used again is written first."""
    if lock.passphrase is None:
        return lock.recipients
    salt = secrets.token_bytes(passphrases.SALT_BYTES)
    file.write(f"tuner-passphrase-1 {salt.hex()}\n".encode())
    return [keys.recipient_of(passphrases.identity(lock.passphrase, salt))]


def _require_whole(bundle: Path, *, origin: str = "") -> None:
    problems = manifest.check(bundle)
    if problems:
        listed = "\n".join(f"  {problem.field or bundle} {problem.message}" for problem in problems[:20])
        raise RequestError(f"{origin or bundle} is not a whole bundle as it was exported:\n{listed}")
