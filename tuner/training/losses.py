"""The loss that a trial minimizes, for soft labels and class weights."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tuner.hyperparameters import ClassWeights, Hyperparameters, Loss

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
