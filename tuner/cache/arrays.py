"""Arrays and files of the cache folder: made by one process of the host, read by all of them."""

import errno
import hashlib
import io
import logging
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import numpy as np
from numpy.typing import NDArray

from tuner import errors
from tuner.cache import entries

_LOG = logging.getLogger(__name__)
#: other errors of reserving room tell that the file system cannot reserve any; then writing tells whether there is room
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

#: a process that waits for another one calls its tick after each of these
_TICK_SECONDS = 5.0

Compute = Callable[[], Iterable[NDArray[Any]]]
Tick = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """An array, and what it is called."""

    #: images, features, activations and the like: a sub-folder
    kind: str
    #: whatever its content depends on; another key is another entry
    key: str
    shape: tuple[int, ...]
    #: as NumPy names it: uint8, float16
    dtype: str
    #: what `tuner cache` shows: study, data, backbone, size, what
    words: Mapping[str, str]

    @property
    def num_bytes(self) -> int:
        """What it takes, its header left out."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def path(self, folder: Path) -> Path:
        """Its .npy file."""
        name = hashlib.sha256(f"{self.key}\n{self.shape} {self.dtype}".encode()).hexdigest()
        return folder / self.kind / f"{name[:24]}.npy"


def _rest() -> None:
    """The tick of whoever has nothing to do while it waits."""


def entry(folder: Path, wanted: ArraySpec, compute: Compute, *, tick: Tick = _rest) -> NDArray[Any]:
    """An array, mapped read-only from a file of the cache; as long as it is referred to, the file is not deleted to make room.

    The first process that wants it computes it, others wait and map the same file. `compute` gives its rows in parts, one after another,
    of any number of rows each: they are written as they come. A damaged file is made anew. `tick` is called every few seconds while it
    waits; it may raise, to wait no longer.

    Raises:
        NoRoom: it is larger than what the cache may still take; nothing was computed.
        DataError: the disk is full, or the cache folder cannot be written.
    """
    if 0 in wanted.shape:
        return np.empty(wanted.shape, wanted.dtype)
    found = find(folder, wanted)
    if found is not None:
        return found
    path = wanted.path(folder)
    with locked(path, tick=tick):
        found = find(folder, wanted)
        return found if found is not None else _make(folder, wanted, compute)


def optional(folder: Path, wanted: ArraySpec, compute: Compute, *, tick: Tick = _rest) -> NDArray[Any] | None:
    """The same, but None where there is no room for it, so that the caller does without; then nothing was computed."""
    try:
        return entry(folder, wanted, compute, tick=tick)
    except entries.NoRoom as error:
        _LOG.warning("not kept: %s: %s", _say(wanted), error)
        return None


def find(folder: Path, wanted: ArraySpec) -> NDArray[Any] | None:
    """The array if it is there and whole."""
    path = wanted.path(folder)
    try:
        return entries.open_array(path, wanted.shape, np.dtype(wanted.dtype))
    except (ValueError, OSError) as error:
        _LOG.warning("the cache entry %s (%s) is damaged and will be made anew: %s", path, _say(wanted), error)
        return None


def remove(folder: Path, chosen: Iterable[entries.CacheEntry]) -> list[entries.CacheEntry]:
    """Delete entries, and what killed processes left; those that are gone. What a process maps stays.

    Raises:
        DataError: the cache folder cannot be written.
    """
    with locked(folder / "room"), _writable(folder / "room"):
        entries.remove_unfinished(folder)
        return [entry for entry in chosen if entry.remove()]


@contextmanager
def locked(path: Path, *, tick: Tick = _rest) -> Iterator[None]:
    """Hold the lock of one cache file; other processes wait, and call their tick every few seconds. A process that dies lets go of it.

    Raises:
        DataError: the cache folder cannot be written.
    """
    lock = filelock.FileLock(f"{path}.lock")
    with _writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    while not _acquire(lock, path):
        tick()
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: filelock.BaseFileLock, path: Path) -> bool:
    """Whether the lock was had before the next tick."""
    with _writable(path):
        try:
            lock.acquire(timeout=_TICK_SECONDS)
        except filelock.Timeout:  # an OSError too
            return False
    return True


@contextmanager
def written_beside(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its place when it is whole; hold the lock of `path` around it.

    Raises:
        DataError: the disk is full, or the cache folder cannot be written.
    """
    beside = path.with_name(path.name + ".part")
    try:
        with _writable(path):
            with beside.open("wb") as file:
                yield file
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _make(folder: Path, wanted: ArraySpec, compute: Compute) -> NDArray[Any]:
    path = wanted.path(folder)
    beside = path.with_name(path.name + ".part")
    try:
        with _begin(beside, folder, wanted.num_bytes) as file:
            checksum = _write(file, path, wanted, compute)
            about = entries.About(words=dict(wanted.words), length=file.tell(), checksum=checksum, verified=entries.stamp(file))
            with _writable(path):
                entries.write_about(path, about)
                beside.replace(path)
            return entries.map_array(file, wanted.shape, np.dtype(wanted.dtype))
    finally:
        beside.unlink(missing_ok=True)


def _begin(beside: Path, folder: Path, num_bytes: int) -> BinaryIO:
    """A file with its room on the disk, before anything is computed; entries that are made at the same time count each other's."""
    with locked(folder / "room"), _writable(beside):
        entries.make(folder, num_bytes)
        file = beside.open("w+b")
        entries.hold(file)
        try:
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        except OSError as error:
            if error.errno in _FULL:
                file.close()
                beside.unlink(missing_ok=True)
                raise entries.NoRoom(entries.refusal(folder, num_bytes, error.strerror)) from error
        return file


def _write(file: BinaryIO, path: Path, wanted: ArraySpec, compute: Compute) -> int:
    """The CRC-32 of what was written."""
    dtype, num_rows = np.dtype(wanted.dtype), 0
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype.str, "fortran_order": False, "shape": wanted.shape})
    checksum = zlib.crc32(header.getvalue())
    with _writable(path):
        file.write(header.getvalue())
    for part in compute():
        assert part.dtype == dtype and part.shape[1:] == wanted.shape[1:], f"{part.dtype} {part.shape} is no part of {wanted.shape}"
        num_rows += len(part)
        data = np.ascontiguousarray(part).data.cast("B")
        checksum = zlib.crc32(data, checksum)
        with _writable(path):
            file.write(data)
    assert num_rows == wanted.shape[0], f"{num_rows} rows instead of {wanted.shape[0]}"
    with _writable(path):
        file.flush()
    return checksum


def _say(wanted: ArraySpec) -> str:
    return f"{wanted.kind}: {', '.join(wanted.words.values())}"


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise errors.DataError(
            f"the cache folder {path.parent} cannot be written ({error.strerror or error}); "
            "make room there, or name another folder with TUNER_CACHE or --cache"
        ) from error
