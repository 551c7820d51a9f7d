"""Waiting in tests: for what processes bring about, and at the points where trainers wait for a test."""

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import psutil

T = TypeVar("T")


def until(found: Callable[[], T], timeout_seconds: float = 120.0) -> T:
    """Return what a call finds as soon as it is true; nothing tells a test of changes of files, processes and storages."""
    deadline = time.monotonic() + timeout_seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"still not so after {timeout_seconds:.0f} s"
        pass_seconds(0.02)
    return value


def pass_seconds(seconds: float) -> None:
    """Let time pass: where a fault has to last, time itself is what is tested."""
    time.sleep(seconds)


class WaitPoint:
    """Points at which trainers wait until the test lets them go on: "trial 0 epoch 3", or "epoch 3" of every trial.

    A trainer waits when the epoch is trained, before it reports the epoch. A rehearsed one (`Script.wait_at`) has written the checkpoint
    of the epoch by then, one that trains (`tests/acceptance/waiting_tuner.py`) that of the epoch before. An interruption ends the wait.
    """

    def __init__(self, folder: Path, *points: str) -> None:
        self._file = folder / f"{points[0].replace(' ', '-')}.go"
        self._reached = self._file.with_name(f"{self._file.name}.reached")
        #: each point and its file, as in `Script.wait_at`
        self.at = dict.fromkeys(points, str(self._file))

    @property
    def script(self) -> dict[str, Any]:
        """The script of a rehearsal that waits here."""
        return {"wait_at": self.at}

    def until_reached(self) -> None:
        """Wait until a trainer waits here."""
        until(self._reached.exists)

    def go_on(self) -> None:
        """End the wait, and let later trainers pass."""
        self._file.touch()


def crash(server: Any) -> None:
    """Do to a PostgreSQL server what `pg_ctl stop -m immediate` does."""
    postmaster = psutil.Process(server.get_pid())
    postmaster.send_signal(signal.SIGQUIT)
    postmaster.wait(60)


class Ticker:
    """A thread that does next to nothing, often: what it is late by, the machine itself adds to every time that a test measures."""

    _TICK_SECONDS = 0.05

    def __init__(self) -> None:
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)
        self._num_ticks, self._seconds = 0, 0.0
        #: the longest time between two ticks, beyond the time asked for
        self.delay_seconds = 0.0

    @property
    def stretch(self) -> float:
        """How many times longer than asked for the waits between ticks were, on average; at least 1."""
        return max(1.0, self._seconds / max(1, self._num_ticks) / self._TICK_SECONDS)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ends.set()
        self._thread.join()

    def _tick(self) -> None:
        before = time.monotonic()
        while not self._ends.wait(self._TICK_SECONDS):
            now = time.monotonic()
            self._num_ticks, self._seconds = self._num_ticks + 1, self._seconds + now - before
            self.delay_seconds = max(self.delay_seconds, now - before - self._TICK_SECONDS)
            before = now
