"""A size limit into what the cache folder keeps: the least recently used entries make room for new ones."""

import os
import re
import shutil
from pathlib import Path

from tuner import errors
from tuner.data import entries

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
    entries.remove_unfinished(folder)
    known = entries.find(folder)
    held = sum(entry.num_bytes for entry in known) + entries.num_bytes_unfinished(folder)
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
        held = sum(entry.num_bytes for entry in entries.find(folder)) + entries.num_bytes_unfinished(folder)
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
