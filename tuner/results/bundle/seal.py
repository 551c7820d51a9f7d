"""Sealed bundles: a bundle encrypted into one file (a tar in an age file), and decrypted only if it is complete and authentic."""

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


class PackedBundle:
    """The files of a folder as a tar stream (POSIX ustar); equal files give equal bytes."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self._pieces = _pack(folder, names)
        self._rest = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes; b"" at the end."""
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
                    raise TunerError(f"{folder / name} became shorter while it was read; try again when no program writes to it")
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


class Unpacker:
    """Unpacks an untrusted tar stream: writes regular files below a folder only, and at most `most_bytes` bytes."""

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        self._folder, self._left_bytes = folder, most_bytes
        self._buffer = bytearray()
        self._file: BinaryIO | None = None
        #: remaining bytes of the open file, and of the zeros after it
        self._size = self._padding = 0
        self._num_files = 0
        self._is_over = False

    def write(self, data: bytes) -> int:
        """Unpack the next bytes of the stream.

        Raises:
            RequestError: sealing never writes such bytes.
            TunerError: the folder cannot be written.
        """
        try:
            self._take(memoryview(data))
        except OSError as error:
            raise TunerError(f"{self._folder.parent} cannot be written: {error.strerror}") from error
        return len(data)

    def flush(self) -> None:
        """Do nothing, because everything is already written."""

    def close(self) -> None:
        """End the stream.

        Raises:
            RequestError: it ended too early.
        """
        if self._file is not None:
            self._file.close()
        if not self._is_over or self._buffer.strip(b"\0"):
            raise RequestError("it does not hold a complete bundle")

    def abandon(self) -> None:
        """Close the open file after an error."""
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
            raise RequestError(f"it holds {member.name} twice") from None
        self._size, self._padding = member.size, -member.size % _BLOCK

    def _read_header(self, block: bytes) -> tarfile.TarInfo:
        """Return the name and the size of the next file.

        Raises:
            RequestError: a bundle may not hold it.
        """
        if self._is_over:
            raise RequestError("it has data after its end")
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise RequestError(f"it does not hold a bundle: {error}") from error
        if member.type != tarfile.REGTYPE:
            raise RequestError(f"it holds {member.name!r}, a link, a device or something else that is not a regular file")
        reason = manifest.refusal(member.name)
        if reason:
            raise RequestError(f"it holds {member.name!r}, which {reason}")
        self._left_bytes -= member.size
        self._num_files += 1
        if member.size < 0 or self._left_bytes < 0 or self._num_files > manifest.MAX_FILES:
            raise RequestError(f"it says that {member.name} has {member.size:,} bytes, more than the whole file; its end may be missing")
        return member


#: the first line of a file that was sealed with a passphrase: version and salt; other sealed files are plain age files
_LINE = re.compile(rb"tuner-passphrase-1 ([0-9a-f]{32})\n")
_LINE_BYTES = len("tuner-passphrase-1 \n") + 2 * keys.SALT_BYTES


@dataclass(frozen=True, kw_only=True)
class Recipients:
    """Recipients of a sealed bundle, or a passphrase that opens it."""

    recipients: Sequence[Any] = ()
    passphrase: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class OpeningKey:
    """Identities that open a sealed bundle, or its passphrase."""

    identities: Sequence[Any] = field(default=(), repr=False)
    passphrase: str | None = field(default=None, repr=False)


def seal(bundle: Path, to: Path, lock: Recipients, *, replaces: bool) -> int:
    """Encrypt a bundle into a file, written beside its target and renamed; return its size in bytes.

    Raises:
        RequestError: the bundle was changed after its export, or the file exists and must not be replaced.
    """
    _require_unchanged(bundle)
    if to.exists() and not replaces:
        raise RequestError(f"{to} exists and is not overwritten; name another file, or add --force")
    names = [manifest.NAME, *manifest.read(bundle).files]
    if (bundle / manifest.SIGNATURE).is_file():
        names.append(manifest.SIGNATURE)
    beside = to.with_name(f".{to.name}.{os.getpid()}")
    try:
        with beside.open("xb") as file:
            recipients = _recipients(file, lock)
            age.encrypt(PackedBundle(bundle, names), file, recipients)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(to)
    except OSError as error:
        raise RequestError(f"{to} cannot be written: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)
    return to.stat().st_size


def unseal(sealed: Path, to: Path, ask: Callable[[bool], OpeningKey]) -> manifest.Manifest:
    """Decrypt a sealed bundle into a folder, which appears only after everything has proved authentic.

    `ask` returns the key; its argument tells whether that must be a passphrase.

    Raises:
        RequestError: the folder exists, the key does not open the file, or the file was changed or is not a bundle.
    """
    if to.exists() or to.is_symlink():
        raise RequestError(f"{to} exists and is not overwritten; name a folder that does not exist yet")
    if not to.absolute().parent.is_dir():
        raise RequestError(f"{to} cannot be written: the folder {to.absolute().parent} does not exist; create it first")
    beside = to.with_name(f".{to.name}.{os.getpid()}")
    try:
        with manifest.open_file(sealed) as file:
            beside.mkdir()
            _open(file, sealed, beside, ask)
        _require_unchanged(beside, origin=str(sealed))
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
    unpacking = Unpacker(to, most_bytes=sealed.stat().st_size)
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
    assert key.passphrase is not None, "`ask` returns a passphrase if one is needed"
    return key.passphrase


def _recipients(file: BinaryIO, lock: Recipients) -> Sequence[Any]:
    """Return the recipients; for a passphrase, first write the line with its salt."""
    if lock.passphrase is None:
        return lock.recipients
    salt = secrets.token_bytes(keys.SALT_BYTES)
    file.write(f"tuner-passphrase-1 {salt.hex()}\n".encode())
    return [keys.recipient_of(keys.identity(lock.passphrase, salt))]


def _require_unchanged(bundle: Path, *, origin: str = "") -> None:
    problems = manifest.check(bundle)
    if problems:
        listed = "\n".join(f"  {problem.field or bundle} {problem.message}" for problem in problems[:20])
        raise RequestError(f"{origin or bundle} is incomplete or was changed after its export:\n{listed}")
