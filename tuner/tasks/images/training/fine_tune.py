"""The training images of a trial, batch by batch: as they are, in views by turns, or as what the frozen part made of the views.

The second stage of a trial: the head and the top of the backbone together, on augmented images.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner import errors
from tuner.kernels import checkpoints, cuts, head, losses, optimizers
from tuner.spec.hyperparameters import Augmentation, Hyperparameters
from tuner.tasks.images.data import resized
from tuner.tasks.images.training import augmentation, backbones, steps, views
from tuner.tasks.images.training import context as benches
from tuner.tasks.images.training import features as feature_files
from tuner.tasks.images.training.context import StudyContext
from tuner.tasks.images.training.probe import MeasuredEpoch

#: images uint8 (n, size, size, 3), or activations and pooled vectors of `Cut.above`
Batch = tuple[NDArray[np.uint8]] | tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Where the batches of a trial come from."""

    images: resized.ResizedImages
    #: what a trial trains on by turns; () where each step draws for itself
    shown: tuple[views.View, ...]
    #: of the views, where it is kept
    activations: feature_files.Activations | None
    seed: int

    def batches(self, epoch: int, chosen: Sequence[NDArray[np.int64]]) -> Iterator[Batch]:
        """The images of each array of rows; in each epoch an image is shown in the view after that of the epoch before."""
        numbers = self._numbers(epoch)
        if self.activations is not None:
            for rows in chosen:
                yield self.activations.take(numbers[rows], rows)
            return
        for rows, images in zip(chosen, resized.batches(self.images, chosen), strict=True):
            yield (self._turned(images, numbers[rows]) if self.shown else images,)

    def _numbers(self, epoch: int) -> NDArray[np.int64]:
        """The view of each image; the trial draws which is its first."""
        count = max(1, len(self.shown))
        first: NDArray[np.int64] = np.random.default_rng([self.seed, 2]).integers(count, size=len(self.images))
        return (first + epoch) % count

    def _turned(self, images: NDArray[np.uint8], numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        found = np.array(images)
        for number, view in enumerate(self.shown):
            found[numbers == number] = views.mirrored(view, found[numbers == number])
        return found


def of(bench: benches.StudyContext, cut: cuts.Cut, augmentation: Augmentation, *, seed: int) -> Inputs:
    """What a trial trains on.

    Views that are drawn are used only where what lies below the cut is kept of them; elsewhere a new version is drawn in each step,
    which costs no more than drawing the same ones again.
    """
    shown = views.views(augmentation) if views.is_finite(augmentation) else ()
    activations = bench.lower(cut, shown) if shown else None
    if activations is None and any(view.strengths is not None for view in shown):
        shown = ()
    return Inputs(images=bench.data.train.images, shown=shown, activations=activations, seed=seed)


Weights = Sequence[NDArray[np.float32]]
_LOG = logging.getLogger(__name__)


class FineTuning:
    """The fine-tuning of one trial, an epoch at a time, so that it can be left and taken up again after any step."""

    def __init__(self, bench: StudyContext, weights: Weights, hyperparameters: Hyperparameters, *, seed: int) -> None:
        """`weights`: kernel and bias of each layer of the head; the backbone must be as pretrained."""
        self._bench, self.hyperparameters, self._seed = bench, hyperparameters, seed
        self._cut = bench.backbone.cut(backbones.num_unfrozen(hyperparameters.unfreeze, len(bench.backbone.blocks)))
        self.inputs = of(bench, self._cut, hyperparameters.augmentation, seed=seed)
        labels, num_classes = bench.data.train.labels, bench.num_classes
        self._batch = min(hyperparameters.batch_size, len(labels))
        #: images of a batch that are worked on at once; fewer where the memory has no room for all
        self._part = self._batch
        self._num_steps = len(labels) // self._batch
        self._rates = optimizers.cosine(self._num_steps * bench.epochs, peak=hyperparameters.learning_rate, warmup=hyperparameters.warmup)
        class_weights = losses.class_weights(labels, num_classes, hyperparameters.class_weights)
        self._values = steps.values(hyperparameters, bench.moments(hyperparameters.features), class_weights)
        self._update_values = optimizers.values(hyperparameters, gradient_clip=bench.study.training.gradient_clip)
        changed = Augmentation() if self.inputs.shown else hyperparameters.augmentation
        self._strengths = {name: tf.constant(value, tf.float32) for name, value in augmentation.strengths(changed).items()}
        self._form = steps.StepForm.of(hyperparameters, num_open=self._cut.num_open, num_classes=num_classes)
        size = bench.backbone.size
        self._augment = bench.traced.augment(augmentation.Changes.of(changed), size=size, num_classes=num_classes)
        self._below = bench.traced.below(self._cut, size=size)
        self._slope = bench.traced.slope(self._cut, self._form)
        self._update = bench.traced.update(optimizers.UpdateForm.of(hyperparameters, num_open=self._cut.num_open), self._cut)
        self._update.begin(weights)
        self._validation = _Validation(bench, hyperparameters, self._cut)
        #: steps that are done of the epoch at hand, and what they measured
        self._steps, self._sums = 0, np.zeros(2, np.float32)

    def take_up(self, state: Weights, part: checkpoints.Part | None) -> None:
        """Be as one that was left with this state, in the middle of an epoch where there is a part of one."""
        assign(self.state, state)
        if part is not None:
            self._steps, self._sums = part.steps, np.array(part.sums, np.float32)

    def part(self, seconds: float) -> checkpoints.Part | None:
        """How far the epoch at hand has come in these seconds; None between two epochs."""
        loss, accuracy = (float(total) for total in self._sums)
        return checkpoints.Part(steps=self._steps, sums=(loss, accuracy), seconds=seconds) if self._steps else None

    @property
    def state(self) -> list[tf.Variable]:
        """Every variable that one step hands on to the next."""
        return self._update.state

    @property
    def head(self) -> list[tf.Variable]:
        """Kernel and bias of each layer of the head."""
        return self._update.head

    @property
    def variables(self) -> list[tf.Variable]:
        """What the stage trains: the head's variables, then the backbone's."""
        return self._update.variables

    def weights(self) -> list[NDArray[np.float32]]:
        """The values that are measured: the running averages of `variables` where they are on."""
        return [variable.numpy() for variable in self._update.measured]

    def train(self, epoch: int) -> Iterator[None]:
        """Train what is left of an epoch, counted from 0; yields after each step, so that a caller can leave."""
        labels = self._bench.data.train.labels
        order = np.random.default_rng([self._seed, 1, epoch]).permutation(len(labels))[: self._num_steps * self._batch]
        chosen = np.split(order, self._num_steps)
        first = self._steps
        for step, batch in enumerate(self.inputs.batches(epoch, chosen[first:]), start=first):
            number = epoch * self._num_steps + step
            gradients, measured = self._gradients(batch, labels[chosen[step]], number)
            self._update.apply(gradients, rate=self._rates[number], number=number + 1, given=self._update_values)
            self._sums += measured
            self._steps += 1
            yield

    def measure(self, epoch: int) -> MeasuredEpoch:
        """What an epoch that was just trained came to."""
        loss, accuracy = (float(total) for total in self._sums / self._num_steps)
        self._steps, self._sums = 0, np.zeros(2, np.float32)
        trained = [variable.numpy() for variable in self.variables] if self.hyperparameters.ema else []
        if trained:
            assign(self.variables, self.weights())
        logits = self._validation.logits([variable.numpy() for variable in self.head])
        if trained:
            assign(self.variables, trained)
        labels = self._bench.data.validation.labels
        validation = losses.score(logits, labels, losses.build_validation(self.hyperparameters))
        rate = float(self._rates[(epoch + 1) * self._num_steps - 1])
        return MeasuredEpoch(loss=loss, accuracy=accuracy, learning_rate=rate, validation=validation)

    def _gradients(self, batch: Batch, labels: NDArray[np.int64], number: int) -> tuple[list[tf.Tensor], NDArray[np.float32]]:
        """Of a whole batch, in as many parts as the memory asks for: nothing is changed before it has them all."""
        targets = tf.one_hot(labels, self._bench.num_classes)
        while True:
            try:
                return self._summed(batch, targets, labels, number)
            except tf.errors.ResourceExhaustedError as error:
                self._make_room(error)

    def _summed(
        self, batch: Batch, targets: tf.Tensor, labels: NDArray[np.int64], number: int
    ) -> tuple[list[tf.Tensor], NDArray[np.float32]]:
        tensors = [tf.constant(each) for each in batch]
        seed = self._seed % 2**31
        if len(batch) == 1:
            images, targets = self._augment(tensors[0], targets, self._strengths, tf.constant([seed, number], tf.int32))
            tensors = [images]
        gradients: list[tf.Tensor] = []
        measured = np.zeros(2, np.float32)
        for start in range(0, len(labels), self._part):
            rows = slice(start, start + self._part)
            lower = self._below(tensors[0][rows]) if len(batch) == 1 else tuple(each[rows] for each in tensors)
            place = tf.constant([seed, number, start, len(labels)], tf.int32)
            weights = [variable.value() for variable in self.head]
            found, share = self._slope(lower, (targets[rows], tf.constant(labels[rows])), weights, self._values, place)
            gradients = [one + other for one, other in zip(gradients, found, strict=True)] if gradients else list(found)
            measured += share.numpy()
        return gradients, measured

    def _make_room(self, error: Exception) -> None:
        """Work on half as many images at once for the rest of this trial, and of no other: the sum of other parts is rounded otherwise."""
        if self._part == 1:
            given = f"{self._cut.num_open} of {len(self._bench.backbone.blocks)} blocks at {self._bench.backbone.size} pixels"
            cure = "Unfreeze less, or choose a smaller model.image_size or backbone"
            raise errors.TrainingError(
                f"the memory has no room for training {given}, not even on one image at a time. {cure}", kind="OutOfMemory"
            ) from error
        too_many, self._part = self._part, (self._part + 1) // 2
        _LOG.warning("no memory for %d images at once; going on with %d at a time, batches as large as before", too_many, self._part)


class _Validation:
    """The validation split through a network whose top is being trained: what lies below is computed once where the memory has room."""

    def __init__(self, bench: StudyContext, hyperparameters: Hyperparameters, cut: cuts.Cut) -> None:
        self._bench, self._hyperparameters = bench, hyperparameters
        self._below = bench.traced.below(cut, size=bench.backbone.size)
        self._above = bench.traced.above(cut, hyperparameters.features)
        images: resized.ResizedImages = bench.data.validation.images
        num_bytes = 4 * cut.num_values * len(images)
        is_kept = cut.multiply_adds > 0 and num_bytes <= feature_files.SHARE_OF_MEMORY * bench.shelf.share.tensor_bytes
        self._lower = list(self._parts(images)) if is_kept else None

    def logits(self, weights: Weights) -> NDArray[np.float32]:
        """Of the validation split (n, classes), by these weights of the head."""
        lower = self._parts(self._bench.data.validation.images) if self._lower is None else self._lower
        return _logits((self._above(*part) for part in lower), self._bench, self._hyperparameters, weights)

    def _parts(self, images: resized.ResizedImages) -> Iterator[Any]:
        for batch in feature_files.in_order(images):
            yield self._below(tf.constant(batch, tf.float32))


def predict(bench: StudyContext, hyperparameters: Hyperparameters, weights: Weights, images: resized.ResizedImages) -> NDArray[np.float32]:
    """Logits (n, classes) of images by the weights of a head, and the backbone as it is."""
    cut = bench.backbone.cut(len(bench.backbone.blocks))
    below = bench.traced.below(cut, size=bench.backbone.size)
    above = bench.traced.above(cut, hyperparameters.features)
    found = (above(*below(tf.constant(batch, tf.float32))) for batch in feature_files.in_order(images))
    return _logits(found, bench, hyperparameters, weights)


def _logits(found: Iterator[tf.Tensor], bench: StudyContext, hyperparameters: Hyperparameters, weights: Weights) -> NDArray[np.float32]:
    moments = bench.moments(hyperparameters.features)
    standardized = (head.standardize(part, moments) for part in found)
    return np.concatenate([head.forward(weights, part, activation=hyperparameters.activation).numpy() for part in standardized])


def assign(variables: Sequence[tf.Variable], values: Weights) -> None:
    """Set variables to values of their shapes."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
