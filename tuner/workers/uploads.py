"""Files that are to be put into a bucket, or deleted there, in the background: one after another, each until it succeeds."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tuner.errors import ArtifactsError

#: pauses between two tries while the bucket does not take anything
_PAUSE_SECONDS = (1.0, 30.0)
_LOOK_SECONDS = 0.2


class Goal(Protocol):
    """What files are put into."""

    def put(self, key: str, path: Path) -> None:
        """Have a file there, whole or not at all."""

    def remove(self, key: str) -> None:
        """Delete a file, if it is there."""


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What is to be at a key."""

    #: None: nothing
    path: Path | None
    #: whether the file here is deleted once it is there
    is_moved: bool = False


class Uploads:
    """Of several wishes for one key only the latest counts, so what waits is bounded by the trials at work; an outage is told of once."""

    def __init__(self, goal: Goal, trouble: Callable[[str], None]) -> None:
        self._goal, self._trouble = goal, trouble
        self._changed = threading.Condition()
        self._due: dict[str, _Wish] = {}
        self._at_work: tuple[str, _Wish] | None = None
        self._is_forgotten = False
        self._closing = threading.Event()
        #: whether the last try failed
        self.is_away = False
        threading.Thread(target=self._go_on, name="uploads", daemon=True).start()

    def put(self, key: str, path: Path) -> None:
        """Have a file there as it is when its turn comes."""
        self._want(key, _Wish(path=path))

    def move(self, key: str, path: Path) -> None:
        """Have a file there, and not here any more."""
        self._want(key, _Wish(path=path, is_moved=True))

    def remove(self, key: str) -> None:
        """Have nothing there."""
        self._want(key, _Wish(path=None))

    def forget(self, key: str) -> None:
        """Try no more."""
        with self._changed:
            self._due.pop(key, None)
            self._is_forgotten = self._is_forgotten or (self._at_work is not None and key == self._at_work[0])

    def wait(self, key: str | None = None, *, seconds: float, unless: Callable[[], bool]) -> bool:
        """Wait until a key is as it was wanted, without one until all are; False if it takes too long, or `unless` comes true."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._is_due(key):
                if time.monotonic() > deadline or unless():
                    return False
                self._changed.wait(_LOOK_SECONDS)
        return True

    def close(self) -> list[Path]:
        """Begin nothing more; the files that are to be there and are not."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
            wishes = [*([self._at_work[1]] if self._at_work else []), *self._due.values()]
            return [wish.path for wish in wishes if wish.path is not None and wish.is_moved]

    def _is_due(self, key: str | None) -> bool:
        at_work = () if self._at_work is None else (self._at_work[0],)
        return bool(self._due or at_work) if key is None else key in self._due or key in at_work

    def _want(self, key: str, wish: _Wish) -> None:
        with self._changed:
            self._due.pop(key, None)  # it is behind what was wanted before
            self._due[key] = wish
            self._changed.notify_all()

    def _next(self) -> tuple[str, _Wish] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._due or self._closing.is_set())
            if self._closing.is_set():
                return None
            key = next(iter(self._due))
            self._at_work, self._is_forgotten = (key, self._due.pop(key)), False
            return self._at_work

    def _go_on(self) -> None:
        pause_seconds = _PAUSE_SECONDS[0]
        while (wanted := self._next()) is not None:
            key, wish = wanted
            try:
                self._fulfil(key, wish)
            except ArtifactsError as error:
                self._put_off(key, wish, error)
                self._closing.wait(pause_seconds)
                pause_seconds = min(_PAUSE_SECONDS[1], 2 * pause_seconds)
            else:
                self.is_away, pause_seconds = False, _PAUSE_SECONDS[0]
                self._rest()

    def _fulfil(self, key: str, wish: _Wish) -> None:
        if wish.path is None:
            self._goal.remove(key)
            return
        try:
            self._goal.put(key, wish.path)
        except FileNotFoundError:
            return  # its trial has ended meanwhile, or another worker has moved it
        if wish.is_moved:
            wish.path.unlink(missing_ok=True)

    def _put_off(self, key: str, wish: _Wish, error: ArtifactsError) -> None:
        with self._changed:
            if not self._is_forgotten:
                self._due.setdefault(key, wish)
            self._at_work = None
            self._changed.notify_all()
        if not self.is_away:
            self.is_away = True
            self._trouble(f"training goes on, and its files wait here until the bucket takes them: {error}")

    def _rest(self) -> None:
        with self._changed:
            self._at_work = None
            self._changed.notify_all()
