"""A bundle's files into one stream of bytes, a plain tar (POSIX ustar), and such a stream into a folder, believing nothing that it says.

A bundle into one encrypted file, and such a file into the bundle, whole and authentic or not at all.
"""

import os
import re
import secrets
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from tuner.errors import RequestError, TunerError
from tuner.results.bundle import manifest
from tuner.trust import age, keys

_BLOCK = tarfile.BLOCKSIZE
_PIECE = 1024**2
_END = b"\0" * 2 * _BLOCK


class Packed:
    """The files of a folder as a stream that is read; the same files give the same bytes."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self._pieces = _pack(folder, names)
        self._rest = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        """At most so many bytes; none at the end."""
        if not self._rest:
            self._rest = memoryview(next((piece for piece in self._pieces if piece), b""))
        taken = self._rest[: size if size >= 0 else None]
        self._rest = self._rest[len(taken) :]
        return bytes(taken)


def _pack(folder: Path, names: Iterable[str]) -> Iterator[bytes]:
    for name in names:
        with manifest.open_file(folder / name) as file:
            size = os.fstat(file.fileno()).st_size
            yield _header(name, size)
            left = size
            while left:
                piece = file.read(min(_PIECE, left))
                if not piece:
                    raise TunerError(f"{folder / name} became shorter while it was read; try again when nothing writes to it")
                left -= len(piece)
                yield piece
            yield b"\0" * (-size % _BLOCK)
    yield _END


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    try:
        return member.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    except ValueError as error:
        raise RequestError(f"{name} ({size:,} bytes) does not fit into a sealed file: {error}") from error


class Unpacking:
    """A folder that a stream is written into: plain files below it, whatever the stream says, and no more bytes than it has."""

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        self._folder, self._left_bytes = folder, most_bytes
        self._buffer = bytearray()
        self._file: BinaryIO | None = None
        #: of the file that is open, and of the zeros behind it
        self._size = self._padding = 0
        self._num_files = 0
        self._is_over = False

    def write(self, data: bytes) -> int:
        """Take the next bytes of the stream.

        Raises:
            RequestError: they are none that sealing writes.
            TunerError: the folder cannot take them.
        """
        try:
            self._take(memoryview(data))
        except OSError as error:
            raise TunerError(f"{self._folder.parent} cannot be written: {error.strerror}") from error
        return len(data)

    def flush(self) -> None:
        """Nothing waits that could be written."""

    def close(self) -> None:
        """The stream has ended.

        Raises:
            RequestError: it ended too early.
        """
        if self._file is not None:
            self._file.close()
        if not self._is_over or self._buffer.strip(b"\0"):
            raise RequestError("it does not hold a whole bundle")

    def abandon(self) -> None:
        """Close what is open."""
        if self._file is not None:
            self._file.close()

    def _take(self, data: memoryview) -> None:
        while data:
            if self._size:
                assert self._file is not None
                part = data[: self._size]
                self._file.write(part)
                self._size -= len(part)
                data = data[len(part) :]
            elif self._padding:
                num = min(self._padding, len(data))
                self._padding -= num
                data = data[num:]
            else:
                num = _BLOCK - len(self._buffer)
                self._buffer += data[:num]
                data = data[num:]
                if len(self._buffer) == _BLOCK:
                    self._begin(bytes(self._buffer))
                    self._buffer.clear()

    def _begin(self, block: bytes) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if not block.strip(b"\0"):
            self._is_over = True
            return
        member = self._read_header(block)
        path = self._folder / member.name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("xb")
        except (FileExistsError, NotADirectoryError):
            raise RequestError(f"it holds {member.name} twice, once as a file and once more") from None
        self._size, self._padding = member.size, -member.size % _BLOCK

    def _read_header(self, block: bytes) -> tarfile.TarInfo:
        """The next file's name and size.

        Raises:
            RequestError: it is none that a bundle may hold.
        """
        if self._is_over:
            raise RequestError("it goes on behind its end")
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise RequestError(f"it holds no bundle: {error}") from error
        if member.type != tarfile.REGTYPE:
            raise RequestError(f"it holds {member.name!r}, a link, a device or something else that is no plain file")
        reason = manifest.refusal(member.name)
        if reason:
            raise RequestError(f"it holds {member.name!r}, which {reason}")
        self._left_bytes -= member.size
        self._num_files += 1
        if member.size < 0 or self._left_bytes < 0 or self._num_files > manifest.MAX_FILES:
            raise RequestError(f"it says that {member.name} has {member.size:,} bytes, more than the whole file; its end may be missing")
        return member


#: the first line of a file that a passphrase opens: version and salt; one that keys open is an age file from its first byte
_LINE = re.compile(rb"tuner-passphrase-1 ([0-9a-f]{32})\n")
_LINE_BYTES = len("tuner-passphrase-1 \n") + 2 * keys.SALT_BYTES


@dataclass(frozen=True, kw_only=True)
class Recipients:
    """Who may open a sealed bundle: recipients, or whoever knows the passphrase."""

    recipients: Sequence[Any] = ()
    passphrase: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class OpeningKey:
    """What a sealed bundle is opened with."""

    identities: Sequence[Any] = field(default=(), repr=False)
    passphrase: str | None = field(default=None, repr=False)


def seal(bundle: Path, to: Path, lock: Recipients, *, replaces: bool) -> int:
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
            age.encrypt(Packed(bundle, names), file, recipients)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(to)
    except OSError as error:
        raise RequestError(f"{to} cannot be written: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)
    return to.stat().st_size


def unseal(sealed: Path, to: Path, ask: Callable[[bool], OpeningKey]) -> manifest.Manifest:
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


def _open(file: BinaryIO, sealed: Path, to: Path, ask: Callable[[bool], OpeningKey]) -> None:
    line = _LINE.fullmatch(file.read(_LINE_BYTES))
    if line is None:
        file.seek(0)
    key = ask(line is not None)
    identities = key.identities if line is None else [keys.identity(_known(key), bytes.fromhex(line[1].decode()))]
    unpacking = Unpacking(to, most_bytes=sealed.stat().st_size)
    try:
        age.decrypt(file, unpacking, identities, origin=str(sealed))
        unpacking.close()
    except age.Damaged:
        raise
    except RequestError as error:
        raise RequestError(f"{sealed} is refused: {error}") from error
    finally:
        unpacking.abandon()


def _known(key: OpeningKey) -> str:
    assert key.passphrase is not None, "whoever is asked for a passphrase gives one, or raises"
    return key.passphrase


def _recipients(file: BinaryIO, lock: Recipients) -> Sequence[Any]:
    """Whom to encrypt to; what a passphrase needs to be used again is written first."""
    if lock.passphrase is None:
        return lock.recipients
    salt = secrets.token_bytes(keys.SALT_BYTES)
    file.write(f"tuner-passphrase-1 {salt.hex()}\n".encode())
    return [keys.recipient_of(keys.identity(lock.passphrase, salt))]


def _require_whole(bundle: Path, *, origin: str = "") -> None:
    problems = manifest.check(bundle)
    if problems:
        listed = "\n".join(f"  {problem.field or bundle} {problem.message}" for problem in problems[:20])
        raise RequestError(f"{origin or bundle} is not a whole bundle as it was exported:\n{listed}")
