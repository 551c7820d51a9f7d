"""Disks without room: a real small one where this process may mount it, else files of a process that cannot grow."""

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def capped(num_bytes: int, *, pid: int = 0) -> Iterator[None]:
    """No file of a process grows beyond so many bytes, as if the disk were full: a write fails with EFBIG, which Python gets as OSError.

    It needs no right but that of the process's own user, and takes hold and ends while the process runs. 0 is this process; children
    that are started meanwhile inherit it.
    """
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def small(folder: Path, num_bytes: int) -> Iterator[Path]:
    """A file system of its own on a folder, with so much room.

    Raises:
        PermissionError: this process may not mount one, as in a container without CAP_SYS_ADMIN.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", folder], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermissionError(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path, *, leave: int = 0) -> Path:
    """A file that takes what is free where a folder lies, but for so many bytes; delete it to make room. Only for a small file system."""
    found = os.statvfs(folder)
    assert found.f_blocks * found.f_frsize < 2**30, f"{folder} lies on a large disk, which is not to be filled"
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
        file.truncate(max(0, file.tell() - leave))
    return path
