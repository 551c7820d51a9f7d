"""A config that was trained again into one network, chosen and calibrated on validation images, and what that makes of test images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tuner.protocol import messages
from tuner.protocol.messages import Split
from tuner.results import statistics
from tuner.results.retrain.retrained import Retrained, TrainingRun
from tuner.results.statistics import Labels, Logits
from tuner.trust import at_rest


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a network makes of a split."""

    #: (n, classes)
    logits: Logits
    #: (n,)
    labels: Labels

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which images it got right."""
        found: NDArray[np.bool_] = self.logits.argmax(1) == self.labels
        return found

    @property
    def accuracy(self) -> float:
        """The part of them."""
        return float(self.right.mean())


class Evaluator(Protocol):
    """Someone who has trained networks at hand."""

    def __call__(self, config: Retrained, runs: Sequence[TrainingRun], split: Split) -> Answers:
        """What the average of the weights of some trainings of a config makes of a split."""
        ...


@dataclass(frozen=True, kw_only=True)
class Network:
    """What a config has come to: one training of it, or a soup of several, chosen on validation images."""

    config: Retrained
    #: those whose weights are averaged, the best first; one: nothing is
    runs: tuple[TrainingRun, ...]
    #: None: its validation images were trained on
    validation: Answers | None
    #: each soup that was tried: the seeds in it, and its validation accuracy
    tried: tuple[tuple[tuple[int, ...], float], ...] = ()

    @property
    def is_soup(self) -> bool:
        """Whether weights are averaged."""
        return len(self.runs) > 1


@dataclass(frozen=True, kw_only=True)
class Examined:
    """A network with what it, and each training of its config, makes of the test split."""

    network: Network
    test: Answers
    #: by seed
    of_runs: tuple[Answers, ...]


def build(config: Retrained, ask: Evaluator) -> Network:
    """The best training of a config, or a soup of several that is better on the validation split: greedy, the best ones first.

    Source: Wortsman 2022, Model soups, recipe 1; here an ingredient has to gain, where the paper lets it in if it does not lose.
    """
    best, *others = config.by_value
    chosen, answers = [best], ask(config, [best], "validation")
    tried: list[tuple[tuple[int, ...], float]] = []
    for run in others:
        found = ask(config, [*chosen, run], "validation")
        tried.append((tuple(each.seed for each in (*chosen, run)), found.accuracy))
        if found.accuracy > answers.accuracy:
            chosen, answers = [*chosen, run], found
    return Network(config=config, runs=tuple(chosen), validation=answers, tried=tuple(tried))


def declared(config: Retrained, *, soup: bool) -> Network:
    """The network of a config whose validation images were trained on: what was declared before, for nothing is left to choose by.

    The average of all trainings if a soup was better where it could be measured, else the one with the first seed.
    """
    return Network(config=config, runs=config.runs if soup else config.runs[:1], validation=None)


def read_test(network: Network, ask: Evaluator) -> Examined:
    """Ask a network, and each training of its config, about the test split."""
    of_runs = tuple(ask(network.config, [run], "test") for run in network.config.runs)
    if network.is_soup:
        test = ask(network.config, network.runs, "test")
    else:
        test = of_runs[network.config.runs.index(network.runs[0])]
    return Examined(network=network, test=test, of_runs=of_runs)


def answers(path: Path, split: Split) -> Answers:
    """What a trainer wrote of a split."""
    with at_rest.opened(path) as file, np.load(file, allow_pickle=False) as arrays:
        return Answers(logits=arrays[split], labels=arrays[f"{split}_labels"])


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """What the logits of a network are divided by for calibrated probabilities."""

    #: of the least Brier score on the validation split
    fitted: float
    #: the same, or 1 where that made the calibration error on the validation split larger
    kept: float


def temperature(network: Network) -> Temperature:
    """The temperature of a network, by its validation images."""
    assert network.validation is not None, "without validation images there is nothing to fit on"
    logits, labels = network.validation.logits, network.validation.labels
    fitted = statistics.temperature(logits, labels)
    before, after = (statistics.calibration_error(statistics.probabilities(logits, each), labels) for each in (1.0, fitted))
    return Temperature(fitted=fitted, kept=fitted if after <= before else 1.0)


def order(config: Retrained, weights: Mapping[TrainingRun, str], *, split: Split, average: Path | None, to: Path) -> messages.Predict:
    """What a trainer is asked; `weights` are the files of some trainings."""
    return messages.Predict(
        trial=next(iter(weights)).trial,
        hyperparameters=config.hyperparameters,
        weights=tuple(weights.values()),
        average=None if average is None else str(average),
        splits=(split,),
        to=str(to),
    )
