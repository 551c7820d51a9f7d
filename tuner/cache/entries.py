"""One array of the cache folder and what is known of it: a .npy file, and beside it a .json file with words and a checksum.

An array that a process has mapped is locked by the mapping itself, for as long as it lives.

A size limit into what the cache folder keeps: the least recently used entries make room for new ones.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import numpy as np
from numpy.typing import NDArray

from tuner import errors

#: an entry of another version is none
_VERSION = 1
#: files of other names are not ours
NAME_PATTERN = "[0-9a-f]" * 24
_AT_ONCE = 16 * 2**20


@dataclass(frozen=True, kw_only=True)
class About:
    """What the .json file says."""

    version: int = _VERSION
    #: what the entry is, for people: study, data, backbone, size and the like
    words: dict[str, str]
    #: of the whole .npy file, bytes
    length: int
    #: CRC-32 of the whole .npy file
    checksum: int
    #: `stamp` of the .npy file when its checksum was last found right
    verified: str


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """An entry as it lies in the folder."""

    path: Path
    words: Mapping[str, str]
    num_bytes: int
    #: seconds since 1970
    last_used: float

    @property
    def kind(self) -> str:
        """images, features and the like."""
        return self.path.parent.name

    def is_in_use(self) -> bool:
        """Whether a process maps it."""
        with contextlib.suppress(FileNotFoundError), _alone(self.path) as is_alone:
            return not is_alone
        return False

    def damage(self, deadline: float) -> str | None:
        """What is wrong with it; None if nothing is seen. What was not verified since it was written is read if that ends by `deadline`."""
        about = read_about(self.path)
        if about is None:
            return "nothing is known of it, or it is of another version"
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            hold(file)
            try:
                _check_length(file, about)
                if about.verified != stamp(file):
                    _verify(file, about, deadline)
            except ValueError as error:
                return str(error)
        return None

    def remove(self) -> bool:
        """Delete it unless a process maps it; whether it is gone."""
        with contextlib.suppress(FileNotFoundError), _alone(self.path) as is_alone:
            if not is_alone:
                return False
            self.path.unlink(missing_ok=True)
            about_path(self.path).unlink(missing_ok=True)
        _remove_lock(self.path)
        return True


def find(folder: Path) -> list[CacheEntry]:
    """All entries of a cache folder, the least recently used first. Files that are no entries of ours are not among them."""
    return sorted((entry for path in folder.glob(f"*/{NAME_PATTERN}.npy") if (entry := _entry(path))), key=lambda entry: entry.last_used)


def num_bytes_unfinished(folder: Path) -> int:
    """Bytes of entries that are being written."""
    total = 0
    for path in folder.glob(f"*/{NAME_PATTERN}.npy.part"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def remove_unfinished(folder: Path) -> None:
    """Delete what killed processes left of entries that they wrote; no process may begin to write one meanwhile."""
    for path in folder.glob(f"*/{NAME_PATTERN}.npy.part"):
        with contextlib.suppress(FileNotFoundError), _alone(path) as is_alone:
            if is_alone:
                path.unlink()


def open_array(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """The array, mapped read-only; None if it is not there.

    Raises:
        ValueError: it is damaged, or another array than this; the message says how.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        hold(file)
        about = read_about(path)
        if about is None:
            raise ValueError("nothing is known of it")
        _check_length(file, about)
        if about.verified != (now := stamp(file)):
            _verify(file, about)
            with contextlib.suppress(OSError):  # a cache that may only be read serves too
                write_about(path, About(**asdict(about) | {"verified": now}))
        else:
            _touch(path)
        return map_array(file, shape, dtype)


def map_array(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The array of an open .npy file. The mapping shares the lock that the file has, and lets go of it when no one refers to it.

    Raises:
        ValueError: it is another array.
    """
    file.seek(0)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("it is of another version of NumPy's format")
    found = np.lib.format.read_array_header_1_0(file)
    if found != (shape, False, dtype):
        raise ValueError(f"it is {found[2]} {found[0]} instead of {dtype} {shape}")
    return np.memmap(file, dtype, "r", file.tell(), shape)


def hold(file: BinaryIO) -> None:
    """Lock a file that is read, mapped or written, until it is closed and no mapping is left."""
    with contextlib.suppress(OSError):  # a file system without locks: who maps a file that is deleted keeps it
        fcntl.flock(file, fcntl.LOCK_SH)


def stamp(file: BinaryIO) -> str:
    """What changes when the file changes, or the machine starts again: after a crash the disk may hold less than was written."""
    status = os.fstat(file.fileno())
    return f"{_boot()} {status.st_ino} {status.st_size} {status.st_mtime_ns}"


def about_path(path: Path) -> Path:
    """The .json file of a .npy file."""
    return path.with_suffix(".json")


def read_about(path: Path) -> About | None:
    """What is known of an entry; None if it is nothing, or damaged."""
    try:
        about = About(**json.loads(about_path(path).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return about if about.version == _VERSION and isinstance(about.words, dict) else None


def write_about(path: Path, about: About) -> None:
    """Write the .json file beside and rename it."""
    beside = path.with_suffix(f".{os.getpid()}.json.part")
    try:
        beside.write_text(json.dumps(asdict(about)), encoding="utf-8")
        beside.replace(about_path(path))
    finally:
        beside.unlink(missing_ok=True)


def _remove_lock(path: Path) -> None:
    """Delete the lock file of an entry that is gone, unless a process is about to make the entry again."""
    with contextlib.suppress(filelock.Timeout), filelock.FileLock(f"{path}.lock", timeout=0):
        Path(f"{path}.lock").unlink(missing_ok=True)


def _entry(path: Path) -> CacheEntry | None:
    """An entry as it lies there, also one of another version or of which nothing is known: it takes room all the same."""
    about = read_about(path)
    try:
        status = path.stat()
        if about is None:
            return CacheEntry(path=path, words={"what": "unknown"}, num_bytes=status.st_size, last_used=status.st_mtime)
        return CacheEntry(path=path, words=about.words, num_bytes=status.st_size, last_used=about_path(path).stat().st_mtime)
    except FileNotFoundError:
        return None


def _check_length(file: BinaryIO, about: About) -> None:
    length = os.fstat(file.fileno()).st_size
    if about.length != length:
        raise ValueError(f"it has {length:,} bytes instead of {about.length:,}")


def _verify(file: BinaryIO, about: About, deadline: float = float("inf")) -> None:
    """Compare the checksum; what is not read by `deadline`, by the monotonic clock, is left alone."""
    checksum = 0
    for part in _parts(file):
        if time.monotonic() > deadline:
            return
        checksum = zlib.crc32(part, checksum)
    if checksum != about.checksum:
        raise ValueError("its checksum is wrong")


def _parts(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while part := file.read(_AT_ONCE):
        yield part


def _touch(path: Path) -> None:
    with contextlib.suppress(OSError):  # a cache that may only be read serves too
        os.utime(about_path(path), (time.time(), time.time()))


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether no one holds a file; while the `with` lasts, no one can. A file that may not be written may be held."""
    try:
        opened = path.open("r+b")
    except FileNotFoundError:
        raise
    except OSError:
        yield False
        return
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            pass
        yield True


@cache
def _boot() -> str:
    """The machine's name for the time since it was started; where it has none, each process verifies for itself."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"process {os.getpid()} {time.time()}"


LIMIT = "TUNER_CACHE_LIMIT"
#: without a limit, the part of the disk's free space that the cache takes, what it holds already counted as free
SHARE = 0.5
#: the part of a disk that the cache leaves free whatever its limit is
_RESERVE = 0.02
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class NoRoom(errors.DataError):
    """An entry is larger than what the cache may still take."""


def make(folder: Path, num_bytes: int) -> None:
    """Delete the least recently used entries that no process maps, until so many bytes more are within the limit and on the disk.

    Hold a lock of the folder around it. Where no such deleting would do, nothing is deleted.

    Raises:
        NoRoom: the entry is too large.
    """
    remove_unfinished(folder)
    known = find(folder)
    held = sum(entry.num_bytes for entry in known) + num_bytes_unfinished(folder)
    disk = shutil.disk_usage(folder)
    limit = limit_bytes(folder, held)
    excess = max(held + num_bytes - limit, num_bytes - int(disk.free - _RESERVE * disk.total))
    if excess <= 0:
        return
    chosen, freed = [], 0
    for entry in known:
        if freed < excess and not entry.is_in_use():
            chosen.append(entry)
            freed += entry.num_bytes
    if freed < excess:
        raise NoRoom(_no_room(folder, num_bytes, limit=limit, unused=freed))
    for entry in chosen:
        entry.remove()


def limit_bytes(folder: Path, held: int | None = None) -> int:
    """The most that the entries of a cache folder take together; `held` is what they take now, if that is known.

    Raises:
        RequestError: TUNER_CACHE_LIMIT is no size.
    """
    given = os.environ.get(LIMIT)
    if given:
        return read_size(LIMIT, given)
    if held is None:
        held = sum(entry.num_bytes for entry in find(folder)) + num_bytes_unfinished(folder)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return int(SHARE * (shutil.disk_usage(there).free + held))


def read_size(name: str, given: str) -> int:
    """A size such as 800MB or 4GB in bytes; `name` starts the message of an error.

    Raises:
        RequestError: it is no size.
    """
    match = _SIZE.fullmatch(given.strip())
    if match is None or float(match[1]) <= 0:
        raise errors.RequestError(f"{name} is {given!r}; expected a size such as 800MB or 4GB.")
    return int(float(match[1]) * 1024 ** _POWERS[match[2].lower()])


def show_size(num_bytes: float) -> str:
    """`512 bytes`, `1.4 GB`."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if num_bytes < 1024:
            return f"{num_bytes:.3g} {unit}" if num_bytes < 1000 else f"{num_bytes:.0f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.3g} TB" if num_bytes < 1000 else f"{num_bytes:,.0f} TB"


def refusal(folder: Path, num_bytes: int, why: str | None) -> str:
    """What is said where the disk itself has no room."""
    cure = "Make room there, or name another folder with TUNER_CACHE or --cache"
    return f"the cache folder {folder} has no room for {show_size(num_bytes)} ({why or 'the disk is full'}). {cure}"


def _no_room(folder: Path, num_bytes: int, *, limit: int, unused: int) -> str:
    return (
        f"the cache folder {folder} has no room for {show_size(num_bytes)}: its limit is {show_size(limit)}, the disk has "
        f"{show_size(shutil.disk_usage(folder).free)} left, and of what the cache holds only {show_size(unused)} can be deleted, because "
        f"running processes use the rest. Raise the limit with {LIMIT} or --cache-limit, make room on the disk, or name another folder "
        "with TUNER_CACHE or --cache"
    )
