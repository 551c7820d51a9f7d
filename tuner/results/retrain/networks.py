"""Networks: the network of a retrained config, one training or a soup, with its calibration and its logits on a split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tuner.protocol import messages
from tuner.protocol.messages import Split
from tuner.results import statistics
from tuner.results.retrain.trainings import RetrainedConfig, TrainingRun
from tuner.results.statistics import Labels, Logits
from tuner.trust import at_rest


@dataclass(frozen=True, kw_only=True)
class SplitLogits:
    """The logits of a network on a split."""

    #: shape (images, classes)
    logits: Logits
    #: shape (images,)
    labels: Labels

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which images are classified correctly."""
        found: NDArray[np.bool_] = self.logits.argmax(1) == self.labels
        return found

    @property
    def accuracy(self) -> float:
        """The share of images that are classified correctly."""
        return float(self.right.mean())


class Evaluator(Protocol):
    """Computes the logits of trained networks."""

    def __call__(self, config: RetrainedConfig, runs: Sequence[TrainingRun], split: Split) -> SplitLogits:
        """Return the logits on a split of a network whose weights are the average of these runs."""
        ...


@dataclass(frozen=True, kw_only=True)
class Network:
    """The network of a config: one training, or a soup of several, chosen on the validation images."""

    config: RetrainedConfig
    #: the trainings whose weights are averaged, best first; a single one is taken as it is
    runs: tuple[TrainingRun, ...]
    #: None if it was trained on the validation images
    validation: SplitLogits | None
    #: each soup that was tried: its seeds and its validation accuracy
    tried: tuple[tuple[tuple[int, ...], float], ...] = ()

    @property
    def is_soup(self) -> bool:
        """Whether its weights are an average."""
        return len(self.runs) > 1


@dataclass(frozen=True, kw_only=True)
class TestedNetwork:
    """A network with its logits on the test split, and those of each training of its config."""

    network: Network
    test: SplitLogits
    #: logits of each training, by seed
    of_runs: tuple[SplitLogits, ...]


def best_network(config: RetrainedConfig, ask: Evaluator) -> Network:
    """Return the best training of a config, or a greedy soup of several if that is better on the validation split.

    Source: Wortsman 2022, Model soups, recipe 1. Here each added training must increase the accuracy; in the paper it must not decrease it.
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


def declared_network(config: RetrainedConfig, *, soup: bool) -> Network:
    """Return the network of a config that was trained on the validation images, by a rule that was set in advance.

    It is the average of all trainings if the soup was better on the train split alone, else the training with the first seed.
    """
    return Network(config=config, runs=config.runs if soup else config.runs[:1], validation=None)


def test(network: Network, ask: Evaluator) -> TestedNetwork:
    """Read the test split with a network and with each training of its config."""
    of_runs = tuple(ask(network.config, [run], "test") for run in network.config.runs)
    if network.is_soup:
        test = ask(network.config, network.runs, "test")
    else:
        test = of_runs[network.config.runs.index(network.runs[0])]
    return TestedNetwork(network=network, test=test, of_runs=of_runs)


def read_logits(path: Path, split: Split) -> SplitLogits:
    """Read the logits that a trainer wrote for a split."""
    with at_rest.opened(path) as file, np.load(file, allow_pickle=False) as arrays:
        return SplitLogits(logits=arrays[split], labels=arrays[f"{split}_labels"])


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """The temperature that calibrates the probabilities of a network."""

    #: with the lowest Brier score on the validation split
    fitted: float
    #: the same, or 1 if it increases the calibration error on the validation split
    chosen: float


def temperature(network: Network) -> Temperature:
    """Fit the temperature of a network on its validation images."""
    assert network.validation is not None, "a temperature is fitted on validation images"
    logits, labels = network.validation.logits, network.validation.labels
    fitted = statistics.temperature(logits, labels)
    before, after = (statistics.calibration_error(statistics.probabilities(logits, each), labels) for each in (1.0, fitted))
    return Temperature(fitted=fitted, chosen=fitted if after <= before else 1.0)


def prediction_request(
    config: RetrainedConfig, weights: Mapping[TrainingRun, str], *, split: Split, average: Path | None, to: Path
) -> messages.Predict:
    """Return the request to a trainer; `weights` are the weight files of some trainings."""
    return messages.Predict(
        trial=next(iter(weights)).trial,
        hyperparameters=config.hyperparameters,
        weights=tuple(weights.values()),
        average=None if average is None else str(average),
        splits=(split,),
        to=str(to),
    )
