"""Machine: cores and memory of this process within the limits of its container (cgroup v2), its user, its paths, its sleep."""

import gc
import getpass
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def user_name() -> str:
    """Return the system's name for the user who runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown user"


def collect_garbage_rarely() -> None:
    """Make this process search for garbage after 50,000 new objects instead of 700, so that imports take a tenth less time."""
    gc.set_threshold(50_000)


def num_cores() -> int:
    """Return the number of cores that this process may use, rounded down, at least one."""
    allowed = [int(cores) for text in _limits("cpu.max") if (cores := read_cores(text)) is not None]
    return max(1, min([len(os.sched_getaffinity(0)), *allowed]))


def memory_bytes() -> int:
    """Return the bytes of memory that this process may use."""
    allowed = [memory for text in _limits("memory.max") if (memory := read_memory_bytes(text)) is not None]
    return min([int(psutil.virtual_memory().total), *allowed])


@dataclass(frozen=True, kw_only=True)
class TrainerShare:
    """The share of the machine that a trainer may use."""

    #: threads of one operation; 0 means all cores
    threads: int
    #: MiB of GPU memory; None means as much as it needs, allocated on demand
    memory_limit_mb: int | None = None
    #: whether a GPU is assigned to the trainer
    has_gpu: bool = False
    #: bytes of the machine's memory
    memory_bytes: int = field(default_factory=memory_bytes)

    @property
    def tensor_bytes(self) -> int:
        """Bytes for tensors, which are created in the machine's memory and copied to the GPU's; its size is known only if limited."""
        return self.memory_bytes if self.memory_limit_mb is None else min(self.memory_bytes, self.memory_limit_mb * 2**20)


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


class AwakeClock:
    """A clock that stands still while this process sleeps: while it is stopped, or while its machine is suspended.

    Read the clock at least once a period: a longer pause between two readings counts as sleep.
    """

    def __init__(self, clock: Callable[[], float], *, period_seconds: float, least_seconds: float) -> None:
        """A pause counts as sleep from `least_seconds` beyond the period: a busy machine delays its processes, too."""
        self._clock = clock
        self._period_seconds = period_seconds
        self._least_seconds = least_seconds
        self._lock = threading.Lock()
        self._read_at: float | None = None
        self._slept_seconds = 0.0
        self._woke_at = -math.inf

    def seconds(self) -> float:
        """Return the time on this clock; only differences have a meaning."""
        with self._lock:
            return self._read() - self._slept_seconds

    def slept(self) -> tuple[float, float]:
        """Return the seconds of all sleep so far, and the seconds since its end."""
        with self._lock:
            now = self._read()
            return self._slept_seconds, now - self._woke_at

    def stop(self) -> None:
        """Do not count the pause until the next reading as sleep."""
        with self._lock:
            self._read_at = None

    def _read(self) -> float:
        now = self._clock()
        late = 0.0 if self._read_at is None else now - self._read_at - self._period_seconds
        if late >= self._least_seconds:
            self._slept_seconds += late
            self._woke_at = now
        self._read_at = now
        return now


class SleepWatch:
    """Two clocks that stand still while this process sleeps, and a thread that reads them."""

    def __init__(self, *, period_seconds: float, least_seconds: float) -> None:
        self._period_seconds = period_seconds
        #: the clock of durations in this process; it stands still in a suspended machine anyway, but not in a stopped process
        self.running = AwakeClock(time.monotonic, period_seconds=period_seconds, least_seconds=least_seconds)
        #: the clock that the other machines have
        self.passing = AwakeClock(_passing_seconds, period_seconds=period_seconds, least_seconds=least_seconds)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Notice sleep while a `with` block runs."""
        ended = threading.Event()
        thread = threading.Thread(target=self._watch, args=(ended,), name="sleep-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _watch(self, ended: threading.Event) -> None:
        while True:
            self.running.seconds()
            self.passing.seconds()
            if ended.wait(self._period_seconds):
                break
        self.running.stop()
        self.passing.stop()


def _passing_seconds() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
