"""Cores and memory that this process may use: those of the machine, or fewer where its container (cgroup v2) grants fewer."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def num_cores() -> int:
    """Cores, of a granted share of them only the whole ones, at least one."""
    granted = [int(cores) for text in _limits("cpu.max") if (cores := read_cores(text)) is not None]
    return max(1, min([len(os.sched_getaffinity(0)), *granted]))


def memory_bytes() -> int:
    """Memory."""
    granted = [memory for text in _limits("memory.max") if (memory := read_memory_bytes(text)) is not None]
    return min([int(psutil.virtual_memory().total), *granted])


def read_cores(text: str) -> float | None:
    """The cores that a `cpu.max` grants, quota over period; None if it sets no limit."""
    match text.split():
        case [quota, period] if quota.isdigit() and period.isdigit() and int(period) > 0:
            return int(quota) / int(period)
    return None


def read_memory_bytes(text: str) -> int | None:
    """The bytes that a `memory.max` grants; None if it sets no limit."""
    return int(text) if text.strip().isdigit() else None


def folders(own: str, root: Path) -> Iterator[Path]:
    """The folders of a process's cgroup and of those around it, by what its `/proc/self/cgroup` says; each of them sets a limit."""
    path = next((line.removeprefix("0::/") for line in own.splitlines() if line.startswith("0::/")), "")
    if ".." not in path:  # the process was put into a cgroup outside of what it can see
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
            pass  # the root has no limits, nor has a machine without cgroup v2
