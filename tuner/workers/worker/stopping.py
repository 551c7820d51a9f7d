"""Stopping: whether a worker is asked to stop, by a signal, a closed pipe or a call, and how urgently."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopping:
    """Three steps, which are never undone: run, `is_asked` (release the running trial, then end) and `is_urgent` (end at once)."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._urgent = threading.Event()

    @property
    def is_asked(self) -> bool:
        """Whether the worker must release its trial and end."""
        return self._asked.is_set()

    @property
    def is_urgent(self) -> bool:
        """Whether the worker must end at once."""
        return self._urgent.is_set()

    def ask(self) -> None:
        """Ask to stop; a second call makes it urgent."""
        if self._asked.is_set():
            self._urgent.set()
        self._asked.set()

    def wait(self, timeout_seconds: float) -> bool:
        """Sleep until someone asks to stop; return whether someone did."""
        return self._asked.wait(timeout_seconds)

    def wait_for_more(self, timeout_seconds: float) -> bool:
        """Sleep until the next step, from run to asked or from asked to urgent; return whether it was reached."""
        return (self._urgent if self._asked.is_set() else self._asked).wait(timeout_seconds)

    def ask_when_closed(self, pipe: Connection) -> threading.Thread:
        """Ask to stop when the process at the other end of `pipe` ends, and for each message from there."""
        thread = threading.Thread(target=self._watch, args=(pipe,), name="pipe-watch", daemon=True)
        thread.start()
        return thread

    def _watch(self, pipe: Connection) -> None:
        try:
            while True:
                pipe.recv_bytes()
                self.ask()
        except (EOFError, OSError):
            if not self.is_asked:
                self.ask()


@contextmanager
def on_signals(stopping: Stopping) -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into `stopping.ask()` while a `with` block runs; only for a main thread."""

    def ask(number: int, frame: FrameType | None) -> None:
        stopping.ask()

    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
