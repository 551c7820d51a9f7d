"""Losses and scores: the loss that a trial minimizes, and metrics, loss and confusion on a split."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner.kernels import targets
from tuner.kernels.targets import ImageTarget
from tuner.protocol import messages
from tuner.spec.hyperparameters import ClassWeights, Hyperparameters, Loss, TargetKind
from tuner.spec.objective import ImageMetric

#: from labels (n, classes) and outputs (n, classes) to the loss of each image (n,); one label of an image sums to one over the classes
LossFunction = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
_SMALLEST = 1e-7
#: largest number of misclassified images reported for one epoch
MAX_MISTAKES = 24
#: a confusion matrix of more classes is not made: it grows with the square of the classes
_CONFUSED_CLASSES = 1_000


def training_loss(kind: Loss, *, smoothing: Any, gamma: Any, class_weights: Any, target: TargetKind = TargetKind.LABEL) -> LossFunction:
    """Return the loss that a trial minimizes, with label smoothing and class weights (classes,), which may be tensors.

    Logits may have leading axes that labels lack: (heads, n, classes) gives (heads, n). A weight counts an image of the class; if an
    image may have several labels, only its part of the loss that says that the label is there.
    """
    if target is TargetKind.NUMBER:
        return _of_numbers(kind)
    if target is TargetKind.LABELS:
        return _of_labels(kind, smoothing=smoothing, gamma=gamma, class_weights=class_weights)
    each = _LOSSES[kind](gamma)

    def loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        num_classes = labels.shape[-1]
        labels = tf.broadcast_to(labels, tf.shape(logits))
        smoothed = labels * (1.0 - smoothing) + smoothing / num_classes
        return each(smoothed, logits) * tf.linalg.matvec(labels, class_weights)

    return loss


def smoothing_of(hyperparameters: Hyperparameters) -> float:
    """Return the label smoothing in effect: 0 for the focal loss."""
    return hyperparameters.label_smoothing if hyperparameters.loss is not Loss.FOCAL else 0.0


def validation_loss(hyperparameters: Hyperparameters, target: TargetKind = TargetKind.LABEL) -> LossFunction:
    """Return the loss reported for the validation split, without smoothing or class weights; logits may have leading axes."""
    return plain_loss(hyperparameters.loss, hyperparameters.focal_gamma, target)


def plain_loss(kind: Loss, gamma: float, target: TargetKind = TargetKind.LABEL) -> LossFunction:
    """Return a loss without smoothing or class weights; logits may have leading axes."""
    if target is not TargetKind.LABEL:
        return training_loss(kind, smoothing=0.0, gamma=gamma, class_weights=1.0, target=target)
    each = _LOSSES[kind](gamma)
    return lambda labels, logits: each(tf.broadcast_to(labels, tf.shape(logits)), logits)


def class_weights(labels: np.ndarray, num_classes: int, kind: ClassWeights) -> np.ndarray:
    """Return the weight of each class (classes,), whose mean over the training images with `labels` (n,) is 1.

    If an image may have several labels (n, classes), a label weighs as much as the images without it.
    """
    if kind is ClassWeights.NONE:
        return np.ones(num_classes)
    if labels.ndim == 2:
        present = np.asarray(labels.sum(0), np.float64)
        return np.asarray(np.maximum(len(labels) - present, 1) / np.maximum(present, 1), np.float64)
    counts = np.bincount(labels, minlength=num_classes)
    return len(labels) / (num_classes * np.maximum(counts, 1))


def _cross_entropy(_: Any) -> LossFunction:
    return tf.nn.softmax_cross_entropy_with_logits  # type: ignore[no-any-return]


def _focal(gamma: Any) -> LossFunction:
    """Return the focal loss (Lin and others, arXiv 1708.02002) over the softmax."""

    def focal(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        log_p = tf.nn.log_softmax(logits)
        # the slope of x ** gamma at 0 is infinite if gamma is below 1
        wrong = tf.maximum(-tf.math.expm1(log_p), _SMALLEST)
        return -tf.reduce_sum(labels * wrong**gamma * log_p, -1)

    return focal


def _binary_cross_entropy(_: Any) -> LossFunction:
    return lambda labels, logits: tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits), -1)


_LOSSES: dict[Loss, Callable[[Any], LossFunction]] = {
    Loss.CROSS_ENTROPY: _cross_entropy,
    Loss.FOCAL: _focal,
    Loss.BINARY_CROSS_ENTROPY: _binary_cross_entropy,
}


def _of_labels(kind: Loss, *, smoothing: Any, gamma: Any, class_weights: Any) -> LossFunction:
    """Return a loss that decides yes or no for each class; `class_weights` weigh the labels that are there."""

    def loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        smoothed = labels * (1.0 - smoothing) + smoothing / tf.cast(tf.shape(labels)[-1], tf.float32)
        present, absent = tf.math.log_sigmoid(logits), tf.math.log_sigmoid(-logits)
        if kind is Loss.FOCAL:
            present, absent = (tf.maximum(tf.exp(other), _SMALLEST) ** gamma * own for own, other in ((present, absent), (absent, present)))
        return -tf.reduce_sum(class_weights * smoothed * present + (1.0 - smoothed) * absent, -1)

    return loss


def _of_numbers(kind: Loss) -> LossFunction:
    """Return a loss of numbers in standard deviations; the one of Huber (1964) is linear beyond one of them."""
    return lambda labels, given: tf.reduce_sum(_NUMBER_LOSSES[kind](given - labels), -1)


_NUMBER_LOSSES: dict[Loss, Callable[[tf.Tensor], tf.Tensor]] = {
    Loss.MSE: tf.square,
    Loss.MAE: tf.abs,
    Loss.HUBER: lambda wrong: tf.where(tf.abs(wrong) < 1.0, tf.square(wrong) / 2, tf.abs(wrong) - 0.5),
}


def dense(labels: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Return labels (n, classes): those of classes one-hot, those of other targets as they are."""
    return labels if len(labels.shape) == 2 else tf.one_hot(labels, num_classes)


def hits(logits: tf.Tensor, labels: tf.Tensor, target: TargetKind) -> tf.Tensor:
    """Return 1 for each image whose answer is right in everything, 0 for the others, and 0 for all numbers.

    Logits may have leading axes. Several labels are right if each has a probability above 0.5 where it is present.
    """
    if target is TargetKind.LABEL:
        return tf.cast(tf.equal(tf.argmax(logits, -1, labels.dtype), labels), tf.float32)
    if target is TargetKind.LABELS:
        return tf.cast(tf.reduce_all(tf.equal(logits > 0, tf.broadcast_to(labels, tf.shape(logits)) > 0.5), -1), tf.float32)
    return tf.zeros_like(logits[..., 0])


def label_spec(target: TargetKind, dtype: Any = tf.int32) -> tf.TensorSpec:
    """Return shape and type of the labels of a batch in a graph; `dtype` is that of one label of an image."""
    return tf.TensorSpec([None], dtype) if target is TargetKind.LABEL else tf.TensorSpec([None, None], tf.float32)


def as_tensor(labels: NDArray[Any]) -> tf.Tensor:
    """Return labels as a graph takes them."""
    return tf.constant(labels, tf.int32 if labels.ndim == 1 else tf.float32)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of a model on one split."""

    #: share of the images whose answer is right in everything; NaN for numbers
    accuracy: float
    loss: float
    #: the metric that the study optimizes
    value: float
    #: rows: true class, columns: predicted class; empty for many classes, because it grows with their square
    confusion: tuple[tuple[int, ...], ...]
    #: the misclassified images with the highest confidence, the highest first
    mistakes: tuple[messages.Misclassified, ...] = ()
    #: all other metrics that are usually measured, by name
    metrics: Mapping[str, float] = field(default_factory=dict)
    #: of each class, if an image may have several labels
    by_class: tuple[messages.LabelCounts, ...] = ()


def score(
    logits: NDArray[np.float32],
    labels: NDArray[Any],
    loss: LossFunction,
    metric: ImageMetric = "accuracy",
    *,
    target: ImageTarget = targets.ONE_LABEL,
    thresholds: Sequence[float] | None = None,
) -> Scores:
    """Score outputs (n, classes) against encoded labels; without `thresholds`, each class has the one that suits these images best."""
    judged = target.judge(logits, labels, thresholds=thresholds)
    has_one, predicted = target.kind is TargetKind.LABEL, logits.argmax(1)
    return Scores(
        accuracy=judged.accuracy,
        loss=mean(logits, labels, loss),
        value=judged.metrics[metric] if metric in judged.metrics else target.value(metric, logits, labels),
        confusion=_confusion(labels, predicted, logits.shape[1]) if has_one else (),
        mistakes=_mistakes(logits, labels, predicted) if has_one else (),
        metrics={name: value for name, value in judged.metrics.items() if name != metric},
        by_class=judged.by_class,
    )


def mean(logits: NDArray[np.float32], labels: NDArray[Any], loss: LossFunction) -> float:
    """Return the mean loss of outputs (n, classes) against encoded labels."""
    return float(tf.reduce_mean(loss(dense(tf.constant(labels), logits.shape[1]), tf.constant(logits))))


def _confusion(labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> tuple[tuple[int, ...], ...]:
    if num_classes > _CONFUSED_CLASSES:
        return ()
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)
    return tuple(tuple(row) for row in counts.tolist())


def _mistakes(logits: NDArray[np.float32], labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> tuple[messages.Misclassified, ...]:
    """Return the misclassified images with the highest softmax probability of the wrong class; ties go to the earliest image."""
    wrong = np.flatnonzero((predicted != labels) & np.isfinite(logits).all(1))
    given = logits[wrong] - logits[wrong].max(1, keepdims=True)
    confidence = 1.0 / np.exp(given).sum(1)  # of the class with the highest logit
    chosen = np.argsort(-confidence, kind="stable")[:MAX_MISTAKES]
    return tuple(
        messages.Misclassified(
            index=int(wrong[row]),
            true=int(labels[wrong[row]]),
            predicted=int(predicted[wrong[row]]),
            confidence=round(float(confidence[row]), 4),
        )
        for row in chosen
    )
