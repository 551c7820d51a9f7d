"""Statistics: intervals, figures of classes, calibration, and comparisons of two networks or two configs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from tuner.kernels import scoring, targets
from tuner.kernels.targets import JudgedOutputs
from tuner.protocol.messages import LabelCounts
from tuner.spec.hyperparameters import TargetKind
from tuner.spec.objective import ImageMetric

Logits = NDArray[np.float32]
#: int64 (n,); of several labels or numbers as `ImageTarget.decode` gives them
Labels = NDArray[Any]
Right = NDArray[np.bool_]

#: confidence level of every interval
_LEVEL = 0.95
_NUM_BINS = 15
_NUM_RESAMPLES = 2000
#: resamples for a standard error, and images in each
_NUM_ERROR_RESAMPLES, _MOST_RESAMPLED = 200, 2_000
_SMALLEST = 1e-12
#: range of the temperature
_COLDEST, _HOTTEST = 0.02, 50.0


_IF_KNOWN = Field(exclude_if=lambda value: value is None)


class ClassFigures(BaseModel):
    """Figures of a model for the images of one class; None (`null` in JSON) is an undefined figure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    #: images of the class
    num_images: int
    #: share of correct predictions among the images predicted as this class; undefined if there are none
    precision: float | None
    #: share of correct predictions among the images of this class; undefined if there are none
    recall: float | None
    #: 2 * correct / (images of the class + images predicted as it); undefined if both are none
    f1: float | None
    #: if an image may have several labels: the probability from which it gets this one, and the average precision
    threshold: Annotated[float | None, _IF_KNOWN] = None
    average_precision: Annotated[float | None, _IF_KNOWN] = None


@dataclass(frozen=True, kw_only=True)
class Confused:
    """Images of one class that were predicted as another."""

    truth: str
    taken_for: str
    num_images: int


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Images with about the same confidence."""

    num_images: int
    #: mean of the highest probabilities
    confidence: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """Two networks on the same images (McNemar's test)."""

    #: images that only the first, or only the second network classifies correctly
    only_first: int
    only_second: int
    #: two-sided exact p-value: the probability of counts at least this unequal if both networks are equally good
    p: float


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two configs that were trained with the same seeds."""

    #: mean of the first minus the second
    difference: float
    #: 95 % interval of the mean (Student's t); None with fewer than two seeds or equal differences
    interval: tuple[float, float] | None
    #: number of seeds with which the first is better
    num_better: int
    num: int


#: a confusion matrix of more classes is not made: it grows with the square of the classes
CONFUSED_CLASSES = 1_000


def wilson(num_right: int, num: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion `num_right / num` (Wilson 1927).

    SciPy has it too, but `import scipy.stats` takes 0.8 s of processor time, as much as the rest of the command that shows a result.
    """
    z = NormalDist().inv_cdf((1 + _LEVEL) / 2)
    middle, half = num_right + z**2 / 2, z * math.sqrt(num_right * (num - num_right) / num + z**2 / 4)
    low, high = (middle - half) / (num + z**2), (middle + half) / (num + z**2)
    return low if num_right else 0.0, high if num_right < num else 1.0


def accuracy_interval(accuracy: float, num: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of an accuracy that was measured on `num` images."""
    return wilson(round(accuracy * num), num)


def bootstrap(figure: Callable[[NDArray[np.int64]], float], num: int, *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile interval of a figure; `figure` gets the row numbers of `num` images, drawn with replacement."""
    random = np.random.default_rng(seed)
    found = [figure(random.integers(num, size=num)) for _ in range(_NUM_RESAMPLES)]
    low, high = np.quantile(found, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)


def confusion(labels: Labels, predicted: Labels, num_classes: int) -> NDArray[np.int64]:
    """Return the confusion matrix: numbers of images, rows are true classes, columns are predicted classes."""
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def class_figures(labels: Labels, predicted: Labels, names: Sequence[str]) -> list[ClassFigures]:
    """Return precision, recall and F1 of each class; the time and memory grow with the classes, not with their square."""
    num = len(names)
    right = np.bincount(labels[labels == predicted], minlength=num)
    true, taken = np.bincount(labels, minlength=num), np.bincount(predicted, minlength=num)
    return _figures(right, true, taken, names)


def by_class(counts: Sequence[Sequence[int]] | NDArray[np.int64], names: Sequence[str]) -> list[ClassFigures]:
    """Return precision, recall and F1 of each class of a confusion matrix."""
    matrix = np.asarray(counts, np.int64).reshape(len(names), len(names))
    return _figures(np.diag(matrix), matrix.sum(1), matrix.sum(0), names)


def _figures(right: Labels, true: Labels, taken: Labels, names: Sequence[str]) -> list[ClassFigures]:
    return [
        ClassFigures(name=name, num_images=of, precision=_share(hit, took), recall=_share(hit, of), f1=_share(2 * hit, of + took))
        for name, hit, of, took in zip(names, right.tolist(), true.tolist(), taken.tolist(), strict=True)
    ]


def of_labels(counts: Sequence[LabelCounts], names: Sequence[str]) -> list[ClassFigures]:
    """Return precision, recall and F1 of each class, if an image may have several labels."""
    right, true, taken = (np.array([getattr(each, name) for each in counts], np.int64) for name in ("num_right", "num_images", "num_given"))
    return [
        figures.model_copy(update={"threshold": each.threshold, "average_precision": each.average_precision})
        for figures, each in zip(_figures(right, true, taken, names), counts, strict=True)
    ]


def macro_f1(labels: Labels, predicted: Labels, num_classes: int) -> float:
    """Return the mean F1 of the classes, each with the same weight; an undefined F1 counts as 0."""
    right = np.bincount(labels[labels == predicted], minlength=num_classes)
    both = np.bincount(labels, minlength=num_classes) + np.bincount(predicted, minlength=num_classes)
    return float(np.mean(2 * right / np.maximum(both, 1)))


def most_confused(confusion: Sequence[Sequence[int]], names: Sequence[str], *, most: int) -> list[Confused]:
    """Return the most frequent mistakes of a confusion matrix, at most `most` of them."""
    wrong = [(num, truth, taken) for truth, row in enumerate(confusion) for taken, num in enumerate(row) if num and truth != taken]
    wrong.sort(key=lambda found: (-found[0], found[1], found[2]))
    return [Confused(truth=name_of(truth, names), taken_for=name_of(taken, names), num_images=num) for num, truth, taken in wrong[:most]]


def name_of(label: int, names: Sequence[str]) -> str:
    """Return a class's name, or its number if the name is unknown."""
    return names[label] if label < len(names) else f"class {label}"


def probabilities(logits: Logits, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the softmax (n, classes) of logits divided by a temperature; of logits (networks, n, classes), its mean over the networks."""
    scaled = logits.astype(np.float64) / temperature
    raised = np.exp(scaled - scaled.max(-1, keepdims=True))
    found: NDArray[np.float64] = raised / raised.sum(-1, keepdims=True)
    return found if found.ndim == 2 else found.mean(0)


def accuracy(logits: Logits, labels: Labels) -> float:
    """Return the share of images whose true class has the highest probability, by logits as `probabilities` takes them."""
    return float((probabilities(logits).argmax(1) == labels).mean())


def combined(kind: TargetKind, outputs: Logits) -> NDArray[np.float64]:
    """Return what outputs say (n, classes), as `ImageTarget.outputs` gives them: probabilities, or numbers in the units of the user.

    Of outputs (networks, n, classes), it is the mean over the networks.
    """
    if kind is TargetKind.LABEL:
        return probabilities(outputs)
    found = targets.probabilities(outputs) if kind is TargetKind.LABELS else outputs.astype(np.float64)
    return found if found.ndim == 2 else np.asarray(found.mean(0), np.float64)


def judge(metric: ImageMetric, outputs: Logits, labels: Labels, thresholds: Sequence[float] | None = None) -> JudgedOutputs:
    """Return what outputs score if an image has several labels or a number; `metric` is that of the study."""
    kind = targets.kind_of(metric, labels)
    found = combined(kind, outputs)
    if kind is TargetKind.LABELS:
        return targets.judge_labels(found, labels, thresholds)
    return targets.IN_UNITS[kind].judge(found, labels)


def error(metric: ImageMetric, outputs: Logits, labels: Labels) -> float:
    """Return the mean cross-entropy of outputs, or the mean squared error of numbers."""
    kind = targets.kind_of(metric, labels)
    if kind is TargetKind.LABEL:
        return log_loss(outputs, labels)
    found = combined(kind, outputs)
    if kind is TargetKind.NUMBER:
        return float(np.square(found - labels).mean())
    chosen = np.where(labels > targets.MIDDLE, found, 1 - found)
    return float(-np.log(np.maximum(chosen, _SMALLEST)).sum(1).mean())


def value(metric: ImageMetric, logits: Logits, labels: Labels, thresholds: Sequence[float] | None = None) -> float:
    """Return what logits score in a metric of image studies, by logits as `probabilities` takes them."""
    if targets.kind_of(metric, labels) is not TargetKind.LABEL:
        return judge(metric, logits, labels, thresholds).metrics[metric]
    if metric == "accuracy":
        return accuracy(logits, labels)
    if logits.ndim == 3:
        return scoring.value(metric, np.log(np.maximum(probabilities(logits), np.finfo(np.float64).tiny)), labels)
    return scoring.value(metric, logits, labels)


def standard_error(metric: ImageMetric, logits: Logits, labels: Labels) -> float:
    """Return the standard error of a metric on `n` images, by the bootstrap on at most 2,000 of them at a time."""
    random, num = np.random.default_rng(0), len(labels)
    size = min(num, _MOST_RESAMPLED)
    drawn = (random.integers(num, size=size) for _ in range(_NUM_ERROR_RESAMPLES))
    found = np.array([value(metric, logits[rows], labels[rows]) for rows in drawn])
    known = found[np.isfinite(found)]  # a resample may have one class only, which has no AUC
    return float(known.std() * math.sqrt(size / num)) if len(known) else 0.0


def bins(given: NDArray[np.float64], labels: Labels) -> list[Bin]:
    """Group images by confidence into bins of equal width, lowest first, without empty bins (Guo 2017, section 2)."""
    confidence, right = given.max(1), given.argmax(1) == labels
    numbers = np.minimum((confidence * _NUM_BINS).astype(int), _NUM_BINS - 1)
    return [
        Bin(num_images=int(inside.sum()), confidence=float(confidence[inside].mean()), accuracy=float(right[inside].mean()))
        for number in range(_NUM_BINS)
        if (inside := numbers == number).any()
    ]


def calibration_error(given: NDArray[np.float64], labels: Labels) -> float:
    """Return the expected calibration error: the mean distance of confidence and accuracy over the bins (Guo 2017, section 2)."""
    return sum(each.num_images * abs(each.accuracy - each.confidence) for each in bins(given, labels)) / len(labels)


def log_loss(logits: Logits, labels: Labels, temperature: float = 1.0) -> float:
    """Return the mean cross-entropy of logits divided by a temperature; logits (networks, n, classes) are those of an ensemble."""
    if logits.ndim == 3:
        of_truth = probabilities(logits, temperature)[np.arange(len(labels)), labels]
        return float(-np.log(np.maximum(of_truth, _SMALLEST)).mean())
    scaled = logits.astype(np.float64) / temperature
    top = scaled.max(1)
    every = top + np.log(np.exp(scaled - top[:, None]).sum(1))
    return float(np.mean(every - scaled[np.arange(len(labels)), labels]))


def temperature(logits: Logits, labels: Labels) -> float:
    """Return the temperature with the lowest Brier score (Guo 2017, section 4.2).

    The paper takes the lowest cross-entropy. That has no upper bound, so a few images with extreme logits would decide alone.
    """
    from scipy import optimize

    bounds = (math.log(_COLDEST), math.log(_HOTTEST))
    found = optimize.minimize_scalar(lambda power: brier(logits, labels, math.exp(power)), bounds=bounds, method="bounded")
    return float(math.exp(found.x))


def brier(logits: Logits, labels: Labels, temperature: float = 1.0) -> float:
    """Return the mean squared distance of probabilities and true classes, from 0 to 2 (Brier 1950)."""
    distances = probabilities(logits, temperature)
    distances[np.arange(len(labels)), labels] -= 1.0
    return float((distances**2).sum(1).mean())


def mcnemar(first: Right, second: Right) -> McNemar:
    """Compare two networks by the images that only one of them classifies correctly (McNemar 1947, exact test)."""
    from scipy import stats

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    count = only_first + only_second
    p = float(stats.binomtest(only_first, count).pvalue) if count else 1.0
    return McNemar(only_first=only_first, only_second=only_second, p=min(1.0, p))


def paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Compare two configs by values with the same seeds, in the same order."""
    from scipy import stats

    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    mean, num = float(differences.mean()), len(differences)
    interval = None
    if num > 1 and np.ptp(differences) > 0:
        half = float(stats.t.ppf((1 + _LEVEL) / 2, num - 1) * differences.std(ddof=1) / math.sqrt(num))
        interval = (mean - half, mean + half)
    return Paired(difference=mean, interval=interval, num_better=int((differences > 0).sum()), num=num)


def spread(values: Sequence[float]) -> float | None:
    """Return the standard deviation of values; None for fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _share(part: int, of: int) -> float | None:
    return part / of if of else None
