"""A trainer that trains nothing: its curves are ready at once, so that only the work of the parent process is measured."""

import random
from collections import deque

from tuner.protocol import messages
from tuner.protocol.messages import Ending, Epoch, Stage
from tuner.spec.hyperparameters import Hyperparameters

PROBE_EPOCHS, FINE_TUNE_EPOCHS = 20, 10
PREPARED = messages.Prepared(
    device="none", classes=("a", "b"), num_train=2000, num_validation=1000, num_test=0, epochs=FINE_TUNE_EPOCHS,
    fingerprint="0" * 64, splits="0" * 64, versions={}, seconds=0.0,
)  # fmt: skip


class Idle:
    """Implements `workers.trainer.Trainer` without training: every epoch is ready at once."""

    def __init__(self, fine_tunes: bool) -> None:
        self._fine_tunes = fine_tunes
        self._outbox: deque[messages.Message] = deque()
        self._curve: list[float] = []
        self._trial = 0

    def send(self, message: messages.Message) -> None:
        """Accept a message, and prepare the answers."""
        match message:
            case messages.Prepare():
                self._outbox.append(PREPARED)
            case messages.Train(trial=trial, hyperparameters=given):
                self._trial, self._curve = trial, curve(trial, PROBE_EPOCHS + FINE_TUNE_EPOCHS)
                is_exact = isinstance(given, Hyperparameters) and given.is_probed_exactly
                self._outbox += [self._epoch(step) for step in range(PROBE_EPOCHS if is_exact else 1, PROBE_EPOCHS + 1)]
                probed = messages.Probed(trial=trial, value=max(self._curve[:PROBE_EPOCHS]))
                self._outbox.append(probed if self._fine_tunes else self._finished(PROBE_EPOCHS))
            case messages.Proceed():
                self._outbox += [self._epoch(PROBE_EPOCHS + step) for step in range(1, FINE_TUNE_EPOCHS + 1)]
                self._outbox.append(self._finished(PROBE_EPOCHS + FINE_TUNE_EPOCHS))
            case messages.Stop():
                done = PROBE_EPOCHS if not self._outbox else self._outbox[0].step - 1 if isinstance(self._outbox[0], Epoch) else None
                self._outbox = deque([self._finished(done or PROBE_EPOCHS + FINE_TUNE_EPOCHS, Ending.STOPPED)])

    def receive(self, timeout_seconds: float) -> messages.Message | None:
        """Return the next answer."""
        return self._outbox.popleft() if self._outbox else None

    def memory_bytes(self) -> int:
        """Return 0."""
        return 0

    def last_lines(self) -> str:
        """Return an empty text."""
        return ""

    def place(self) -> str:
        return ""

    def kill(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def _epoch(self, step: int) -> Epoch:
        value, stage = self._curve[step - 1], Stage.PROBE if step <= PROBE_EPOCHS else Stage.FINE_TUNE
        measures = {"loss": 1 - value, "accuracy": value, "validation_loss": 1 - value, "validation_accuracy": value}
        return Epoch(trial=self._trial, stage=stage, step=step, learning_rate=0.1, seconds=0.0, **measures)

    def _finished(self, steps: int, ending: Ending = Ending.COMPLETED) -> messages.Finished:
        value = max(self._curve[:steps])
        return messages.Finished(trial=self._trial, ending=ending, value=value, best_step=self._curve.index(value) + 1)


def curve(number: int, epochs: int) -> list[float]:
    """Return accuracies that rise from epoch to epoch towards a level that depends on the trial."""
    noise = random.Random(number)
    level = noise.uniform(0.6, 0.8)
    return [level * (1 - 0.5 / (1 + epoch)) + noise.uniform(0, 0.01) for epoch in range(epochs)]
