"""What a network makes of images into figures that can be believed: intervals, figures by class, calibration, comparisons.

A confusion matrix into the mistakes that were made most.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]
Right = NDArray[np.bool_]

_LEVEL = 0.95
_NUM_BINS = 15
_NUM_RESAMPLES = 2000
#: temperatures that are looked among
_COLDEST, _HOTTEST = 0.02, 50.0


@dataclass(frozen=True, kw_only=True)
class OfClass:
    """How one class was told from the others."""

    #: images of it
    num: int
    #: part of what was taken for it that is of it; 0 where nothing was
    precision: float
    #: part of its images that was taken for it; 0 where there are none
    recall: float
    #: harmonic mean of the two
    f1: float


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """Two networks on the same images."""

    #: images that only the first one, and only the second one, got right
    only_first: int
    only_second: int
    #: two-sided, exact: how likely so unequal counts are where the two are equally good
    p: float


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two configs trained with the same seeds."""

    #: mean of first less second
    difference: float
    #: 95 % interval of the mean (Student's t); None: fewer than two seeds, or no difference varies
    interval: tuple[float, float] | None
    #: seeds with which the first was better
    num_better: int
    num: int


def wilson(num_right: int, num: int) -> tuple[float, float]:
    """The 95 % interval of a share that was counted (Wilson 1927)."""
    found = stats.binomtest(num_right, num).proportion_ci(_LEVEL, method="wilson")
    return float(found.low), float(found.high)


def bootstrap(figure: Callable[[NDArray[np.int64]], float], num: int, *, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of a figure of `num` images, which is called with the rows of images drawn with replacement."""
    random = np.random.default_rng(seed)
    found = [figure(random.integers(num, size=num)) for _ in range(_NUM_RESAMPLES)]
    low, high = np.quantile(found, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)


def confusion(labels: Labels, predicted: Labels, num_classes: int) -> NDArray[np.int64]:
    """Counts of images, rows: true class, columns: predicted class."""
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def by_class(counts: NDArray[np.int64]) -> list[OfClass]:
    """Precision, recall and F1 of each class of a confusion."""
    right, true, taken = np.diag(counts), counts.sum(1), counts.sum(0)
    return [
        OfClass(num=int(of), precision=_part(hit, took), recall=_part(hit, of), f1=_part(2 * hit, of + took))
        for hit, of, took in zip(right, true, taken, strict=True)
    ]


def macro_f1(counts: NDArray[np.int64]) -> float:
    """Mean F1 of the classes, each counted alike however many images it has."""
    return float(np.mean([each.f1 for each in by_class(counts)]))


def probabilities(logits: Logits, temperature: float = 1.0) -> NDArray[np.float64]:
    """Softmax of logits divided by a temperature."""
    scaled = logits.astype(np.float64) / temperature
    raised = np.exp(scaled - scaled.max(1, keepdims=True))
    found: NDArray[np.float64] = raised / raised.sum(1, keepdims=True)
    return found


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Images that a network is about equally sure of."""

    num_images: int
    #: mean of the largest probabilities
    confidence: float
    accuracy: float


def bins(given: NDArray[np.float64], labels: Labels) -> list[Bin]:
    """Images by confidence, in bins of equal width, the least sure first; those without images are left out (Guo 2017, section 2)."""
    confidence, right = given.max(1), given.argmax(1) == labels
    places = np.minimum((confidence * _NUM_BINS).astype(int), _NUM_BINS - 1)
    return [
        Bin(num_images=int(there.sum()), confidence=float(confidence[there].mean()), accuracy=float(right[there].mean()))
        for place in range(_NUM_BINS)
        if (there := places == place).any()
    ]


def calibration_error(given: NDArray[np.float64], labels: Labels) -> float:
    """Expected calibration error: how far confidence is from accuracy, over bins of equal width (Guo 2017, section 2)."""
    return sum(each.num_images * abs(each.accuracy - each.confidence) for each in bins(given, labels)) / len(labels)


def log_loss(logits: Logits, labels: Labels, temperature: float = 1.0) -> float:
    """Mean cross-entropy of logits divided by a temperature."""
    scaled = logits.astype(np.float64) / temperature
    top = scaled.max(1)
    every = top + np.log(np.exp(scaled - top[:, None]).sum(1))
    return float(np.mean(every - scaled[np.arange(len(labels)), labels]))


def temperature(logits: Logits, labels: Labels) -> float:
    """What logits are to be divided by so that probabilities fit best (Guo 2017, section 4.2), by the least Brier score.

    Not by the least cross-entropy, as there: that has no bound, and a few images that a head finds very strange decide it alone.
    """
    bounds = (math.log(_COLDEST), math.log(_HOTTEST))
    found = optimize.minimize_scalar(lambda power: brier(logits, labels, math.exp(power)), bounds=bounds, method="bounded")
    return float(math.exp(found.x))


def brier(logits: Logits, labels: Labels, temperature: float = 1.0) -> float:
    """Mean squared distance of probabilities from what is true, from 0 to 2 (Brier 1950)."""
    distances = probabilities(logits, temperature)
    distances[np.arange(len(labels)), labels] -= 1.0
    return float((distances**2).sum(1).mean())


def mcnemar(first: Right, second: Right) -> McNemar:
    """Whether two networks differ on the same images, by those that only one of them got right (McNemar 1947, exact)."""
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    count = only_first + only_second
    p = float(stats.binomtest(only_first, count).pvalue) if count else 1.0
    return McNemar(only_first=only_first, only_second=only_second, p=min(1.0, p))


def paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """What two configs come to with the same seeds, in the same order."""
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    mean, num = float(differences.mean()), len(differences)
    interval = None
    if num > 1 and np.ptp(differences) > 0:
        half = float(stats.t.ppf((1 + _LEVEL) / 2, num - 1) * differences.std(ddof=1) / math.sqrt(num))
        interval = (mean - half, mean + half)
    return Paired(difference=mean, interval=interval, num_better=int((differences > 0).sum()), num=num)


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation of a few values; None of fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _part(part: float, of: float) -> float:
    return float(part / of) if of else 0.0


@dataclass(frozen=True, kw_only=True)
class Confused:
    """Images of one class that were taken for another."""

    truth: str
    taken_for: str
    num_images: int


def most_confused(confusion: Sequence[Sequence[int]], names: Sequence[str], *, most: int) -> list[Confused]:
    """What was taken for something else most often; rows are the true classes, columns what was predicted."""
    wrong = [(num, truth, taken) for truth, row in enumerate(confusion) for taken, num in enumerate(row) if num and truth != taken]
    wrong.sort(key=lambda found: (-found[0], found[1], found[2]))
    return [Confused(truth=name_of(truth, names), taken_for=name_of(taken, names), num_images=num) for num, truth, taken in wrong[:most]]


def name_of(label: int, names: Sequence[str]) -> str:
    """A class's name, or its place where the names are not known."""
    return names[label] if label < len(names) else f"class {label}"
