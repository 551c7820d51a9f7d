"""Fine-tuning: the second stage of a trial, which trains the head and the top of the backbone together on augmented images."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner import errors
from tuner.kernels import checkpoints, cuts, head, losses, optimizers
from tuner.spec.hyperparameters import Augmentation, Hyperparameters
from tuner.tasks.images.data import resized
from tuner.tasks.images.training import augmentation, backbones, steps, views
from tuner.tasks.images.training import features as feature_files
from tuner.tasks.images.training.probe import MeasuredEpoch
from tuner.tasks.images.training.study_context import StudyContext

#: images uint8 (n, size, size, 3), or activations and pooled vectors for `Cut.above`
Batch = tuple[NDArray[np.uint8]] | tuple[NDArray[np.float32], NDArray[np.float32]]
Weights = Sequence[NDArray[np.float32]]
#: from images (n, size, size, 3) and targets (n, classes) to targets (n, classes)
Teaching = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The training images of a trial: original images, views in turn, or cached activations of the views."""

    images: resized.ResizedImages
    #: views that a trial trains on in turn; () if each step draws its own augmentation
    views: tuple[views.View, ...]
    #: activations of the views, if they are stored
    activations: feature_files.Activations | None
    seed: int

    def batches(self, epoch: int, chosen: Sequence[NDArray[np.int64]]) -> Iterator[Batch]:
        """Yield the images of each array of rows; each epoch shows an image in the next view."""
        numbers = self._numbers(epoch)
        if self.activations is not None:
            for rows in chosen:
                yield self.activations.take(numbers[rows], rows)
            return
        for rows, images in zip(chosen, resized.batches(self.images, chosen), strict=True):
            yield (self._mirrored(images, numbers[rows]) if self.views else images,)

    def _numbers(self, epoch: int) -> NDArray[np.int64]:
        """Return the number of each image's view; the first one is drawn by the trial."""
        count = max(1, len(self.views))
        first: NDArray[np.int64] = np.random.default_rng([self.seed, 2]).integers(count, size=len(self.images))
        return (first + epoch) % count

    def _mirrored(self, images: NDArray[np.uint8], numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        found = np.array(images)
        for number, view in enumerate(self.views):
            found[numbers == number] = views.mirrored(view, found[numbers == number])
        return found


def choose_inputs(context: StudyContext, cut: cuts.Cut, augmentation: Augmentation, *, seed: int) -> Inputs:
    """Choose what a trial trains on.

    Drawn views are used only if their activations are stored. Otherwise each step draws a new version, which costs no more than drawing the
    same ones again.
    """
    chosen = views.views(augmentation) if views.is_finite(augmentation) else ()
    activations = context.lower(cut, chosen) if chosen else None
    if activations is None and any(view.strengths is not None for view in chosen):
        chosen = ()
    return Inputs(images=context.data.train.images, views=chosen, activations=activations, seed=seed)


class FineTuning:
    """The fine-tuning of one trial, one epoch at a time; it can be interrupted and resumed after any step."""

    def __init__(
        self, context: StudyContext, weights: Weights, hyperparameters: Hyperparameters, *, seed: int, teacher: Teaching | None = None
    ) -> None:
        """Start from `weights`, kernel and bias of each layer of the head, and from the pretrained backbone.

        A `teacher` returns the targets (n, classes) of images (n, size, size, 3) after augmentation, from their targets by label.
        """
        self._teacher = teacher
        self._context, self.hyperparameters, self._seed = context, hyperparameters, seed
        self._cut = context.backbone.cut(backbones.num_unfrozen(hyperparameters.unfreeze, len(context.backbone.blocks)))
        self.inputs = choose_inputs(context, self._cut, hyperparameters.augmentation, seed=seed)
        if teacher is not None:
            self.inputs = replace(self.inputs, views=(), activations=None)  # it needs the images
        labels, num_classes = context.data.train.labels, context.num_classes
        self._batch = min(hyperparameters.batch_size, len(labels))
        #: number of images processed at once; less than a batch if memory is short
        self._part = self._batch
        self._num_steps = len(labels) // self._batch
        self._rates = optimizers.cosine(self._num_steps * context.epochs, peak=hyperparameters.learning_rate, warmup=hyperparameters.warmup)
        class_weights = losses.class_weights(labels, num_classes, hyperparameters.class_weights)
        self._values = steps.values(hyperparameters, context.moments(hyperparameters), class_weights)
        self._update_values = optimizers.values(hyperparameters, gradient_clip=context.study.training.gradient_clip)
        changed = Augmentation() if self.inputs.views else hyperparameters.augmentation
        self._strengths = {name: tf.constant(value, tf.float32) for name, value in augmentation.strengths(changed).items()}
        self._form = steps.StepForm.of(hyperparameters, num_open=self._cut.num_open, num_classes=num_classes, target=context.target.kind)
        size = context.backbone.size
        self._augment = context.traced.augment(augmentation.Changes.of(changed), size=size, num_classes=num_classes)
        self._below = context.traced.below(self._cut, size=size)
        self._slope = context.traced.slope(self._cut, self._form, overrides=context.overrides)
        self._update = context.traced.update(optimizers.UpdateForm.of(hyperparameters, num_open=self._cut.num_open), self._cut)
        self._update.begin(weights)
        self._validation = _Validation(context, hyperparameters, self._cut)
        #: finished steps of the current epoch, and their sums of loss and accuracy
        self._steps, self._sums = 0, np.zeros(2, np.float32)

    def resume(self, state: Weights, part: checkpoints.EpochPart | None) -> None:
        """Continue from a saved state, in the middle of an epoch if `part` is given."""
        assign(self.state, state)
        if part is not None:
            self._steps, self._sums = part.steps, np.array(part.sums, np.float32)

    def part(self, seconds: float) -> checkpoints.EpochPart | None:
        """Return the finished steps of the current epoch, which took `seconds`; None between two epochs."""
        loss, accuracy = (float(total) for total in self._sums)
        return checkpoints.EpochPart(steps=self._steps, sums=(loss, accuracy), seconds=seconds) if self._steps else None

    @property
    def state(self) -> list[tf.Variable]:
        """Every variable that one step passes to the next."""
        return self._update.state

    @property
    def head(self) -> list[tf.Variable]:
        """Kernel and bias of each layer of the head."""
        return self._update.head

    @property
    def variables(self) -> list[tf.Variable]:
        """The trained variables: those of the head, then those of the backbone."""
        return self._update.variables

    def weights(self) -> list[NDArray[np.float32]]:
        """Return the weights of the trial: the running averages of `variables` if they are on."""
        return [variable.numpy() for variable in self._update.measured]

    def train(self, epoch: int) -> Iterator[None]:
        """Train the rest of an epoch, counted from 0; yield after each step, so that the caller can interrupt."""
        labels = self._context.data.train.labels
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
        """Return the scores of the epoch that was just trained."""
        loss, accuracy = (float(total) for total in self._sums / self._num_steps)
        self._steps, self._sums = 0, np.zeros(2, np.float32)
        trained = [variable.numpy() for variable in self.variables] if self.hyperparameters.ema else []
        if trained:
            assign(self.variables, self.weights())
        logits = self._validation.logits([variable.numpy() for variable in self.head])
        if trained:
            assign(self.variables, trained)
        labels = self._context.data.validation.labels
        target, metric = self._context.target, self._context.study.objective.metric
        loss_of = losses.validation_loss(self.hyperparameters, target.kind)
        validation = losses.score(logits, labels, loss_of, metric, target=target)
        rate = float(self._rates[(epoch + 1) * self._num_steps - 1])
        return MeasuredEpoch(loss=loss, accuracy=accuracy, learning_rate=rate, validation=validation, logits=logits)

    def _gradients(self, batch: Batch, labels: NDArray[Any], number: int) -> tuple[list[tf.Tensor], NDArray[np.float32]]:
        """Return the gradients of a whole batch, computed in as many parts as memory requires; weights change only afterwards."""
        targets = losses.dense(tf.constant(labels), self._context.num_classes)
        while True:
            try:
                return self._summed(batch, targets, labels, number)
            except tf.errors.ResourceExhaustedError as error:
                self._make_room(error)

    def _summed(self, batch: Batch, targets: tf.Tensor, labels: NDArray[Any], number: int) -> tuple[list[tf.Tensor], NDArray[np.float32]]:
        tensors = [tf.constant(each) for each in batch]
        seed = self._seed % 2**31
        if len(batch) == 1:
            images, targets = self._augment(tensors[0], targets, self._strengths, tf.constant([seed, number], tf.int32))
            tensors = [images]
            if self._teacher is not None:
                targets = self._teacher(images, targets)
        gradients: list[tf.Tensor] = []
        measured = np.zeros(2, np.float32)
        for start in range(0, len(labels), self._part):
            rows = slice(start, start + self._part)
            lower = self._below(tensors[0][rows]) if len(batch) == 1 else tuple(each[rows] for each in tensors)
            position = tf.constant([seed, number, start, len(labels)], tf.int32)
            weights = [variable.value() for variable in self.head]
            found, share = self._slope(lower, (targets[rows], tf.constant(labels[rows])), weights, self._values, position)
            gradients = [one + other for one, other in zip(gradients, found, strict=True)] if gradients else list(found)
            measured += share.numpy()
        return gradients, measured

    def _make_room(self, error: Exception) -> None:
        """Process half as many images at once for the rest of this trial only, because smaller parts round differently."""
        if self._part == 1:
            blocks = f"{self._cut.num_open} of {len(self._context.backbone.blocks)} blocks at {self._context.backbone.size} pixels"
            cure = "Lower unfreeze, or choose a smaller model.image_size or backbone"
            raise errors.TrainingError(
                f"out of memory: cannot train {blocks}, even with one image at a time. {cure}", kind="OutOfMemory"
            ) from error
        too_many, self._part = self._part, (self._part + 1) // 2
        _LOG.warning("out of memory with %d images at once; continuing with %d at a time and the same batch size", too_many, self._part)


class _Validation:
    """The validation split of a trial; the output of the frozen part is computed once if it fits in memory."""

    def __init__(self, context: StudyContext, hyperparameters: Hyperparameters, cut: cuts.Cut) -> None:
        self._context, self._hyperparameters = context, hyperparameters
        self._below = context.traced.below(cut, size=context.backbone.size)
        self._above = context.traced.above(cut, hyperparameters.features)
        images: resized.ResizedImages = context.data.validation.images
        num_bytes = 4 * cut.num_values * len(images)
        is_stored = cut.multiply_adds > 0 and num_bytes <= feature_files.SHARE_OF_MEMORY * context.store.share.tensor_bytes
        self._lower = list(self._parts(images)) if is_stored else None

    def logits(self, weights: Weights) -> NDArray[np.float32]:
        """Return the logits (n, classes) of the validation split, by these weights of the head."""
        lower = self._parts(self._context.data.validation.images) if self._lower is None else self._lower
        return _logits((self._above(*part) for part in lower), self._context, self._hyperparameters, weights)

    def _parts(self, images: resized.ResizedImages) -> Iterator[Any]:
        for batch in feature_files.batches_in_order(images):
            yield self._below(tf.constant(batch, tf.float32))


def predict(
    context: StudyContext, hyperparameters: Hyperparameters, weights: Weights, images: resized.ResizedImages, *, mirrored: bool = False
) -> NDArray[np.float32]:
    """Return the logits (n, classes) of images or their mirror images, by the weights of a head and the current backbone."""
    cut = context.backbone.cut(len(context.backbone.blocks))
    below = context.traced.below(cut, size=context.backbone.size)
    above = context.traced.above(cut, hyperparameters.features)
    view = views.View(flip_x=mirrored)
    batches = (views.mirrored(view, batch) for batch in feature_files.batches_in_order(images))
    found = (above(*below(tf.constant(batch, tf.float32))) for batch in batches)
    return _logits(found, context, hyperparameters, weights)


def _logits(found: Iterator[tf.Tensor], context: StudyContext, hyperparameters: Hyperparameters, weights: Weights) -> NDArray[np.float32]:
    moments = context.moments(hyperparameters)
    standardized = (head.standardize(part, moments) for part in found)
    return np.concatenate([head.forward(weights, part, activation=hyperparameters.activation).numpy() for part in standardized])


def assign(variables: Sequence[tf.Variable], values: Weights) -> None:
    """Set variables to values of their shapes."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
