"""A path into what is known of the disk below it: its kind, its free space, whether it can be written."""

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import psutil

from tuner.data import room
from tuner.doctor import findings
from tuner.doctor.findings import Finding

#: on these the locks of SQLite do not hold
_NETWORK = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "lustre", "ceph", "fuse.ceph", "gluster", "fuse.gluster", "beegfs", "gpfs", "afs")
_FULL_BYTES = 200 * 2**20
_SCARCE_BYTES = 2 * 2**30


class Mount(Protocol):
    """A mounted file system, as psutil tells of it."""

    @property
    def mountpoint(self) -> str:
        """The folder at which it is seen."""

    @property
    def fstype(self) -> str:
        """Its kind."""


def nearest(path: Path) -> Path:
    """The path, or the first folder above it that is there."""
    whole = path.absolute()
    return next(there for there in (whole, *whole.parents) if there.exists())


def kind(path: Path) -> str:
    """The kind of file system that holds a path; empty if it is not known."""
    return kind_among(nearest(path).resolve(), psutil.disk_partitions(all=True))


def kind_among(path: Path, mounts: Iterable[Mount]) -> str:
    """The kind of the innermost of the mounts that holds a path; of two at one place, the later one hides the other."""
    holding = [mount for mount in mounts if path.is_relative_to(mount.mountpoint)]
    # `max` takes the first of equals
    return max(reversed(holding), key=lambda mount: len(Path(mount.mountpoint).parts)).fstype if holding else ""


def is_network(kind: str) -> bool:
    """Whether a kind of file system lies on another machine."""
    return kind.lower().startswith(_NETWORK)


def space(subject: str, path: Path) -> Finding:
    """How much is free where a path lies."""
    return judge_space(subject, nearest(path), shutil.disk_usage(nearest(path)).free)


def judge_space(subject: str, folder: Path, free_bytes: int) -> Finding:
    """Whether so much is enough."""
    found = f"{room.show_size(free_bytes)} free on the disk of {folder}"
    if free_bytes < _FULL_BYTES:
        return findings.problem(subject, found, "make room there")
    if free_bytes < _SCARCE_BYTES:
        return findings.warning(subject, found, f"make room there; a study needs {room.show_size(_SCARCE_BYTES)} or more")
    return findings.ok(subject, found)


def writable(subject: str, folder: Path, option: str) -> Iterator[Finding]:
    """Whether files can be made in a folder, by making one; one that is not there is not made, but it must be possible."""
    cure = f"let this user write it, or name another folder with {option}"
    there = nearest(folder)
    if not there.is_dir():
        yield findings.problem(subject, f"{there} is a file", f"name a folder with {option}")
    elif there != folder.absolute():
        if os.access(there, os.W_OK | os.X_OK):
            yield findings.ok(subject, f"{folder} is not there yet and can be made in {there}")
        else:
            yield findings.problem(subject, f"{folder} is not there, and {there} cannot be written", cure)
    else:
        try:
            _write(folder)
        except OSError as error:
            yield findings.problem(subject, f"{folder} cannot be written: {error.strerror or error}", cure)
        else:
            yield findings.ok(subject, f"{folder} can be written")


def _write(folder: Path) -> None:
    """Write, flush, rename and delete a file, as what is kept there is written."""
    beside, path = (folder / f".tuner-doctor-{os.getpid()}{end}" for end in (".part", ""))
    try:
        with beside.open("wb") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
