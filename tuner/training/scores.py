"""Logits and labels into accuracy, loss and confusion."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner.training import losses


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How a model did on one split."""

    accuracy: float
    loss: float
    #: rows: true class, columns: predicted class
    confusion: tuple[tuple[int, ...], ...]


def score(logits: NDArray[np.float32], labels: NDArray[np.int64], loss: losses.LossFunction) -> Scores:
    """Compare logits (n, classes) with labels (n,)."""
    num_classes = logits.shape[1]
    predicted = logits.argmax(1)
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)
    each = loss(tf.one_hot(labels, num_classes), tf.constant(logits))
    return Scores(
        accuracy=float((predicted == labels).mean()),
        loss=float(tf.reduce_mean(each)),
        confusion=tuple(tuple(int(count) for count in row) for row in counts),
    )
