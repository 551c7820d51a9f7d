"""Messages to and from a child process that trains, for as long as it lives.

A trainer that is prepared for its study, and replaced when it dies, hangs or grows too big.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

import psutil

from tuner.errors import DataError, RequestError, TrainingError, TunerError
from tuner.protocol import messages
from tuner.protocol.failure_table import Failure
from tuner.workers.engines import gpus
from tuner.workers.worker.stopping import Stopping

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
    """A `tuner.trainer.process` and the pipe to it; started at once, in a session of its own so that a terminal's Ctrl-C passes it by."""

    def __init__(
        self,
        *,
        threads: int,
        log: Path,
        place: gpus.GpuShare | None = None,
        memory_bytes: int | None = None,
        command: Sequence[str] = (sys.executable, "-m", "tuner.trainer.process"),
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


def _placed(place: gpus.GpuShare | None) -> list[str]:
    """The options of a trainer that is on a GPU."""
    if place is None:
        return []
    return ["--gpu"] if place.memory_mb is None else ["--gpu", "--memory-limit-mb", str(place.memory_mb)]


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    return QUIET | dict(given)


#: how long one look into the pipe may last before the worker looks at its other duties
LOOK_SECONDS = 0.2
#: how many times longer than the longest wait so far the next one may be
_PATIENCE = 10.0
#: preparing reads every image and may wait for another worker that does so
_PREPARE_PATIENCE = 4.0
_PREPARE_TRIES = 2


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a trainer may take before it is replaced."""

    #: silence that is borne while nothing is known of how long an epoch takes
    hang_seconds: float = 1800.0
    #: memory between two trials; None: any
    memory_bytes: int | None = None
    #: None: not said
    threads: int | None = None


class TrainerHung(TunerError):
    """The trainer is silent for longer than an epoch can take."""

    failure = Failure.HANG
    cause = "hang"


class WarmTrainer:
    """The trainer of one worker; whoever asks gets one that is ready for the next trial."""

    def __init__(self, start: Callable[[], Trainer], limits: Limits, stopping: Stopping) -> None:
        self._start = start
        self._limits = limits
        self._stopping = stopping
        self._trainer: Trainer | None = start()
        #: whether it is ready for a trial
        self.is_warm = False
        self._longest_wait_seconds = 0.0
        self._waiting_since = time.monotonic()

    def warm_up(self, prepare: messages.Prepare) -> messages.Prepared | None:
        """Have the trainer ready for a study; None if the worker is asked to stop meanwhile.

        Raises:
            RequestError: the study's data or model cannot be used.
            TrainingError: the trainer cannot be made ready, not even a fresh one.
        """
        for is_last in [False] * (_PREPARE_TRIES - 1) + [True]:
            try:
                return self._await_prepared(prepare)
            except (TrainerDied, TrainerHung) as error:
                self.drop()
                if is_last:
                    raise TrainingError(f"the trainer could not be made ready: {error}", kind=error.cause) from error
        raise AssertionError("the last try returns or raises")

    def send(self, message: messages.Message) -> None:
        """Give the trainer a message; from now on an answer is due."""
        self._waiting_since = time.monotonic()
        self._living().send(message)

    def look(self) -> messages.Message | None:
        """The next message, or None after a moment without one.

        Raises:
            TrainerDied: there will be none.
            TrainerHung: there should have been one long ago.
        """
        message = self._living().receive(LOOK_SECONDS)
        waited_seconds = time.monotonic() - self._waiting_since
        if message is None:
            limit_seconds = max(self._limits.hang_seconds, _PATIENCE * self._longest_wait_seconds)
            if waited_seconds > limit_seconds:
                raise TrainerHung(f"the training process was silent for {waited_seconds:.0f} s; more can be borne with --hang-limit")
            return None
        if isinstance(message, messages.Epoch):
            self._longest_wait_seconds = max(self._longest_wait_seconds, waited_seconds)
        self._waiting_since = time.monotonic()
        return message

    @property
    def threads(self) -> int | None:
        """Threads that its trainers compute with; None: not known."""
        return self._limits.threads

    def memory_bytes(self) -> int | None:
        """What the trainer holds of the machine's memory; None: there is no trainer."""
        trainer = self._trainer
        return None if trainer is None else trainer.memory_bytes()

    def last_words(self) -> str:
        """The last lines of the trainer's log, "" where there is none."""
        return "" if self._trainer is None else self._trainer.last_words()

    def outgrown(self) -> str:
        """Why the trainer is to be replaced before the next trial, "" if it is not."""
        limit_bytes = self._limits.memory_bytes
        if self._trainer is None or limit_bytes is None:
            return ""
        used_bytes = self._trainer.memory_bytes()
        return f"it holds {used_bytes / 2**20:.0f} MiB of {limit_bytes / 2**20:.0f} MiB" if used_bytes > limit_bytes else ""

    def drop(self) -> None:
        """End the trainer at once."""
        if self._trainer is not None:
            self._trainer.kill()
            self._trainer = None
        self.is_warm = False

    def close(self) -> None:
        """Ask the trainer to leave, and see that it does."""
        if self._trainer is not None:
            self._trainer.close()
            self._trainer = None
        self.is_warm = False

    def _living(self) -> Trainer:
        if self._trainer is None:
            self._trainer = self._start()
        return self._trainer

    def _await_prepared(self, prepare: messages.Prepare) -> messages.Prepared | None:
        self.send(prepare)
        while not self._stopping.is_asked:
            message = self._living().receive(LOOK_SECONDS)
            match message:
                case messages.Prepared():
                    self.is_warm = True
                    return message
                case messages.Failed(is_request=True):
                    raise request_error(message)
                case messages.Failed():
                    raise TrainingError(f"{message.error}: {message.message}", kind=message.error)
            if time.monotonic() - self._waiting_since > _PREPARE_PATIENCE * self._limits.hang_seconds:
                raise TrainerHung("the data and the backbone took too long to prepare; more can be borne with --hang-limit")
        return None


def request_error(failed: messages.Failed) -> RequestError:
    """The error of a trainer that found the request, not the work, to be wrong."""
    return DataError(failed.message) if failed.error == DataError.__name__ else RequestError(failed.message)
