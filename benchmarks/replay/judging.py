"""Judging: the test accuracy of what a study makes of its trained trials, read from their recorded logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from benchmarks.replay import ensembles
from benchmarks.replay.ensembles import Candidates, Probabilities, Weights
from benchmarks.replay.laboratory import Trial, World


class Mirror(StrEnum):
    """Whether probabilities of an image and its mirror image are averaged."""

    OFF = "off"
    ON = "on"
    #: on if this lowers the mean cross-entropy of the trials on validation images
    CHOSEN = "chosen"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a study makes of its trials."""

    #: a name of `ensembles.RULES`
    rule: str
    mirror: Mirror = Mirror.CHOSEN
    #: last or best
    epoch: str = "last"
    #: whether the probabilities of each trial get a temperature of their own before they are averaged
    calibrates: bool = False


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The scores of a result."""

    validation: float
    test: float
    #: whether each test image is classified correctly
    right: NDArray[np.bool_]
    weights: Weights


class Judge:
    """Judges several results made of the same trials."""

    def __init__(self, world: World, trials: Sequence[Trial], *, seed: int) -> None:
        self._world, self._trials, self._seed = world, trials, seed
        labels = world.laboratory.labels
        self._labels = {"validation": labels[world.validation], "test": labels[world.test]}
        self._known: dict[str, Candidates] = {}
        self._stacks: dict[tuple[str, str], Probabilities] = {}

    def judge(self, result: Result) -> Judged:
        """Return the scores of a result."""
        given, shown = self._candidates(result)
        weights = ensembles.RULES[result.rule](given, np.random.default_rng(self._seed))
        test = self._stack(shown, "test")
        probabilities = given.probabilities
        if result.calibrates:
            powers = ensembles.calibrated(given)
            probabilities, test = ensembles.sharpened(probabilities, powers), ensembles.sharpened(test, powers)
        right = ensembles.averaged(test, weights).argmax(1) == self._labels["test"]
        validation = np.mean(ensembles.averaged(probabilities, weights).argmax(1) == self._labels["validation"])
        return Judged(validation=float(validation), test=float(right.mean()), right=right, weights=weights)

    def _candidates(self, result: Result) -> tuple[Candidates, str]:
        """Return the trials on validation images, and the name of the view that was taken."""
        if result.epoch == "best" or result.mirror is Mirror.OFF:
            shown = result.epoch
        elif result.mirror is Mirror.ON:
            shown = "both"
        else:
            shown = min(("both", "last"), key=lambda name: float(self._on_validation(name).loss.mean()))
        return self._on_validation(shown), shown

    def _on_validation(self, shown: str) -> Candidates:
        if shown not in self._known:
            self._known[shown] = Candidates(probabilities=self._stack(shown, "validation"), labels=self._labels["validation"])
        return self._known[shown]

    def _stack(self, shown: str, split: str) -> Probabilities:
        if (shown, split) not in self._stacks:
            self._stacks[shown, split] = self._world.stack(self._trials, shown, split)
        return self._stacks[shown, split]


def best_achievable(world: World) -> float:
    """Return the test accuracy of an ensemble of all trials of a world that is chosen on the test images themselves, an upper bound."""
    labels = world.laboratory.labels[world.test]
    found = []
    for shown in ("last", "both"):
        stack = world.stack(world.trials, shown, "test")
        given = Candidates(probabilities=stack, labels=labels)
        weights = ensembles.greedy(given, np.random.default_rng(0))
        found.append(max(float(np.mean(ensembles.averaged(stack, weights).argmax(1) == labels)), float(given.accuracy.max())))
    return max(found)
