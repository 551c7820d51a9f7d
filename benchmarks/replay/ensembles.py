"""Ensembles: which of some trained trials are averaged, and with which weights, chosen on validation images alone."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.float32]
Weights = NDArray[np.float64]
#: from candidates and a random generator to the weight of each candidate (trials,); weights sum to 1
Rule = Callable[["Candidates", np.random.Generator], Weights]
#: from candidates to their numbers, the best first
Ranking = Callable[["Candidates"], NDArray[np.int64]]

_SMALLEST = 1e-7
#: steps of a greedy choice; bags, the share of candidates in a bag, and the trials that each bag starts with (Caruana 2004, section 2)
_STEPS, _BAGS, _BAG_SHARE, _SORTED_START = 10, 20, 0.5, 3
#: factors of the logits that calibration tries
_POWERS = np.geomspace(0.5, 3.0, 11)


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Trials that an ensemble may have, on validation images."""

    #: (trials, images, classes)
    probabilities: Probabilities
    #: true classes (images,)
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.probabilities)

    @functools.cached_property
    def true(self) -> Probabilities:
        """Probability of the true class (trials, images)."""
        return self.probabilities[:, np.arange(len(self.labels)), self.labels]

    @functools.cached_property
    def accuracy(self) -> Weights:
        """Accuracy (trials,)."""
        found: Weights = np.mean(self.probabilities.argmax(2) == self.labels, 1)
        return found

    @functools.cached_property
    def loss(self) -> Weights:
        """Cross-entropy (trials,)."""
        return losses(self.true)

    @property
    def standard_error(self) -> float:
        """Standard error of the highest accuracy."""
        best = float(self.accuracy.max())
        return math.sqrt(best * (1 - best) / len(self.labels))


def losses(true: NDArray[np.floating]) -> Weights:
    """Return the mean cross-entropy over the last axis, from the probabilities of the true class."""
    found: Weights = -np.log(np.maximum(true, np.float32(_SMALLEST))).mean(-1, dtype=np.float64)
    return found


def by_accuracy(given: Candidates) -> NDArray[np.int64]:
    """Rank by accuracy, and equal ones by cross-entropy."""
    return np.lexsort((given.loss, -given.accuracy))


def by_loss(given: Candidates) -> NDArray[np.int64]:
    """Rank by cross-entropy."""
    return np.argsort(given.loss, kind="stable")


def within_error(given: Candidates) -> NDArray[np.int64]:
    """Rank by accuracy, but those within a standard error of the best by cross-entropy."""
    tied = given.accuracy >= given.accuracy.max() - given.standard_error
    return np.lexsort((np.where(tied, given.loss, 0), np.where(tied, -1.0, -given.accuracy), ~tied))


def best(count: int, ranking: Ranking = within_error) -> Rule:
    """Return the rule that averages the best `count` trials."""

    def rule(given: Candidates, random: np.random.Generator) -> Weights:
        return _equal(ranking(given)[:count], len(given))

    return rule


def good(errors: float) -> Rule:
    """Return the rule that averages all trials at most so many standard errors below the best."""

    def rule(given: Candidates, random: np.random.Generator) -> Weights:
        return _equal(np.flatnonzero(given.accuracy >= given.accuracy.max() - errors * given.standard_error), len(given))

    return rule


def every(given: Candidates, random: np.random.Generator) -> Weights:
    """Average all trials."""
    return _equal(np.arange(len(given)), len(given))


def best_prefix(given: Candidates, random: np.random.Generator) -> Weights:
    """Average the best k trials, with the k whose average has the lowest cross-entropy."""
    ranked = within_error(given)
    averages = np.cumsum(given.true[ranked], 0, dtype=np.float64) / np.arange(1, len(ranked) + 1)[:, None]
    return _equal(ranked[: int(np.argmin(losses(averages))) + 1], len(given))


def greedy(given: Candidates, random: np.random.Generator) -> Weights:
    """Add, with replacement, the trial that lowers the cross-entropy most (Caruana 2004)."""
    [found] = _greedy(given, np.arange(len(given))[None], start=0)
    return np.asarray(found)


def bagged(given: Candidates, random: np.random.Generator) -> Weights:
    """Average greedy choices among random halves of the trials, each of which starts with its best three (Caruana 2004)."""
    size = max(1, math.ceil(_BAG_SHARE * len(given)))
    bags = np.array([random.choice(len(given), size, replace=False) for _ in range(_BAGS)])
    found: Weights = _greedy(given, bags, start=_SORTED_START).mean(0)
    return found


def pruned(given: Candidates, random: np.random.Generator) -> Weights:
    """Begin with the average of all, and leave one trial out at a time as long as the cross-entropy falls."""
    kept = list(range(len(given)))
    total = given.true.sum(0, dtype=np.float64)
    lowest = float(losses(total / len(kept)))
    while len(kept) > 1:
        without = losses((total - given.true[kept]) / (len(kept) - 1))
        worst = int(np.argmin(without))
        if without[worst] >= lowest:
            break
        lowest = float(without[worst])
        total = total - given.true[kept.pop(worst)]
    return _equal(np.array(kept), len(given))


def good_then_pruned(given: Candidates, random: np.random.Generator) -> Weights:
    """Leave out one of the good trials at a time as long as the cross-entropy falls."""
    chosen = np.flatnonzero(good(2.0)(given, random))
    found = np.zeros(len(given))
    found[chosen] = pruned(Candidates(probabilities=given.probabilities[chosen], labels=given.labels), random)
    return found


def _greedy(given: Candidates, bags: NDArray[np.int64], *, start: int) -> Weights:
    """Return the weights (bags, trials) of the greedy choice in each bag (bags, trials in it)."""
    numbers = np.arange(len(bags))
    true = given.true[bags]
    counts = np.zeros((len(bags), len(given)))
    total = np.zeros_like(true[:, 0])
    lowest, found = np.full(len(bags), np.inf), counts
    ranked = np.argsort(given.loss[bags], 1, kind="stable")
    for step in range(1, _STEPS + 1):
        after = losses((total[:, None] + true) / np.float32(step))
        is_given = step <= min(start, bags.shape[1])
        chosen = ranked[:, step - 1] if is_given else after.argmin(1)
        total += true[numbers, chosen]
        counts[numbers, bags[numbers, chosen]] += 1
        is_better = after[numbers, chosen] < lowest
        if not is_given or step == min(start, bags.shape[1]):
            lowest = np.where(is_better, after[numbers, chosen], lowest)
            found = np.where(is_better[:, None], counts / step, found)
    return found


def _equal(chosen: NDArray[np.int64], count: int) -> Weights:
    found = np.zeros(count)
    found[chosen] = 1 / len(chosen)
    return found


def first(given: Candidates, random: np.random.Generator) -> Weights:
    """Take the first trial."""
    return _equal(np.array([0]), len(given))


#: all rules by the names in the tables
RULES: Mapping[str, Rule] = {
    "first": first,
    "best 1, accuracy": best(1, by_accuracy),
    "best 1, cross-entropy": best(1, by_loss),
    "best 1": best(1),
    **{f"best {count}": best(count) for count in (2, 3, 5, 8)},
    "best 3, accuracy": best(3, by_accuracy),
    "best 5, accuracy": best(5, by_accuracy),
    "best 5, cross-entropy": best(5, by_loss),
    "good, 1 error": good(1.0),
    "good, 2 errors": good(2.0),
    "good, 4 errors": good(4.0),
    "all": every,
    "best k by cross-entropy": best_prefix,
    "greedy": greedy,
    "bagged greedy": bagged,
    "leave one out": pruned,
    "good, leave one out": good_then_pruned,
}


def calibrated(given: Candidates) -> NDArray[np.float64]:
    """Return the power of each trial's probabilities (trials,) that gives the lowest cross-entropy; the inverse of a temperature."""
    rows = np.arange(len(given.labels))
    powered = [sharpened(given.probabilities, np.full(len(given), power))[:, rows, given.labels] for power in _POWERS]
    return np.asarray(_POWERS[np.argmin(losses(np.array(powered)), 0)])


def sharpened(given: Probabilities, powers: NDArray[np.float64]) -> Probabilities:
    """Return probabilities (trials, images, classes) to the power of each trial, normalized."""
    raised = np.maximum(given, _SMALLEST) ** powers[:, None, None].astype(np.float32)
    found: Probabilities = raised / raised.sum(2, keepdims=True)
    return found


def averaged(given: Probabilities, weights: Weights) -> Probabilities:
    """Return the weighted average (images, classes) of probabilities (trials, images, classes)."""
    found = np.zeros(given.shape[1:], np.float32)
    for member in np.flatnonzero(weights):  # a product of matrices starts threads, which takes longer
        found += np.float32(weights[member]) * given[member]
    return found
