"""Losses and scores: the loss that a trial minimizes, and metrics, loss and confusion on a split."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner.kernels import scoring
from tuner.protocol import messages
from tuner.spec.hyperparameters import ClassWeights, Hyperparameters, Loss
from tuner.spec.objective import ImageMetric

#: from labels (n, classes) that sum to one and logits (n, classes) to the loss of each image (n,)
LossFunction = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
_SMALLEST = 1e-7
#: largest number of misclassified images reported for one epoch
MAX_MISTAKES = 24
#: a confusion matrix of more classes is not made: it grows with the square of the classes
_CONFUSED_CLASSES = 1_000


def training_loss(kind: Loss, *, smoothing: Any, gamma: Any, class_weights: Any) -> LossFunction:
    """Return the loss that a trial minimizes, with label smoothing and class weights (classes,), which may be tensors.

    Logits may have leading axes that labels lack: (heads, n, classes) gives (heads, n).
    """
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


def validation_loss(hyperparameters: Hyperparameters) -> LossFunction:
    """Return the loss reported for the validation split, without smoothing or class weights; logits may have leading axes."""
    return plain_loss(hyperparameters.loss, hyperparameters.focal_gamma)


def plain_loss(kind: Loss, gamma: float) -> LossFunction:
    """Return a loss without smoothing or class weights; logits may have leading axes."""
    each = _LOSSES[kind](gamma)
    return lambda labels, logits: each(tf.broadcast_to(labels, tf.shape(logits)), logits)


def class_weights(labels: np.ndarray, num_classes: int, kind: ClassWeights) -> np.ndarray:
    """Return the weight of each class (classes,), whose mean over the training images with `labels` (n,) is 1."""
    if kind is ClassWeights.NONE:
        return np.ones(num_classes)
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


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of a model on one split."""

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


def score(logits: NDArray[np.float32], labels: NDArray[np.int64], loss: LossFunction, metric: ImageMetric = "accuracy") -> Scores:
    """Score logits (n, classes) against labels (n,)."""
    predicted, found = logits.argmax(1), scoring.usual(logits, labels)
    return Scores(
        accuracy=found["accuracy"],
        loss=mean(logits, labels, loss),
        value=found[metric] if metric in found else scoring.value(metric, logits, labels),
        confusion=_confusion(labels, predicted, logits.shape[1]),
        mistakes=_mistakes(logits, labels, predicted),
        metrics={name: value for name, value in found.items() if name != metric},
    )


def mean(logits: NDArray[np.float32], labels: NDArray[np.int64], loss: LossFunction) -> float:
    """Return the mean loss of logits (n, classes) against labels (n,)."""
    return float(tf.reduce_mean(loss(tf.one_hot(labels, logits.shape[1]), tf.constant(logits))))


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
