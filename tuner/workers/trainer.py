"""Messages to and from a child process that trains, for as long as it lives."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

import psutil

from tuner import messages
from tuner.errors import TunerError
from tuner.failures import Failure
from tuner.workers import gpus

#: TensorFlow's own chatter, of which nothing helps who reads the log of a crash
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_BACKEND": "tensorflow", "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
#: lines of the child's log that are shown when it dies
_TAIL_LINES = 20
_LINES_BEFORE_CRASH = 5
_TAIL_BYTES = 16_384
#: how long a child that was told to leave may take
_QUIT_SECONDS = 5.0


class TrainerDied(TunerError):
    """The child process is gone; `cause` says how, in a word or two that group equal deaths."""

    failure = Failure.CRASH

    def __init__(self, cause: str, last_words: str) -> None:
        super().__init__(f"the training process {cause}" + (f"; it last wrote:\n{last_words}" if last_words else ""))
        self.cause = cause
        self.last_words = last_words


class Trainer(Protocol):
    """Something that trains one trial at a time and stays warm from one to the next."""

    def send(self, message: messages.Message) -> None:
        """Give it a message.

        Raises:
            TrainerDied: nobody is there to take it.
        """
        ...

    def receive(self, timeout_seconds: float) -> messages.Message | None:
        """Its next message, or None if there is none in time.

        Raises:
            TrainerDied: there will be none.
        """
        ...

    def memory_bytes(self) -> int:
        """What it holds of the machine's memory."""
        ...

    def last_words(self) -> str:
        """The last lines of its log, "" where there is none."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...

    def close(self) -> None:
        """Ask it to leave, and see that it does."""
        ...


class ChildTrainer:
    """A `tuner.training.process` and the pipe to it; started at once, in a session of its own so that a terminal's Ctrl-C passes it by."""

    def __init__(
        self,
        *,
        threads: int,
        log: Path,
        place: gpus.Place | None = None,
        memory_bytes: int | None = None,
        command: Sequence[str] = (sys.executable, "-m", "tuner.training.process"),
    ) -> None:
        """`memory_bytes`: what it may take of the machine's memory; None: all of it."""
        self._log = log
        options = ["--threads", str(threads), *_placed(place), *([] if memory_bytes is None else ["--memory-bytes", str(memory_bytes)])]
        log.parent.mkdir(parents=True, exist_ok=True)
        ours, theirs = socket.socketpair()
        with theirs, log.open("wb") as written:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), *options],
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env=gpus.environment(_environment(os.environ), place),
            )
        self._pipe = Connection(ours.detach())

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def send(self, message: messages.Message) -> None:
        """Give the child a message."""
        try:
            self._pipe.send_bytes(messages.encode(message))
        except OSError as error:
            raise self._death() from error

    def receive(self, timeout_seconds: float) -> messages.Message | None:
        """The child's next message, or None if there is none in time."""
        try:
            if not self._pipe.poll(timeout_seconds):
                return None
            return messages.decode(self._pipe.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._death() from error

    def memory_bytes(self) -> int:
        """Resident memory of the child; 0 when it is gone."""
        try:
            return int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def last_words(self) -> str:
        """The last lines of the child's log."""
        return tail(self._log)

    def kill(self) -> None:
        """End the child at once."""
        self._process.kill()
        self._process.wait()
        self._pipe.close()

    def close(self) -> None:
        """Ask the child to leave; end it if it does not."""
        if not self._pipe.closed:
            try:
                self._pipe.send_bytes(messages.encode(messages.Quit()))
                self._process.wait(_QUIT_SECONDS)
            except (OSError, subprocess.TimeoutExpired):
                pass  # it is ended below, whatever it is doing
        self.kill()

    def _death(self) -> TrainerDied:
        """What became of the child, whose end of the pipe is closed."""
        try:
            code = self._process.wait(_QUIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return TrainerDied("closed its pipe", tail(self._log))
        return TrainerDied(_cause(code), tail(self._log))


def tail(log: Path) -> str:
    """The last lines of a log, "" where there is none; of a crash that Python describes the first, which tell the latest calls."""
    try:
        with log.open("rb") as written:
            written.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = written.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    said = [line for line in lines if line.strip() and not line.startswith("Extension modules: ")]
    crashes = [place for place, line in enumerate(said) if line.startswith("Fatal Python error")]
    return "\n".join(said[max(0, crashes[-1] - _LINES_BEFORE_CRASH) :][:_TAIL_LINES] if crashes else said[-_TAIL_LINES:])


def _cause(code: int) -> str:
    if code == -9:
        return "was killed (SIGKILL: often the machine ran out of memory)"
    if code < 0:
        return f"crashed (signal {-code})"
    return f"left with exit code {code}"


def _placed(place: gpus.Place | None) -> list[str]:
    """The options of a trainer that is on a GPU."""
    if place is None:
        return []
    return ["--gpu"] if place.memory_mb is None else ["--gpu", "--memory-limit-mb", str(place.memory_mb)]


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    return QUIET | dict(given)
