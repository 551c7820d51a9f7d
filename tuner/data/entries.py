"""One array of the cache folder and what is known of it: a .npy file, and beside it a .json file with words and a checksum.

An array that a process has mapped is locked by the mapping itself, for as long as it lives.
"""

import contextlib
import fcntl
import json
import os
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
class Entry:
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


def find(folder: Path) -> list[Entry]:
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


def _entry(path: Path) -> Entry | None:
    """An entry as it lies there, also one of another version or of which nothing is known: it takes room all the same."""
    about = read_about(path)
    try:
        status = path.stat()
        if about is None:
            return Entry(path=path, words={"what": "unknown"}, num_bytes=status.st_size, last_used=status.st_mtime)
        return Entry(path=path, words=about.words, num_bytes=status.st_size, last_used=about_path(path).stat().st_mtime)
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
