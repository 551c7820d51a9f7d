"""A bundle's files into one stream of bytes, a plain tar (POSIX ustar), and such a stream into a folder, believing nothing that it says."""

import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from tuner.errors import RequestError, TunerError
from tuner.results import manifest

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
