"""Files of the cache folder: written by one process of the host, read by all of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import filelock

from tuner import errors


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of one cache file; other processes wait. A process that dies lets go of it.

    Raises:
        DataError: the cache folder cannot be written.
    """
    lock = filelock.FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def written_beside(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its place when it is whole; hold the lock of `path` around it.

    Raises:
        DataError: the disk is full, or the cache folder cannot be written.
    """
    beside = path.with_name(path.name + ".part")
    try:
        with beside.open("wb") as file:
            yield file
        beside.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        beside.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> errors.DataError:
    return errors.DataError(
        f"the cache folder {path.parent} cannot be written ({error.strerror or error}); "
        "make room there, or name another folder with TUNER_CACHE or --cache"
    )
