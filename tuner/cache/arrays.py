"""Arrays of the cache folder: one process of the host computes an array, and all processes map it."""

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
#: errors for a full disk; other errors mean that the file system cannot reserve space, so only writing shows whether there is some
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

#: time between two ticks of a process that waits for another one
TICK_SECONDS = 5.0

Compute = Callable[[], Iterable[NDArray[Any]]]
Tick = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """The description of an array."""

    #: sub-folder: images, features, activations, …
    kind: str
    #: everything that the contents depend on; each key has its own entry
    key: str
    shape: tuple[int, ...]
    #: name in NumPy: uint8, float16
    dtype: str
    #: description for `tuner cache`: study, data, backbone, size, what
    words: Mapping[str, str]

    @property
    def num_bytes(self) -> int:
        """Size without the header."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def path(self, folder: Path) -> Path:
        """Return its .npy file."""
        name = hashlib.sha256(f"{self.key}\n{self.shape} {self.dtype}".encode()).hexdigest()
        return folder / self.kind / f"{name[:24]}.npy"


def _no_tick() -> None:
    """Do nothing while waiting."""


def entry(folder: Path, wanted: ArraySpec, compute: Compute, *, tick: Tick = _no_tick, tick_seconds: float = TICK_SECONDS) -> NDArray[Any]:
    """Return an array, mapped read-only from a file of the cache; the file is not deleted while the array is in use.

    The first process computes the array; others wait and map the same file. `compute` yields its rows in parts of any size. A damaged
    file is computed again. `tick` is called every `tick_seconds` while waiting; it may raise an error to stop waiting.

    Raises:
        CacheFull: the cache has no room for the array; nothing was computed.
        DataError: the disk is full, or the cache folder cannot be written.
    """
    if 0 in wanted.shape:
        return np.empty(wanted.shape, wanted.dtype)
    found = find(folder, wanted)
    if found is not None:
        return found
    path = wanted.path(folder)
    with locked(path, tick=tick, tick_seconds=tick_seconds):
        found = find(folder, wanted)
        return found if found is not None else _make(folder, wanted, compute)


def optional(
    folder: Path, wanted: ArraySpec, compute: Compute, *, tick: Tick = _no_tick, tick_seconds: float = TICK_SECONDS
) -> NDArray[Any] | None:
    """Return an array like `entry`, or None without computing anything if the cache has no room for it."""
    try:
        return entry(folder, wanted, compute, tick=tick, tick_seconds=tick_seconds)
    except entries.CacheFull as error:
        _LOG.warning("not cached: %s: %s", _shown(wanted), error)
        return None


def find(folder: Path, wanted: ArraySpec) -> NDArray[Any] | None:
    """Return an array if it is in the cache and undamaged."""
    path = wanted.path(folder)
    try:
        return entries.open_array(path, wanted.shape, np.dtype(wanted.dtype))
    except (ValueError, OSError) as error:
        _LOG.warning("the cache entry %s (%s) is damaged and will be computed again: %s", path, _shown(wanted), error)
        return None


def remove(folder: Path, chosen: Iterable[entries.CacheEntry]) -> list[entries.CacheEntry]:
    """Delete entries that no process uses, and partly written files of killed processes; return the deleted entries.

    Raises:
        DataError: the cache folder cannot be written.
    """
    with locked(folder / "room"), _writable(folder / "room"):
        entries.remove_unfinished(folder)
        return [entry for entry in chosen if entry.remove()]


@contextmanager
def locked(path: Path, *, tick: Tick = _no_tick, tick_seconds: float = TICK_SECONDS) -> Iterator[None]:
    """Hold the lock of a cache file while a `with` block runs; other processes wait. The lock of a process that dies is released.

    Raises:
        DataError: the cache folder cannot be written.
    """
    lock = filelock.FileLock(f"{path}.lock")
    with _writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    while not _acquire(lock, path, tick_seconds):
        tick()
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: filelock.BaseFileLock, path: Path, tick_seconds: float) -> bool:
    """Return whether the lock was acquired before the next tick."""
    with _writable(path):
        try:
            lock.acquire(timeout=tick_seconds)
        except filelock.Timeout:  # an OSError too
            return False
    return True


@contextmanager
def written_beside(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` when it is complete; the caller holds the lock of `path`.

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
    """Open a file and reserve its space on the disk before anything is computed; entries written at the same time count, too."""
    with locked(folder / "room"), _writable(beside):
        entries.make_room(folder, num_bytes)
        file = beside.open("w+b")
        entries.hold(file)
        try:
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        except OSError as error:
            if error.errno in _FULL:
                file.close()
                beside.unlink(missing_ok=True)
                raise entries.CacheFull(entries.refusal(folder, num_bytes, error.strerror)) from error
        return file


def _write(file: BinaryIO, path: Path, wanted: ArraySpec, compute: Compute) -> int:
    """Write all rows; return their CRC-32."""
    dtype, num_rows = np.dtype(wanted.dtype), 0
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype.str, "fortran_order": False, "shape": wanted.shape})
    checksum = zlib.crc32(header.getvalue())
    with _writable(path):
        file.write(header.getvalue())
    for part in compute():
        assert part.dtype == dtype and part.shape[1:] == wanted.shape[1:], f"{part.dtype} {part.shape} is not a part of {wanted.shape}"
        num_rows += len(part)
        data = np.ascontiguousarray(part).data.cast("B")
        checksum = zlib.crc32(data, checksum)
        with _writable(path):
            file.write(data)
    assert num_rows == wanted.shape[0], f"{num_rows} rows instead of {wanted.shape[0]}"
    with _writable(path):
        file.flush()
    return checksum


def _shown(wanted: ArraySpec) -> str:
    return f"{wanted.kind}: {', '.join(wanted.words.values())}"


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise errors.DataError(
            f"the cache folder {path.parent} cannot be written ({error.strerror or error}); "
            "free some space there, or name another folder with TUNER_CACHE or --cache"
        ) from error
