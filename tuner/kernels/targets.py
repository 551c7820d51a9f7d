"""Targets: what a network learns of each image, one label, several labels or a number, and how its outputs are judged.

Inside of a trainer, outputs are what the last layer of a head gives: logits, or numbers in standard deviations of the training images.
`ImageTarget.outputs` turns them into what files, bundles and people see.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tuner.kernels import scoring
from tuner.protocol.messages import LabelCounts
from tuner.spec.hyperparameters import TargetKind
from tuner.spec.objective import METRICS, ImageMetric

#: int64 (n,), float32 (n, classes) of 0 and 1, or float32 (n, 1)
Labels = NDArray[Any]
#: (n, classes) or (n, 1)
Outputs = NDArray[np.floating[Any]]
#: a probability from which a class counts as present, unless another one is chosen
MIDDLE = 0.5


@dataclass(frozen=True, kw_only=True)
class JudgedOutputs:
    """What outputs score on a split."""

    #: share of the images whose answer is right in everything; NaN for numbers
    accuracy: float
    #: the metrics that are usually measured, by name
    metrics: Mapping[ImageMetric, float]
    #: of each class, if an image may have several labels
    by_class: tuple[LabelCounts, ...] = ()


class ImageTarget(Protocol):
    """What a network learns of each image."""

    @property
    def kind(self) -> TargetKind:
        """Its kind."""

    def encode(self, labels: Labels) -> Labels:
        """Return labels of a dataset as a network is trained on them."""

    def outputs(self, given: Outputs) -> Outputs:
        """Return outputs of a head as files have them: logits, or numbers in the units of the user."""

    def decode(self, encoded: Labels) -> Labels:
        """Return encoded labels in the units of the user."""

    def value(self, metric: ImageMetric, given: Outputs, encoded: Labels) -> float:
        """Return what outputs of a head score in a metric; NaN if that is undefined."""

    def judge(self, given: Outputs, encoded: Labels, *, thresholds: Sequence[float] | None = None) -> JudgedOutputs:
        """Return what outputs of a head score; without `thresholds`, each class has the one that suits these images best."""

    def constant(self, metric: ImageMetric, train: Labels, encoded: Labels, num_classes: int) -> float:
        """Return what a model scores that looks at no image: it gives the same answer for all, which suits the labels `train`."""

    def always(self, train: Labels, classes: Sequence[str]) -> str:
        """Return this answer in words; "" if it is the commonest class."""

    def weight(self, encoded: Labels) -> float:
        """Return the number of images whose accuracy is about as certain as a mean over the classes of these images."""


@dataclass(frozen=True)
class OneLabel:
    """One label of each image, an index into the classes."""

    kind = TargetKind.LABEL

    def encode(self, labels: Labels) -> Labels:
        """Return the indices."""
        return labels

    def outputs(self, given: Outputs) -> Outputs:
        """Return the logits."""
        return given

    def decode(self, encoded: Labels) -> Labels:
        """Return the indices."""
        return encoded

    def value(self, metric: ImageMetric, given: Outputs, encoded: Labels) -> float:
        """Return what logits score in a metric."""
        return scoring.value(metric, given, encoded)

    def judge(self, given: Outputs, encoded: Labels, *, thresholds: Sequence[float] | None = None) -> JudgedOutputs:
        """Return what logits score; the class with the highest one is the answer."""
        found = scoring.usual(given, encoded)
        return JudgedOutputs(accuracy=found["accuracy"], metrics=found)

    def constant(self, metric: ImageMetric, train: Labels, encoded: Labels, num_classes: int) -> float:
        """Return what the shares of the classes among `train` score as an answer."""
        return scoring.constant(metric, train, encoded, num_classes)

    def always(self, train: Labels, classes: Sequence[str]) -> str:
        """Return "": the answer is the commonest class."""
        return ""

    def weight(self, encoded: Labels) -> float:
        """Return the number of images in effect."""
        return scoring.weight(encoded)


@dataclass(frozen=True)
class SeveralLabels:
    """Any number of labels of each image, a 0 or 1 for each class.

    A probability counts as a label from the threshold of its class on, which gives the highest F1 on validation images. So macro F1 and
    exact matches on validation images are a little too good, and those on test images, with the same thresholds, are not. Means over
    classes leave out a class without an image.
    """

    kind = TargetKind.LABELS

    def encode(self, labels: Labels) -> Labels:
        """Return 0 and 1 as float32."""
        return labels.astype(np.float32)

    def outputs(self, given: Outputs) -> Outputs:
        """Return the logits."""
        return given

    def decode(self, encoded: Labels) -> Labels:
        """Return 0 and 1."""
        return encoded

    def value(self, metric: ImageMetric, given: Outputs, encoded: Labels) -> float:
        """Return what logits score in a metric, with the thresholds that suit them best."""
        return self.judge(given, encoded).metrics[metric]

    def judge(self, given: Outputs, encoded: Labels, *, thresholds: Sequence[float] | None = None) -> JudgedOutputs:
        """Return what logits score; NaN if they are not finite."""
        return judge_labels(probabilities(given), encoded, thresholds)

    def constant(self, metric: ImageMetric, train: Labels, encoded: Labels, num_classes: int) -> float:
        """Return what the commonest set of labels scores in exact matches, and every label in the other metrics."""
        if metric == "exact_match":
            return float((encoded == _commonest(train)).all(1).mean())
        shares = np.broadcast_to(train.mean(0), encoded.shape)
        return float(judge_labels(shares, encoded, np.zeros(num_classes)).metrics[metric])

    def always(self, train: Labels, classes: Sequence[str]) -> str:
        """Return which labels are answered, for exact matches; the other metrics are best if all are."""
        names = [name for name, is_own in zip(classes, _commonest(train), strict=True) if is_own]
        return f"always the same labels ({' + '.join(names) or 'none'} for exact matches, all for the others)"

    def weight(self, encoded: Labels) -> float:
        """Return the number of images in effect, as if each label were an image."""
        counts = encoded.sum(0)
        counts = counts[counts > 0]
        return float(min(len(encoded), len(counts) ** 2 / (1 / counts).sum())) if len(counts) else 0.0


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number of each image; a head learns it in standard deviations from the mean of the training images."""

    mean: float = 0.0
    deviation: float = 1.0
    kind = TargetKind.NUMBER

    def encode(self, labels: Labels) -> Labels:
        """Return standardized numbers (n, 1)."""
        return ((labels.astype(np.float64).reshape(-1, 1) - self.mean) / self.deviation).astype(np.float32)

    def outputs(self, given: Outputs) -> Outputs:
        """Return numbers (n, 1) in the units of the user."""
        return (given.astype(np.float64) * self.deviation + self.mean).astype(np.float32)

    def decode(self, encoded: Labels) -> Labels:
        """Return numbers (n, 1) in the units of the user."""
        return self.outputs(encoded)

    def value(self, metric: ImageMetric, given: Outputs, encoded: Labels) -> float:
        """Return what numbers score in a metric."""
        return self.judge(given, encoded).metrics[metric]

    def judge(self, given: Outputs, encoded: Labels, *, thresholds: Sequence[float] | None = None) -> JudgedOutputs:
        """Return the errors in the units of the user, and the share of the variance that is explained (NaN if there is no variance)."""
        truth = encoded.astype(np.float64).ravel()
        with np.errstate(invalid="ignore", over="ignore"):
            wrong = given.astype(np.float64).ravel() - truth
            squared = float(np.square(wrong).mean())
            variance = float(truth.var())
            found: dict[ImageMetric, float] = {
                "mae": self.deviation * float(np.abs(wrong).mean()),
                "rmse": self.deviation * squared**0.5,
                "r2": 1 - squared / variance if variance > 0 else float("nan"),
            }
        return JudgedOutputs(accuracy=float("nan"), metrics=found)

    def constant(self, metric: ImageMetric, train: Labels, encoded: Labels, num_classes: int) -> float:
        """Return what the mean of `train` scores as an answer."""
        return self.value(metric, np.broadcast_to(train.mean(0), encoded.shape), encoded)

    def always(self, train: Labels, classes: Sequence[str]) -> str:
        """Return the mean in words."""
        return f"always the mean, {float(self.outputs(train).mean()):.4g}"

    def weight(self, encoded: Labels) -> float:
        """Return the number of images."""
        return float(len(encoded))


ONE_LABEL = OneLabel()
#: a target of each kind for outputs that are in the units of the user already
IN_UNITS: Mapping[TargetKind, ImageTarget] = {TargetKind.LABEL: ONE_LABEL, TargetKind.LABELS: SeveralLabels(), TargetKind.NUMBER: Number()}


def kind_of(metric: ImageMetric, labels: Labels) -> TargetKind:
    """Return the kind of labels, whose metric is known."""
    if metric in METRICS[TargetKind.NUMBER]:
        return TargetKind.NUMBER
    return TargetKind.LABELS if labels.ndim == 2 else TargetKind.LABEL


def of_training(kind: TargetKind, train: Labels) -> ImageTarget:
    """Return the target that the labels of the training images define."""
    if kind is not TargetKind.NUMBER:
        return IN_UNITS[kind]
    numbers = train.astype(np.float64)
    return Number(mean=float(numbers.mean()), deviation=float(numbers.std()) or 1.0)


def judge_answers(kind: TargetKind, found: Outputs, labels: Labels, thresholds: Sequence[float] = ()) -> JudgedOutputs:
    """Return what the answers of a model score: probabilities (n, classes), or numbers in the units of the user.

    `labels` are those of a dataset. Without `thresholds`, a label is present from a probability of 0.5 on.
    """
    if kind is TargetKind.LABEL:
        accuracy = float((found.argmax(1) == labels).mean())
        return JudgedOutputs(accuracy=accuracy, metrics={"accuracy": accuracy})
    if kind is TargetKind.LABELS:
        return judge_labels(found, labels, thresholds or [MIDDLE] * found.shape[1])
    return IN_UNITS[kind].judge(found, labels)


def agreeing(kind: TargetKind, found: Outputs, wanted: Outputs, thresholds: Sequence[float] = ()) -> NDArray[np.bool_]:
    """Return for each image whether two models give the same answer: the class, the set of labels; numbers always agree."""
    if kind is TargetKind.LABEL:
        return np.asarray(found.argmax(1) == wanted.argmax(1))
    if kind is TargetKind.NUMBER:
        return np.ones(len(found), np.bool_)
    limits = thresholds or [MIDDLE] * found.shape[1]
    return np.asarray((is_present(found, limits) == is_present(wanted, limits)).all(1))


def difference(kind: TargetKind, found: Outputs, wanted: Outputs) -> float:
    """Return the largest difference of two probabilities; of numbers, as a fraction of the largest one."""
    scale = (float(np.abs(wanted).max(initial=0.0)) or 1.0) if kind is TargetKind.NUMBER else 1.0
    return float(np.abs(found - wanted).max(initial=0.0)) / scale


def is_present(found: Outputs, thresholds: Sequence[float] | NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """Return whether each probability (n, classes) counts as a label."""
    return found >= np.asarray(thresholds, np.float64)


def probabilities(logits: Outputs) -> NDArray[np.float64]:
    """Return the probability of each class, each on its own (n, classes)."""
    with np.errstate(over="ignore"):
        found: NDArray[np.float64] = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return found


def judge_labels(found: Outputs, labels: Labels, thresholds: Sequence[float] | NDArray[np.floating[Any]] | None = None) -> JudgedOutputs:
    """Return what probabilities (n, classes) score against labels (n, classes) of 0 and 1."""
    if not np.isfinite(found).all() or not len(found):
        return JudgedOutputs(accuracy=float("nan"), metrics=dict.fromkeys(METRICS[TargetKind.LABELS], float("nan")))
    truth = labels > 0.5
    limits = best_thresholds(found, labels) if thresholds is None else np.asarray(thresholds, np.float64)
    given = is_present(found, limits)
    right, true, taken = (given & truth).sum(0), truth.sum(0), given.sum(0)
    average = [_average_precision(found[:, each], truth[:, each]) for each in range(truth.shape[1])]
    known = true > 0
    metrics: dict[ImageMetric, float] = {
        "macro_f1": float((2 * right[known] / (true + taken)[known]).mean()) if known.any() else float("nan"),
        "mean_average_precision": float(np.mean([each for each in average if each is not None])) if known.any() else float("nan"),
        "exact_match": float((given == truth).all(1).mean()),
    }
    counts = zip(true.tolist(), taken.tolist(), right.tolist(), limits.tolist(), average, strict=True)
    return JudgedOutputs(
        accuracy=metrics["exact_match"],
        metrics=metrics,
        by_class=tuple(
            LabelCounts(num_images=num, num_given=num_given, num_right=num_right, threshold=limit, average_precision=precision)
            for num, num_given, num_right, limit, precision in counts
        ),
    )


def best_thresholds(found: Outputs, labels: Labels) -> NDArray[np.float64]:
    """Return for each class the threshold between two probabilities that gives the highest F1, of several the one nearest to 0.5.

    A class without an image keeps 0.5.
    """
    return np.array([_best_threshold(found[:, each].astype(np.float64), labels[:, each] > 0.5) for each in range(found.shape[1])])


def _best_threshold(found: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    if not truth.any():
        return MIDDLE
    scores, ends, right = _by_score(found, truth)
    f1 = 2 * right / (ends + truth.sum())
    below = np.append(scores[1:], max(0.0, 2 * scores[-1] - 1))  # the lowest threshold lies as far from the last score as from 1
    limits = (scores + below) / 2
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    return float(limits[best[np.abs(limits[best] - MIDDLE).argmin()]])


def _average_precision(found: Outputs, truth: NDArray[np.bool_]) -> float | None:
    """Return the mean precision at each image of a class, ranked by probability; None for a class without an image."""
    if not truth.any():
        return None
    _, ends, right = _by_score(found.astype(np.float64), truth)
    return float((right / ends * np.diff(right, prepend=0)).sum() / truth.sum())


def _by_score(found: NDArray[np.float64], truth: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct scores, the highest first, and how many images have at least this score, in all and of the class."""
    order = np.argsort(-found, kind="stable")
    sorted_scores = found[order]
    last = np.append(np.flatnonzero(np.diff(sorted_scores)), len(sorted_scores) - 1)
    return sorted_scores[last], last + 1, np.cumsum(truth[order])[last]


def _commonest(labels: Labels) -> NDArray[Any]:
    """Return the commonest set of labels, as 0 and 1."""
    found, counts = np.unique(labels, axis=0, return_counts=True)
    row: NDArray[Any] = found[counts.argmax()]
    return row
