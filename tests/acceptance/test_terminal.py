"""`tuner run` on a terminal: the live view, and Ctrl-C as a terminal sends it."""

import fcntl
import json
import os
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import REHEARSED, Place

ROWS, COLUMNS = 40, 80


class Terminal:
    """A command whose controlling terminal is a pseudo-terminal of 80 columns."""

    def __init__(self, folder: Path, arguments: tuple[str, ...], script: dict[str, object]) -> None:
        self.shown = ""
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        environment = dict(os.environ) | {"TERM": "xterm-256color", "TUNER_CACHE": str(folder / "cache"), "REHEARSAL": json.dumps(script)}
        for name in ("TUNER_STORAGE", "NO_COLOR", "COLUMNS"):
            environment.pop(name, None)
        # a process that takes the terminal over before it becomes the command
        adopt = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        self.process = subprocess.Popen(
            [sys.executable, "-c", adopt, *REHEARSED, *arguments],
            cwd=folder,
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def until(self, word: str) -> None:
        """Wait until something is shown that was not shown before."""
        seen = len(self.shown)
        while word not in self.shown[seen:]:
            self.shown += self._read()

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def end(self) -> int:
        """Wait for the end; the exit code."""
        while True:
            try:
                self.shown += self._read()
            except EOFError:
                return self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)

    def _read(self) -> str:
        try:
            data = os.read(self._ours, 65536)
        except OSError as error:  # the other end is closed
            raise EOFError(self.shown) from error
        if not data:
            raise EOFError(self.shown)
        return data.decode(errors="replace")


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


def test_a_terminal_shows_the_study_live_and_its_end(place: Place, terminals: list[Terminal]) -> None:
    fine_tuning = place.wait_point("trial 0 epoch 4")
    terminal = Terminal(place.folder, ("run", "study.yaml", "--workers", "2"), fine_tuning.script)
    terminals.append(terminal)
    terminal.until("fine-tune")
    fine_tuning.go_on()
    assert terminal.end() == 0
    for word in ("Ctrl-C stops the study", "4 trials", "running", "fine-tune", "new best", "100%", "Result"):
        assert word in terminal.shown
    assert "Traceback" not in terminal.shown


def test_ctrl_c_on_a_terminal_stops_in_order(place: Place, terminals: list[Terminal]) -> None:
    terminal = Terminal(place.folder, ("run", "study.yaml"), place.wait_point("trial 0 epoch 4").script)
    terminals.append(terminal)
    terminal.until("fine-tune")
    terminal.type(b"\x03")
    terminal.until("Ctrl-C again kills")
    assert terminal.end() == 0
    assert "suspended" in terminal.shown
    assert "Traceback" not in terminal.shown
    assert "RUNNING" in place.states()


def test_ctrl_c_twice_on_a_terminal_kills(place: Place, terminals: list[Terminal]) -> None:
    terminal = Terminal(place.folder, ("run", "study.yaml"), {"faults": {"0": ["hang"]}})
    terminals.append(terminal)
    terminal.until("probe")
    terminal.type(b"\x03")
    terminal.until("Ctrl-C again kills")
    terminal.type(b"\x03")
    assert terminal.end() == 130
    assert "Traceback" not in terminal.shown
