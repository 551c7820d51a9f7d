"""A trainer into one that is prepared for the study that was checked, and for no other."""

from tuner import messages, study_file
from tuner.errors import StudyError
from tuner.spec import StudySpec
from tuner.workers.trainer import Trainer


class PledgedTrainer:
    """A trainer that does not import what the storage has named since its worker looked whether that is allowed."""

    def __init__(self, trainer: Trainer, spec: StudySpec) -> None:
        self._trainer = trainer
        self._spec = spec

    def send(self, message: messages.Message) -> None:
        """Give it a message.

        Raises:
            StudyError: it is to prepare another study than the one that was checked.
            TrainerDied: nobody is there to take it.
        """
        if isinstance(message, messages.Prepare):
            changes = study_file.differences(self._spec, StudySpec.model_validate_json(message.spec))
            if changes:
                raise StudyError(
                    f"the study {self._spec.name} was changed in the storage since this worker joined it:\n  "
                    + "\n  ".join(changes)
                    + "\nFind out by whom, before it is started again."
                )
        self._trainer.send(message)

    def receive(self, timeout_seconds: float) -> messages.Message | None:
        """Its next message, or None if there is none in time; raises TrainerDied if there will be none."""
        return self._trainer.receive(timeout_seconds)

    def memory_bytes(self) -> int:
        """What it holds of the machine's memory."""
        return self._trainer.memory_bytes()

    def last_words(self) -> str:
        """The last lines of its log."""
        return self._trainer.last_words()

    def kill(self) -> None:
        """End it at once."""
        self._trainer.kill()

    def close(self) -> None:
        """Ask it to leave, and see that it does."""
        self._trainer.close()
