"""Networks: the network of a retrained config, one training, a soup or an ensemble, with its calibration and its logits on a split."""

import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tuner.errors import DataError
from tuner.protocol import messages
from tuner.protocol.messages import Split
from tuner.results import statistics
from tuner.results.retrain.trainings import RetrainedConfig, TrainingRun
from tuner.results.statistics import Labels, Logits
from tuner.trust import at_rest

_SMALLEST = 1e-12
#: name of the weights of each network in the file of an ensemble
_MEMBER = "{}.npz"


@dataclass(frozen=True, kw_only=True)
class SplitLogits:
    """The logits of a network on a split."""

    #: shape (images, classes)
    logits: Logits
    #: shape (images,)
    labels: Labels
    #: logits of the mirror images, like `logits`; None if they were not requested
    mirrored: Logits | None = None
    #: of an ensemble: the logits of each of its networks, shape (networks, images, classes); then `logits` are logarithms of their mean
    members: Logits | None = None

    @property
    def source(self) -> Logits:
        """The logits to which a temperature applies: those of each network."""
        return self.logits if self.members is None else self.members

    def at(self, temperature: float) -> "SplitLogits":
        """Return the answers of an ensemble whose networks have a temperature, which may change a class; those of one network stay."""
        if self.members is None:
            return self
        mean = statistics.probabilities(self.members, temperature)
        return replace(self, logits=np.log(np.maximum(mean, _SMALLEST)).astype(np.float32))

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

    def __call__(self, config: RetrainedConfig, runs: Sequence[TrainingRun], split: Split, *, mirrored: bool = False) -> SplitLogits:
        """Return the logits on a split of a network whose weights are the average of these runs, for mirror images too if asked."""
        ...


@dataclass(frozen=True, kw_only=True)
class Forms:
    """The forms that the network of a config may have."""

    #: whether an ensemble is allowed: the mean of the probabilities of all trainings
    ensembles: bool = True
    #: whether its networks see the mirror image, too; auto: if that lowers the cross-entropy on the validation images
    mirror: Literal["auto", "always", "never"] = "auto"


@dataclass(frozen=True, kw_only=True)
class Network:
    """The network of a config: one training, a soup or an ensemble of several, chosen on the validation images."""

    config: RetrainedConfig
    #: the trainings whose weights or probabilities are averaged, best first; a single one is taken as it is
    runs: tuple[TrainingRun, ...]
    #: None if it was trained on the validation images
    validation: SplitLogits | None
    #: each soup that was tried: its seeds and its validation accuracy
    tried: tuple[tuple[tuple[int, ...], float], ...] = ()
    #: whether the probabilities are averaged, and whether also over each image and its mirror image
    is_ensemble: bool = False
    mirrored: bool = False
    #: validation accuracy of the ensemble of all trainings; None if it was not tried
    ensemble_accuracy: float | None = None

    @property
    def is_soup(self) -> bool:
        """Whether its weights are an average."""
        return len(self.runs) > 1 and not self.is_ensemble


@dataclass(frozen=True, kw_only=True)
class TestedNetwork:
    """A network with its logits on the test split, and those of each training of its config."""

    network: Network
    test: SplitLogits
    #: logits of each training, by seed
    of_runs: tuple[SplitLogits, ...]

    def at(self, temperature: float) -> "TestedNetwork":
        """Return the network with a temperature, which changes only the answers of an ensemble."""
        validation = self.network.validation
        network = replace(self.network, validation=None if validation is None else validation.at(temperature))
        return replace(self, network=network, test=self.test.at(temperature))


def best_network(config: RetrainedConfig, ask: Evaluator, forms: Forms | None = None) -> Network:
    """Return the network of a config: the best training, a soup, or the ensemble of all trainings if that is better than both.

    A higher accuracy on the validation split decides, then a lower cross-entropy.
    """
    forms = forms or Forms()
    if not forms.ensembles or len(config.runs) < 2:
        return best_single_network(config, ask)
    needs_mirror = forms.mirror != "never"
    answers = [ask(config, [run], "validation", mirrored=needs_mirror) for run in config.by_value]
    one = best_single_network(config, ask)
    versions = {
        is_mirrored: average_probabilities(answers, mirrored=is_mirrored) for is_mirrored in ((False, True) if needs_mirror else (False,))
    }
    mirrored = forms.mirror == "always" or (needs_mirror and _loss(versions[True]) < _loss(versions[False]))
    found, single = versions[mirrored], one.validation
    assert single is not None, "it was chosen on the validation images"
    if (found.accuracy, -_loss(found)) <= (single.accuracy, -_loss(single)):
        return replace(one, ensemble_accuracy=found.accuracy)
    runs = tuple(config.by_value)
    return replace(one, runs=runs, validation=found, is_ensemble=True, mirrored=mirrored, ensemble_accuracy=found.accuracy)


def _loss(answers: SplitLogits) -> float:
    return statistics.log_loss(answers.source, answers.labels)


def average_probabilities(answers: Sequence[SplitLogits], *, mirrored: bool) -> SplitLogits:
    """Return the answers of an ensemble of networks, over each image and, if asked, its mirror image."""
    each = [logits for one in answers for logits in ((one.logits, one.mirrored) if mirrored else (one.logits,)) if logits is not None]
    members = np.stack(each)
    return SplitLogits(logits=members[0], labels=answers[0].labels, members=members).at(1.0)


def best_single_network(config: RetrainedConfig, ask: Evaluator) -> Network:
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


def declared_network(config: RetrainedConfig, *, soup: bool, ensemble: bool = False, mirrored: bool = False) -> Network:
    """Return the network of a config that was trained on the validation images, by a rule that was set in advance.

    It averages the weights of all trainings if the soup was better on the train split alone, and their probabilities if the ensemble was,
    with mirror images if it used them there. Else it is the training with the first seed.
    """
    runs = config.runs if soup or ensemble else config.runs[:1]
    return Network(config=config, runs=runs, validation=None, is_ensemble=ensemble, mirrored=mirrored)


def test(network: Network, ask: Evaluator) -> TestedNetwork:
    """Read the test split with a network and with each training of its config."""
    of_runs = tuple(ask(network.config, [run], "test", mirrored=network.mirrored) for run in network.config.runs)
    if network.is_ensemble:
        test = average_probabilities(of_runs, mirrored=network.mirrored)
    elif network.is_soup:
        test = ask(network.config, network.runs, "test")
    else:
        test = of_runs[network.config.runs.index(network.runs[0])]
    return TestedNetwork(network=network, test=test, of_runs=of_runs)


def read_logits(path: Path, split: Split) -> SplitLogits:
    """Read the logits that a trainer wrote for a split."""
    with at_rest.opened(path) as file, np.load(file, allow_pickle=False) as arrays:
        mirrored = arrays.get(f"{split}_mirrored")
        return SplitLogits(logits=arrays[split], labels=arrays[f"{split}_labels"], mirrored=mirrored)


def pack(weights: Sequence[Path], to: Path) -> None:
    """Write the weights of an ensemble's networks as one file, encrypted if there is a key.

    Raises:
        NoKey: the weights are encrypted, and the environment names no key that opens them.
    """

    def save(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for number, path in enumerate(weights):
                with at_rest.opened(path) as source, archive.open(zipfile.ZipInfo(_MEMBER.format(number)), "w") as member:
                    shutil.copyfileobj(source, member)

    beside = to.with_name(f"{to.name}.part")
    with beside.open("wb") as file:
        at_rest.write(file, save)
    beside.replace(to)


def unpack(path: Path, folder: Path) -> list[Path]:
    """Write the weights of each network of an ensemble to a folder, encrypted if there is a key; return the files.

    Raises:
        DataError: the file is not one of `pack`.
        NoKey: the file is encrypted, and the environment names no key that opens it.
    """
    found = []
    try:
        with at_rest.opened(path) as packed, zipfile.ZipFile(packed) as archive:
            for number in range(len(archive.namelist())):
                place = folder / _MEMBER.format(number)
                content = archive.read(_MEMBER.format(number))
                with place.open("wb") as file:
                    at_rest.write(file, lambda target, content=content: target.write(content))  # type: ignore[misc]
                found.append(place)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{path} does not hold the weights of an ensemble: {error}") from error
    return found


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
    logits, labels = network.validation.source, network.validation.labels
    fitted = statistics.temperature(logits, labels)
    before, after = (statistics.calibration_error(statistics.probabilities(logits, each), labels) for each in (1.0, fitted))
    return Temperature(fitted=fitted, chosen=fitted if after <= before else 1.0)


def prediction_request(
    config: RetrainedConfig, weights: Mapping[TrainingRun, str], *, split: Split, mirrored: bool = False, average: Path | None, to: Path
) -> messages.Predict:
    """Return the request to a trainer; `weights` are the weight files of some trainings."""
    return messages.Predict(
        trial=next(iter(weights)).trial,
        hyperparameters=config.of_images,
        weights=tuple(weights.values()),
        average=None if average is None else str(average),
        splits=(split,),
        mirrored=mirrored,
        to=str(to),
    )
