"""How a running study is shown: a live view on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from tuner.search.progress import Snapshot
from tuner.spec import StudySpec
from tuner.terminal import live, news, plain, printing
from tuner.workers.events import Event


class Screen(Protocol):
    """Something that shows a study while it runs, inside a `with`."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def tell(self, event: Event, *, is_best: bool) -> None:
        """Something happened."""
        ...

    def show(self, snapshot: Snapshot) -> None:
        """This is how things are."""
        ...

    def stopping(self) -> None:
        """The end was asked for."""
        ...


class PlainScreen:
    """One line an event, for logs and for programs that read them."""

    def __init__(self, spec: StudySpec, address: str | None) -> None:
        self._name = spec.name
        self._address = address
        self._is_stopping = False

    def __enter__(self) -> Self:
        if self._address:
            plain.line(f"{self._name} dashboard at {self._address}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return

    def tell(self, event: Event, *, is_best: bool) -> None:
        """Print a line."""
        said = news.plain(event, is_best=is_best)
        if said is not None:
            plain.line(said)

    def show(self, snapshot: Snapshot) -> None:
        """Lines tell it all."""

    def stopping(self) -> None:
        """Say once that the end was asked for."""
        if not self._is_stopping:
            self._is_stopping = True
            plain.line(f"{self._name} stopping: running trials are kept for the next run")


class Paced:
    """Calls something again and again, but not more often than it should be."""

    def __init__(self, act: Callable[[], None], *, every_seconds: float) -> None:
        self._act = act
        self._every_seconds = every_seconds
        self._due = 0.0

    def __call__(self) -> None:
        """Do it if it is time."""
        if time.monotonic() >= self._due:
            self._act()
            self._due = time.monotonic() + self._every_seconds


def choose(spec: StudySpec, address: str | None) -> Screen:
    """The screen for where stderr leads."""
    return live.LiveScreen(spec, address) if printing.stderr().is_terminal else PlainScreen(spec, address)
