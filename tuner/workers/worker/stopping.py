"""Signals, a closed pipe or a caller's word, into how urgently a worker is to stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopping:
    """Nothing, `is_asked` (hand the running trial back) or `is_urgent` (drop everything); it only ever grows."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._urgent = threading.Event()

    @property
    def is_asked(self) -> bool:
        """Whether the worker is to end in order."""
        return self._asked.is_set()

    @property
    def is_urgent(self) -> bool:
        """Whether the worker is to end at once."""
        return self._urgent.is_set()

    def ask(self) -> None:
        """Stop in order; asked again, at once."""
        if self._asked.is_set():
            self._urgent.set()
        self._asked.set()

    def wait(self, timeout_seconds: float) -> bool:
        """Sleep until someone asks; whether someone did."""
        return self._asked.wait(timeout_seconds)

    def wait_for_more(self, timeout_seconds: float) -> bool:
        """Sleep until someone asks for the first time, or is in a greater hurry than before; whether someone was."""
        return (self._urgent if self._asked.is_set() else self._asked).wait(timeout_seconds)

    def ask_when_closed(self, pipe: Connection) -> threading.Thread:
        """Stop in order when the process at the other end of `pipe` is gone; each message from there asks, too."""
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
    """Inside, a SIGINT, SIGTERM or SIGHUP asks `stopping`; only in a process's main thread."""

    def ask(number: int, frame: FrameType | None) -> None:
        stopping.ask()

    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
