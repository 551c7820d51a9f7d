"""A network between worker and database that can be slow, be cut or swallow everything."""

import contextlib
import socket
import threading
import time
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

_LOOK_SECONDS = 0.05


class Weather(StrEnum):
    """What becomes of what is sent."""

    FAIR = "fair"
    #: everything arrives half a second later
    SLOW = "slow"
    #: connections are reset, new ones too
    CUT = "cut"
    #: nothing arrives, and nobody says so
    BLACK_HOLE = "black hole"


class Proxy:
    """Passes on what comes to a port of loopback to a Unix socket, as the weather lets it."""

    def __init__(self, target: Path, *, delay_seconds: float = 0.5) -> None:
        self.weather = Weather.FAIR
        self._target, self._delay = target, delay_seconds
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: set[socket.socket] = set()
        self._is_open = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._is_open = False
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Reset every connection."""
        for each in list(self._sockets):
            with contextlib.suppress(OSError):
                # without lingering a close is a reset
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                each.shutdown(socket.SHUT_RDWR)
                each.close()
        self._sockets.clear()

    def _accept(self) -> None:
        while self._is_open:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.add(near)
            if self.weather is Weather.CUT:
                self.cut()
                continue
            threading.Thread(target=self._connect, args=[near], daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        self._wait()
        far = socket.socket(socket.AF_UNIX)
        try:
            far.connect(str(self._target))
        except OSError:
            near.close()
            return
        self._sockets.add(far)
        for source, goal in ((near, far), (far, near)):
            threading.Thread(target=self._pass_on, args=[source, goal], daemon=True).start()

    def _wait(self) -> None:
        if self.weather is Weather.SLOW:
            time.sleep(self._delay)
        while self.weather is Weather.BLACK_HOLE and self._is_open:
            time.sleep(_LOOK_SECONDS)

    def _pass_on(self, source: socket.socket, goal: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._wait()
                goal.sendall(data)
        for each in (source, goal):
            with contextlib.suppress(OSError):
                each.close()
            self._sockets.discard(each)
