"""The loss that a trial minimizes, for soft labels and class weights.

Logits and labels into accuracy, loss and confusion.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner.protocol import messages
from tuner.spec.hyperparameters import ClassWeights, Hyperparameters, Loss

#: labels (n, classes) that sum to one, logits (n, classes) -> loss of each image (n,)
LossFunction = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
_SMALLEST = 1e-7


def training(kind: Loss, *, smoothing: Any, gamma: Any, class_weights: Any) -> LossFunction:
    """The loss that is minimized, with label smoothing and class weights (classes,), by numbers or tensors.

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
    """The label smoothing that acts: none on the focal loss."""
    return hyperparameters.label_smoothing if hyperparameters.loss is not Loss.FOCAL else 0.0


def build_validation(hyperparameters: Hyperparameters) -> LossFunction:
    """The loss that is reported of the validation split: without smoothing or class weights; logits may have leading axes here too."""
    each = _LOSSES[hyperparameters.loss](hyperparameters.focal_gamma)
    return lambda labels, logits: each(tf.broadcast_to(labels, tf.shape(logits)), logits)


def class_weights(labels: np.ndarray, num_classes: int, kind: ClassWeights) -> np.ndarray:
    """How much an image of each class counts (classes,); 1 on average over the training images `labels` (n,)."""
    if kind is ClassWeights.NONE:
        return np.ones(num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    return len(labels) / (num_classes * np.maximum(counts, 1))


def _cross_entropy(_: Any) -> LossFunction:
    return tf.nn.softmax_cross_entropy_with_logits  # type: ignore[no-any-return]


def _focal(gamma: Any) -> LossFunction:
    """Lin and others, Focal loss (arXiv 1708.02002), over the softmax."""

    def focal(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        log_p = tf.nn.log_softmax(logits)
        # the slope of x ** gamma at 0 is not finite where gamma is below 1
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


#: mistakes that are told of one epoch
MAX_MISTAKES = 24


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How a model did on one split."""

    accuracy: float
    loss: float
    #: rows: true class, columns: predicted class
    confusion: tuple[tuple[int, ...], ...]
    #: the most confident ones, the most confident first
    mistakes: tuple[messages.Misclassified, ...] = ()


def score(logits: NDArray[np.float32], labels: NDArray[np.int64], loss: LossFunction) -> Scores:
    """Compare logits (n, classes) with labels (n,)."""
    num_classes = logits.shape[1]
    predicted = logits.argmax(1)
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)
    each = loss(tf.one_hot(labels, num_classes), tf.constant(logits))
    return Scores(
        accuracy=float((predicted == labels).mean()),
        loss=float(tf.reduce_mean(each)),
        confusion=tuple(tuple(int(count) for count in row) for row in counts),
        mistakes=_mistakes(logits, labels, predicted),
    )


def _mistakes(logits: NDArray[np.float32], labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> tuple[messages.Misclassified, ...]:
    """The images that were taken for a wrong class with the highest probability (softmax); among equals the earliest."""
    wrong = np.flatnonzero((predicted != labels) & np.isfinite(logits).all(1))
    given = logits[wrong] - logits[wrong].max(1, keepdims=True)
    confidence = 1.0 / np.exp(given).sum(1)  # of the class with the highest logit
    chosen = np.argsort(-confidence, kind="stable")[:MAX_MISTAKES]
    return tuple(
        messages.Misclassified(
            index=int(wrong[place]),
            true=int(labels[wrong[place]]),
            predicted=int(predicted[wrong[place]]),
            confidence=round(float(confidence[place]), 4),
        )
        for place in chosen
    )
