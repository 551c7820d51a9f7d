"""The toy task for the trainer: implements `tasks.task.TaskTraining` and `tasks.task.PreparedStudy`."""

from pathlib import Path

from tests.tasks.toy.toy_study import ToyStudySpec
from tuner.errors import TrainingError
from tuner.machine import TrainerShare
from tuner.protocol import messages
from tuner.protocol.messages import Ending, Stage, WorkerPort

_EPOCHS = 3


class PreparedToy:
    num_traced = 0

    def __init__(self, study: ToyStudySpec) -> None:
        self._study = study

    def describe(self, *, seconds: float) -> messages.Prepared:
        return messages.Prepared(
            device="cpu", classes=(), num_train=0, num_validation=0, num_test=0, epochs=_EPOCHS, fingerprint="", splits="",
            versions={"toy": "1"}, seconds=seconds,
        )  # fmt: skip

    def try_once(self) -> tuple[tuple[str, str], ...]:
        return (("number", "known"),)

    def train(self, order: messages.Train, worker: WorkerPort) -> messages.Finished:
        error, ending, step = abs(float(str(order.chosen["guess"])) - self._study.number), Ending.COMPLETED, 0
        for step in range(1, _EPOCHS + 1):
            if isinstance(wanted := worker.interruption(), messages.Stop | messages.Suspend):
                ending = Ending.STOPPED if isinstance(wanted, messages.Stop) else Ending.SUSPENDED
                break
            value = error + 1 - step / _EPOCHS
            worker.send(messages.Epoch(trial=order.trial, stage=Stage.TRAIN, step=step, seconds=0.0, value=value))
        return messages.Finished(trial=order.trial, ending=ending, value=error, best_step=step or None)

    def evaluate(self, order: messages.Evaluate) -> messages.Evaluated:
        raise TrainingError("a number has no test split", kind="NoTestSplit")


def prepare(study: ToyStudySpec, *, cache: Path, share: TrainerShare) -> PreparedToy:
    return PreparedToy(study)
