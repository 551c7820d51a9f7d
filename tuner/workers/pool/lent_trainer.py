"""Lent trainer: one trainer process that a pool worker lends to one session after another, so that Keras is imported once."""

from collections.abc import Callable

from tuner.protocol import messages
from tuner.spec.study import AnyStudySpec, StudySpec
from tuner.workers.worker.trainer import Trainer


class LentTrainer:
    """A trainer whose end of a session keeps its process; implements `trainer.Trainer`."""

    def __init__(self, trainer: Trainer, give_back: Callable[[Trainer], None]) -> None:
        self._trainer = trainer
        self._give_back = give_back

    def send(self, message: messages.Message) -> None:
        """Send it a message."""
        self._trainer.send(message)

    def receive(self, timeout_seconds: float) -> messages.Message | None:
        """Return its next message, or None if there is none in time."""
        return self._trainer.receive(timeout_seconds)

    def memory_bytes(self) -> int:
        """Return its resident memory."""
        return self._trainer.memory_bytes()

    def last_lines(self) -> str:
        """Return the last lines of its log."""
        return self._trainer.last_lines()

    def place(self) -> str:
        """Return where user code is now."""
        return self._trainer.place()

    def kill(self) -> None:
        """End its process at once."""
        self._trainer.kill()

    def close(self) -> None:
        """Give it back."""
        self._give_back(self._trainer)


class TrainerKeeper:
    """Keeps an idle trainer between two sessions of a pool worker."""

    def __init__(self) -> None:
        self._idle: Trainer | None = None

    def lend(self, spec: AnyStudySpec, start: Callable[[], Trainer]) -> Trainer:
        """Return a trainer for a study: the idle one, or a new one.

        Code of users stays in a process, so a study that names code gets a process of its own.
        """
        if not _is_sharing(spec):
            self.close()
            return start()
        trainer, self._idle = self._idle or start(), None
        return LentTrainer(trainer, self._take_back)

    def close(self) -> None:
        """End the idle trainer."""
        if self._idle is not None:
            self._idle.close()
            self._idle = None

    def _take_back(self, trainer: Trainer) -> None:
        self.close()
        self._idle = trainer


def _is_sharing(spec: AnyStudySpec) -> bool:
    return isinstance(spec, StudySpec) and not list(spec.named_code())
