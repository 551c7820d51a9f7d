"""Image classification for the trainer: implements the interfaces of `tasks.task`."""

import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import keras
import tensorflow as tf

from tuner import errors
from tuner.kernels import devices
from tuner.machine import TrainerShare
from tuner.protocol import messages
from tuner.protocol.messages import WorkerPort
from tuner.spec.hyperparameters import Hyperparameters, TargetKind
from tuner.spec.model import TrialModel
from tuner.spec.study import StudySpec
from tuner.tasks.images.data import splits
from tuner.tasks.images.spec import recipe
from tuner.tasks.images.training import evaluation, study_context, trial
from tuner.tasks.images.training.study_context import StudyContext
from tuner.tasks.images.training.training_data import TrainingData

#: number of models whose contexts are in memory, if trials choose among several; the least recently used one is dropped
MAX_CONTEXTS = 3
#: minimum time between two messages that a trial is busy
_BUSY_SECONDS = 5.0


class PreparedImages:
    """A study of images, ready to train its trials; implements `task.PreparedStudy`.

    Each model that trials choose has a context of its own, made for the first trial that chooses it.
    """

    def __init__(self, study: StudySpec, *, cache: Path, share: TrainerShare) -> None:
        self._study, self._cache, self._share = study, cache, share
        #: by the chosen backbone and image size, the most recently used last
        self._contexts: dict[tuple[str, int], StudyContext] = {}
        #: the data of the model of trial 0, which differ from those of other models only in the size of the images
        self._data: TrainingData | None = None
        self._data = self._context(recipe.chosen_model(study), _no_tick).data

    @property
    def context(self) -> StudyContext:
        """The most recently used context."""
        return next(reversed(self._contexts.values()))

    @property
    def num_traced(self) -> int:
        """Graphs traced so far that are in memory."""
        return sum(context.traced.num_traced for context in self._contexts.values())

    def describe(self, *, seconds: float) -> messages.Prepared:
        """Return the facts that the worker records about the study."""
        data = self.context.data
        labels, metric = (data.train.labels, data.validation.labels, data.test.labels), self._study.objective.metric
        baseline = splits.baseline(*labels) if data.target.kind is TargetKind.LABEL else None
        measured = None if metric == "accuracy" else splits.baseline(*labels, metric=metric, target=data.target)
        return messages.Prepared(
            device=devices.describe(devices.gpu(), self._share),
            classes=data.classes,
            num_train=len(data.train.labels) - (0 if data.folds is None else data.num_split),
            num_validation=len(data.validation.labels) if data.folds is None else data.num_split,
            num_test=len(data.test.labels),
            epochs=self.context.epochs,
            fingerprint=data.fingerprint,
            splits=data.splits,
            always=data.target.always(data.train.labels, data.classes),
            commonest="" if baseline is None else data.classes[baseline.label],
            commonest_validation=None if baseline is None else baseline.validation,
            commonest_test=None if baseline is None else baseline.test,
            baseline_validation=None if measured is None else measured.validation,
            baseline_test=None if measured is None else measured.test,
            # with folds, the first one measures the probes
            balanced_validation=data.target.weight((data if data.folds is None else data.of_fold(0)[0]).validation.labels),
            value_range=data.value_range,
            warnings=data.warnings,
            versions=versions(),
            seconds=seconds,
            image_seconds=None if self._study.budget.timeout is None else self.context.store.image_seconds(),
        )

    def try_once(self) -> tuple[tuple[str, str], ...]:
        """Return nothing: the images and the network are loaded already."""
        return ()

    def train(self, order: messages.Train, worker: WorkerPort) -> messages.Finished:
        """Train one trial."""
        ticker = _Ticker(order.trial, worker)
        context = self._of_trial(order.of_images, ticker)
        return trial.TrialTraining(context, order, worker, context_of=lambda member: self._of_trial(member, ticker)).run()

    def evaluate(self, order: messages.Evaluate) -> messages.Evaluated:
        """Score the weights of a trial on the test split."""
        return evaluation.evaluate(self._of_trial(order.of_images, _no_tick), order)

    def predict(self, order: messages.Predict) -> messages.Predicted:
        """Write the logits of whole splits to a file."""
        return evaluation.predict(self._of_trial(order.of_images, _no_tick), order)

    def _of_trial(self, hyperparameters: Hyperparameters, tick: Callable[[], None]) -> StudyContext:
        return self._context(self._study.of_trial(hyperparameters).model.of_trial(), tick)

    def _context(self, model: TrialModel, tick: Callable[[], None]) -> StudyContext:
        """Return the context of a model.

        Raises:
            DataError: the images are not the same any more.
        """
        key = (model.backbone, model.image_size)
        context = self._contexts.pop(key, None)
        if context is None:
            while len(self._contexts) >= MAX_CONTEXTS:
                del self._contexts[next(iter(self._contexts))]
            study = self._study.model_copy(update={"model": self._study.model.fixed(*key)})
            context = study_context.prepare(study, cache=self._cache, share=self._share, tick=tick)
            self._require_same(context)
        self._contexts[key] = context
        return context

    def _require_same(self, context: StudyContext) -> None:
        before = self._data or context.data
        if (before.fingerprint, before.splits) != (context.data.fingerprint, context.data.splits):
            raise errors.DataError(
                f"the images of the study {self._study.name} changed while it was running, so its trials would not be comparable; "
                "restore the images, and start the worker again"
            )


class _Ticker:
    """Tells the worker from time to time that a trial is busy."""

    def __init__(self, number: int, worker: WorkerPort) -> None:
        self._number, self._worker, self._told_at = number, worker, time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._told_at > _BUSY_SECONDS:
            self._told_at = now
            self._worker.send(messages.Busy(trial=self._number))


def _no_tick() -> None:
    pass


def prepare(study: StudySpec, *, cache: Path, share: TrainerShare) -> PreparedImages:
    """Load the images and the network of a study, and compute the features of the images.

    If trials choose among several models, this is done for the model of trial 0, and for another one when a trial chooses it.

    Raises:
        RequestError: the images or the network cannot be used as the study names them.
    """
    devices.set_precision(study.training.precision)
    return PreparedImages(study, cache=cache, share=share)


def versions() -> dict[str, str]:
    """Return the versions of the software that trains trials."""
    return {
        "python": platform.python_version(),
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "tuner": metadata.version("tuner"),
    }
