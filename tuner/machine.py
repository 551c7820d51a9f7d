"""Machine: the cores and the memory that this process may use, within the limits of its container (cgroup v2), and its paths."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def num_cores() -> int:
    """Return the number of cores that this process may use, rounded down, at least one."""
    allowed = [int(cores) for text in _limits("cpu.max") if (cores := read_cores(text)) is not None]
    return max(1, min([len(os.sched_getaffinity(0)), *allowed]))


def memory_bytes() -> int:
    """Return the bytes of memory that this process may use."""
    allowed = [memory for text in _limits("memory.max") if (memory := read_memory_bytes(text)) is not None]
    return min([int(psutil.virtual_memory().total), *allowed])


def read_cores(text: str) -> float | None:
    """Return the cores that a `cpu.max` file allows (quota divided by period); None if it sets no limit."""
    match text.split():
        case [quota, period] if quota.isdigit() and period.isdigit() and int(period) > 0:
            return int(quota) / int(period)
    return None


def read_memory_bytes(text: str) -> int | None:
    """Return the bytes that a `memory.max` file allows; None if it sets no limit."""
    return int(text) if text.strip().isdigit() else None


def folders(own: str, root: Path) -> Iterator[Path]:
    """Yield the folders of a process's cgroup and its parents, given the content of `/proc/self/cgroup`; each may set a limit."""
    path = next((line.removeprefix("0::/") for line in own.splitlines() if line.startswith("0::/")), "")
    if ".." not in path:  # the process is in a cgroup that it cannot see
        yield from (root / path, *(root / parent for parent in Path(path).parents))
    else:
        yield root


def _limits(name: str) -> Iterator[str]:
    try:
        own = _OWN_CGROUP.read_text(encoding="utf-8")
    except OSError:
        return
    for folder in folders(own, _CGROUPS):
        try:
            yield (folder / name).read_text(encoding="ascii")
        except OSError:
            pass  # the root cgroup and machines without cgroup v2 have no limits


def without_windows(given: str) -> str | None:
    r"""Return a path of Windows as WSL mounts it: `C:\photos` is /mnt/c/photos; None for any other path."""
    if found := re.fullmatch(r"([A-Za-z]):[\\/](.*)", given):
        return f"/mnt/{found[1].lower()}/{found[2]}".replace("\\", "/")
    return f"/mnt/{given[2:]}".replace("\\", "/") if given.startswith("\\\\") else None
