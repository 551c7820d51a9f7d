"""Image classification for the trainer: implements the interfaces of `tasks.task`."""

import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import keras
import tensorflow as tf

from tuner.kernels import devices
from tuner.protocol import messages
from tuner.protocol.messages import WorkerPort
from tuner.spec.study import StudySpec
from tuner.tasks.images.data import splits
from tuner.tasks.images.training import evaluation, study_context, trial
from tuner.tasks.images.training.study_context import StudyContext


@dataclass(frozen=True, kw_only=True)
class PreparedImages:
    """A study of images, ready to train its trials; implements `task.PreparedStudy`."""

    context: StudyContext

    @property
    def num_traced(self) -> int:
        """Graphs traced so far."""
        return self.context.traced.num_traced

    def describe(self, *, device: str, seconds: float) -> messages.Prepared:
        """Return the facts that the worker records about the study."""
        data = self.context.data
        baseline = splits.baseline(data.train.labels, data.validation.labels, data.test.labels)
        return messages.Prepared(
            device=device,
            classes=data.classes,
            num_train=len(data.train.labels),
            num_validation=len(data.validation.labels),
            num_test=len(data.test.labels),
            epochs=self.context.epochs,
            fingerprint=data.fingerprint,
            splits=data.splits,
            commonest=data.classes[baseline.label],
            commonest_validation=baseline.validation,
            commonest_test=baseline.test,
            value_range=data.value_range,
            warnings=data.warnings,
            versions=versions(),
            seconds=seconds,
        )

    def train(self, order: messages.Train, worker: WorkerPort) -> messages.Finished:
        """Train one trial."""
        return trial.TrialTraining(self.context, order, worker).run()

    def evaluate(self, order: messages.Evaluate) -> messages.Evaluated:
        """Score the weights of a trial on the test split."""
        return evaluation.evaluate(self.context, order)

    def predict(self, order: messages.Predict) -> messages.Predicted:
        """Write the logits of whole splits to a file."""
        return evaluation.predict(self.context, order)


def prepare(study: StudySpec, *, cache: Path, share: devices.TrainerShare) -> PreparedImages:
    """Load the images and the network of a study, and compute the features of the images.

    Raises:
        RequestError: the images or the network cannot be used as the study names them.
    """
    return PreparedImages(context=study_context.prepare(study, cache=cache, share=share))


def versions() -> dict[str, str]:
    """Return the versions of the software that trains trials."""
    return {
        "python": platform.python_version(),
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "tuner": metadata.version("tuner"),
    }
