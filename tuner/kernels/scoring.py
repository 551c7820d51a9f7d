"""Metrics of images with one label each: what logits score on the images of a split, and what constant answers score.

Every mean over classes is a mean over the classes that occur in the split. A class without images there has no recall, no F1 and no AUC, so
it is left out; an image that is wrongly predicted as such a class still counts as a miss of its own class. Among equal logits, the class
that comes first is the answer.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.spec.hyperparameters import TargetKind
from tuner.spec.objective import METRICS, ImageMetric

#: (n, classes)
Logits = NDArray[np.floating[Any]]
#: (n,)
Labels = NDArray[np.int64]

#: number of answers of an image, of which one must be right
NUM_ANSWERS = 5
#: metrics that count every class alike, whatever its number of images
BALANCED = frozenset({"balanced_accuracy", "macro_f1", "auc"})


def value(metric: ImageMetric, logits: Logits, labels: Labels) -> float:
    """Return what logits score in a metric; NaN if that is undefined, or if logits are not finite and the metric needs probabilities."""
    with np.errstate(invalid="ignore"):
        return _METRICS[metric](logits, labels)


def usual(logits: Logits, labels: Labels) -> dict[ImageMetric, float]:
    """Return all metrics but `auc`, which sorts the images once for each class, and a top 5 of all classes."""
    left_out = {"auc"} if logits.shape[1] > NUM_ANSWERS else {"auc", "top_5_accuracy"}
    return {metric: value(metric, logits, labels) for metric in METRICS[TargetKind.LABEL] if metric not in left_out}


def constant(metric: ImageMetric, train: Labels, labels: Labels, num_classes: int) -> float:
    """Return what a model scores on `labels` that looks at no image: it always answers with the shares of the classes in `train`.

    Its answer is always the commonest class, its AUC is 0.5. A class without training images counts as half an image.
    """
    shares = np.log(np.maximum(np.bincount(train, minlength=num_classes), 0.5) / max(1, len(train)))
    return value(metric, np.broadcast_to(shares, (len(labels), num_classes)), labels)


def weight(labels: Labels) -> float:
    """Return the number of images whose accuracy is about as certain as a mean over the classes of these images.

    Recalls of `n_k` images have the variance `r (1 - r) / n_k`, and their mean over K classes that of K² / Σ (1 / n_k) images.
    """
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    return float(len(counts) ** 2 / (1 / counts).sum()) if len(counts) else 0.0


def _accuracy(logits: Logits, labels: Labels) -> float:
    return float((logits.argmax(1) == labels).mean())


def _balanced_accuracy(logits: Logits, labels: Labels) -> float:
    """Return the mean recall of the classes."""
    right, true, _ = _counts(logits, labels)
    return float((right / true).mean())


def _macro_f1(logits: Logits, labels: Labels) -> float:
    """Return the mean F1 of the classes."""
    right, true, taken = _counts(logits, labels)
    return float((2 * right / (true + taken)).mean())


def _counts(logits: Logits, labels: Labels) -> tuple[Labels, Labels, Labels]:
    """Return for each class that occurs the images that are predicted right, its images, and the images predicted as it."""
    predicted, num_classes = logits.argmax(1), logits.shape[1]
    right = np.bincount(labels[labels == predicted], minlength=num_classes)
    true, taken = np.bincount(labels, minlength=num_classes), np.bincount(predicted, minlength=num_classes)
    return right[true > 0], true[true > 0], taken[true > 0]


def _auc(logits: Logits, labels: Labels) -> float:
    """Return the mean over the classes of the area under the ROC curve, each class against the rest; ties count half.

    Undefined, and therefore NaN, if all images are of one class.
    """
    odds = _log_odds(logits)
    if not np.isfinite(odds).all():
        return float("nan")
    areas = []
    for label in np.unique(labels).tolist():
        is_own = labels == label
        rest = np.sort(odds[~is_own, label])
        if len(rest):
            own = odds[is_own, label]
            num_below = np.searchsorted(rest, own, "left") + np.searchsorted(rest, own, "right")
            areas.append(float(num_below.mean()) / (2 * len(rest)))
    return float(np.mean(areas)) if areas else float("nan")


def _log_odds(logits: Logits) -> NDArray[np.float64]:
    """Return log(p / (1 - p)) of each probability p, which orders images as p does, also where p is rounded to 1."""
    given = logits.astype(np.float64)
    rows, first = np.arange(len(given)), given.argmax(1)
    given -= given[rows, first][:, None]
    raised, others = np.exp(given), given.copy()
    others[rows, first] = -np.inf
    rest = raised.sum(1, keepdims=True) - raised
    rest[rows, first] = 1.0  # the difference is less exact here than the sum of the others
    rest = np.log(rest)
    rest[rows, first] = _log_sum(others)
    found: NDArray[np.float64] = given - rest
    return found


def _log_loss(logits: Logits, labels: Labels) -> float:
    """Return the mean cross-entropy of the softmax."""
    return float((_log_sum(logits) - logits[np.arange(len(labels)), labels]).mean())


def _log_sum(given: Logits) -> NDArray[np.float64]:
    top = given.max(1)
    found: NDArray[np.float64] = top + np.log(np.exp(given - top[:, None]).sum(1, dtype=np.float64))
    return found


def _top_5_accuracy(logits: Logits, labels: Labels) -> float:
    """Return the share of images whose class is among the five with the highest logits."""
    own = logits[np.arange(len(labels)), labels]
    is_right = (np.count_nonzero(logits > own[:, None], 1) < NUM_ANSWERS) & np.isfinite(own)
    left, label = logits[is_right], labels[is_right][:, None]
    is_before = (left > own[is_right, None]) | ((left == own[is_right, None]) & (np.arange(logits.shape[1]) < label))
    return float(np.count_nonzero(np.count_nonzero(is_before, 1) < NUM_ANSWERS) / len(labels))


_METRICS: dict[ImageMetric, Callable[[Logits, Labels], float]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
    "auc": _auc,
    "log_loss": _log_loss,
    "top_5_accuracy": _top_5_accuracy,
}
