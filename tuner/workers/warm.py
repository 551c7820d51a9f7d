"""A trainer that is prepared for its study, and replaced when it dies, hangs or grows too big."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tuner import messages
from tuner.errors import DataError, RequestError, TrainingError, TunerError
from tuner.failures import Failure
from tuner.workers.stopping import Stopping
from tuner.workers.trainer import Trainer, TrainerDied

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
