"""Cache entries: arrays in .npy files, each beside a .json file with a description and a checksum, within a size limit.

The mapping of an array holds a lock on its file for as long as the mapping lives. The least recently used entries make room for new ones.
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

#: version of the format; entries of other versions are not used
_VERSION = 1
#: pattern of the file names; other files do not belong to tuner
NAME_PATTERN = "[0-9a-f]" * 24
#: bytes that are read at once
_CHUNK_BYTES = 16 * 2**20
LIMIT = "TUNER_CACHE_LIMIT"
#: part of the disk's free space that the cache uses without a limit; its own files count as free
SHARE = 0.5
#: part of a disk that the cache always leaves free
_RESERVE = 0.02
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class CacheFull(errors.DataError):
    """The cache has no room for an entry."""


@dataclass(frozen=True, kw_only=True)
class About:
    """The contents of a .json file."""

    version: int = _VERSION
    #: readable description: study, data, backbone, size, …
    words: dict[str, str]
    #: size of the .npy file in bytes
    length: int
    #: CRC-32 of the .npy file
    checksum: int
    #: `stamp` of the .npy file when its checksum was last verified
    verified: str


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """An entry of the cache folder."""

    path: Path
    words: Mapping[str, str]
    num_bytes: int
    #: seconds since 1970
    last_used: float

    @property
    def kind(self) -> str:
        """The kind of array: images, features, …"""
        return self.path.parent.name

    def is_in_use(self) -> bool:
        """Return whether a process uses it."""
        with contextlib.suppress(FileNotFoundError), _alone(self.path) as is_alone:
            return not is_alone
        return False

    def damage(self, deadline: float) -> str | None:
        """Return the damage of the entry, or None; an entry that was not verified since it was written is read until `deadline`."""
        about = read_about(self.path)
        if about is None:
            return "its description is missing or of another version"
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
        """Delete it unless a process uses it; return whether it is deleted."""
        with contextlib.suppress(FileNotFoundError), _alone(self.path) as is_alone:
            if not is_alone:
                return False
            self.path.unlink(missing_ok=True)
            about_path(self.path).unlink(missing_ok=True)
        _remove_lock(self.path)
        return True


def find(folder: Path) -> list[CacheEntry]:
    """Return the entries of a cache folder, least recently used first, without files that do not belong to tuner."""
    return sorted((entry for path in folder.glob(f"*/{NAME_PATTERN}.npy") if (entry := _entry(path))), key=lambda entry: entry.last_used)


def num_bytes_unfinished(folder: Path) -> int:
    """Return the size of all entries that are being written."""
    total = 0
    for path in folder.glob(f"*/{NAME_PATTERN}.npy.part"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def remove_unfinished(folder: Path) -> None:
    """Delete partly written entries of killed processes; the caller ensures that no process starts to write one meanwhile."""
    for path in folder.glob(f"*/{NAME_PATTERN}.npy.part"):
        with contextlib.suppress(FileNotFoundError), _alone(path) as is_alone:
            if is_alone:
                path.unlink()


def open_array(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """Map an array read-only; return None if it does not exist.

    Raises:
        ValueError: it is damaged, or has another shape or type; the message says how.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        hold(file)
        about = read_about(path)
        if about is None:
            raise ValueError("its description is missing or of another version")
        _check_length(file, about)
        if about.verified != (now := stamp(file)):
            _verify(file, about)
            with contextlib.suppress(OSError):  # a read-only cache can be used, too
                write_about(path, About(**asdict(about) | {"verified": now}))
        else:
            _touch(path)
        return map_array(file, shape, dtype)


def map_array(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Map the array of an open .npy file; the mapping keeps the lock of the file until it is not used any more.

    Raises:
        ValueError: it has another shape or type.
    """
    file.seek(0)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("it has another version of NumPy's format")
    found = np.lib.format.read_array_header_1_0(file)
    if found != (shape, False, dtype):
        raise ValueError(f"it is {found[2]} {found[0]} instead of {dtype} {shape}")
    return np.memmap(file, dtype, "r", file.tell(), shape)


def hold(file: BinaryIO) -> None:
    """Lock a file until it is closed and no mapping is left."""
    with contextlib.suppress(OSError):  # a file system without locks; a mapping keeps a deleted file readable
        fcntl.flock(file, fcntl.LOCK_SH)


def stamp(file: BinaryIO) -> str:
    """Return a text that changes when the file changes or the machine restarts; after a crash, the disk may lack written data."""
    status = os.fstat(file.fileno())
    return f"{_boot()} {status.st_ino} {status.st_size} {status.st_mtime_ns}"


def about_path(path: Path) -> Path:
    """Return the .json file of a .npy file."""
    return path.with_suffix(".json")


def read_about(path: Path) -> About | None:
    """Read the description of an entry; return None if it is missing, damaged or of another version."""
    try:
        about = About(**json.loads(about_path(path).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return about if about.version == _VERSION and isinstance(about.words, dict) else None


def write_about(path: Path, about: About) -> None:
    """Write the .json file, beside its target and renamed."""
    beside = path.with_suffix(f".{os.getpid()}.json.part")
    try:
        beside.write_text(json.dumps(asdict(about)), encoding="utf-8")
        beside.replace(about_path(path))
    finally:
        beside.unlink(missing_ok=True)


def _remove_lock(path: Path) -> None:
    """Delete the lock file of a deleted entry, unless a process is creating the entry again."""
    with contextlib.suppress(filelock.Timeout), filelock.FileLock(f"{path}.lock", timeout=0):
        Path(f"{path}.lock").unlink(missing_ok=True)


def _entry(path: Path) -> CacheEntry | None:
    """Read an entry, even without a description, because it also takes space; return None if it was deleted meanwhile."""
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
    """Compare the checksum, or give up at `deadline` (monotonic clock)."""
    checksum = 0
    for part in _parts(file):
        if time.monotonic() > deadline:
            return
        checksum = zlib.crc32(part, checksum)
    if checksum != about.checksum:
        raise ValueError("its checksum is wrong")


def _parts(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while part := file.read(_CHUNK_BYTES):
        yield part


def _touch(path: Path) -> None:
    with contextlib.suppress(OSError):  # a read-only cache can be used, too
        os.utime(about_path(path), (time.time(), time.time()))


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Yield whether no process holds a file, and prevent it while the `with` block runs; a read-only file counts as held."""
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
    """Return the id of the machine's last start; without one, each process verifies for itself."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"process {os.getpid()} {time.time()}"


def make_room(folder: Path, num_bytes: int) -> None:
    """Delete the least recently used entries that no process uses, until `num_bytes` fit within the limit and on the disk.

    The caller holds a lock of the folder. If even that is not sufficient, nothing is deleted.

    Raises:
        CacheFull: the cache has no room for the entry.
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
        raise CacheFull(_no_room(folder, num_bytes, limit=limit, unused=freed))
    for entry in chosen:
        entry.remove()


def limit_bytes(folder: Path, held: int | None = None) -> int:
    """Return the size limit of a cache folder; `held` is its current size, if known.

    Raises:
        RequestError: TUNER_CACHE_LIMIT is not a size.
    """
    given = os.environ.get(LIMIT)
    if given:
        return read_size(LIMIT, given)
    if held is None:
        held = sum(entry.num_bytes for entry in find(folder)) + num_bytes_unfinished(folder)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return int(SHARE * (shutil.disk_usage(existing).free + held))


def read_size(name: str, given: str) -> int:
    """Return a size such as 800MB or 4GB in bytes; `name` is the option or variable in the message of an error.

    Raises:
        RequestError: it is not a size.
    """
    match = _SIZE.fullmatch(given.strip())
    if match is None or float(match[1]) <= 0:
        raise errors.RequestError(f"{name} is {given!r}; expected a size such as 800MB or 4GB.")
    return int(float(match[1]) * 1024 ** _POWERS[match[2].lower()])


def show_size(num_bytes: float) -> str:
    """Return a readable size: `512 bytes`, `1.4 GB`."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if num_bytes < 1024:
            return f"{num_bytes:.3g} {unit}" if num_bytes < 1000 else f"{num_bytes:.0f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.3g} TB" if num_bytes < 1000 else f"{num_bytes:,.0f} TB"


def refusal(folder: Path, num_bytes: int, why: str | None) -> str:
    """Return the message for a full disk."""
    cure = "Free some space there, or name another folder with TUNER_CACHE or --cache"
    return f"the cache folder {folder} has no room for {show_size(num_bytes)} ({why or 'the disk is full'}). {cure}"


def _no_room(folder: Path, num_bytes: int, *, limit: int, unused: int) -> str:
    return (
        f"the cache folder {folder} has no room for {show_size(num_bytes)}: its limit is {show_size(limit)}, the disk has "
        f"{show_size(shutil.disk_usage(folder).free)} free, and only {show_size(unused)} of the cache can be deleted, because "
        f"running processes use the rest. Raise the limit with {LIMIT} or --cache-limit, free some space on the disk, or name another "
        "folder with TUNER_CACHE or --cache"
    )
