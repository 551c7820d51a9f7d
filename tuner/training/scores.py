"""Logits and labels into accuracy, loss and confusion."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner import messages
from tuner.training import losses

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
    mistakes: tuple[messages.Mistake, ...] = ()


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
        mistakes=_mistakes(logits, labels, predicted),
    )


def _mistakes(logits: NDArray[np.float32], labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> tuple[messages.Mistake, ...]:
    """The images that were taken for a wrong class with the highest probability (softmax); among equals the earliest."""
    wrong = np.flatnonzero((predicted != labels) & np.isfinite(logits).all(1))
    given = logits[wrong] - logits[wrong].max(1, keepdims=True)
    confidence = 1.0 / np.exp(given).sum(1)  # of the class with the highest logit
    chosen = np.argsort(-confidence, kind="stable")[:MAX_MISTAKES]
    return tuple(
        messages.Mistake(
            index=int(wrong[place]),
            true=int(labels[wrong[place]]),
            predicted=int(predicted[wrong[place]]),
            confidence=round(float(confidence[place]), 4),
        )
        for place in chosen
    )
