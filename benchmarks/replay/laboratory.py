"""The laboratory: the recorded trials of a data set, with the seconds that a quiet machine needs for them, and draws of its images."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.replay.ensembles import Probabilities
from benchmarks.replay.trial_files import Recording

#: on two cores: the recipe on cifar10_small at 96 pixels, 12 epochs of 2,000 images, takes 90 s
SECONDS_A_MULTIPLY_ADD = 1.52e-11
#: an epoch of a probe for each 1,000 images, and the trace of a fine-tuning
HEAD_SECONDS, TRACE_SECONDS = 0.02, 3.0
#: from the command to the first probe, without the features
START_SECONDS = 10.0
#: chance that a world lacks a recording
LEFT_OUT = 0.2


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """A recorded trial, as a replayed search sees it."""

    #: number in its folder
    number: int
    kind: str
    image_size: int
    #: best validation accuracy of the probe
    probe: float
    #: validation accuracy of each epoch of the fine-tuning
    curve: tuple[float, ...]
    probe_seconds: float
    epoch_seconds: float
    #: features of all images at this size, once for a study
    features_seconds: float
    #: whether it was trained to its last epoch
    is_whole: bool
    #: full, half or continued
    length: str = "full"
    #: probabilities (images, classes) of the pool: `last`, `both` (the last epoch, averaged with mirror images) or `best` (epoch)
    probabilities: Mapping[str, Probabilities] = field(repr=False)

    @property
    def fine_tune_seconds(self) -> float:
        """Seconds of the whole fine-tuning."""
        return TRACE_SECONDS + len(self.curve) * self.epoch_seconds


@dataclass(frozen=True, kw_only=True)
class Laboratory:
    """The recorded trials of one data set, at all sizes."""

    data_set: str
    trials: tuple[Trial, ...]
    #: true classes of the pool: first the validation images, then the test images
    labels: NDArray[np.int64]
    num_validation: int

    @functools.cached_property
    def unit_seconds(self) -> float:
        """Seconds of the recipe at the smallest size."""
        recipe = next(trial for trial in self.of("recipe") if trial.image_size == min(self.sizes) and trial.length == "full")
        return recipe.fine_tune_seconds - TRACE_SECONDS

    @property
    def sizes(self) -> set[int]:
        """Sizes of the images."""
        return {trial.image_size for trial in self.trials}

    def of(self, *kinds: str) -> list[Trial]:
        """Return the trials of some kinds."""
        return [trial for trial in self.trials if trial.kind in kinds]

    def budget_seconds(self, minutes: float) -> float:
        """Return a budget as it would be on cifar10_small: 12 minutes are eight times the recipe."""
        return 8 * self.unit_seconds * minutes / 12


@dataclass(frozen=True, kw_only=True)
class World:
    """A draw of which recordings exist, and of which images choose and which judge."""

    laboratory: Laboratory
    trials: tuple[Trial, ...]
    #: rows of the pool that choose
    validation: NDArray[np.int64]
    #: all other rows of the pool
    test: NDArray[np.int64]
    _stacks: dict[tuple[str, str], Probabilities] = field(default_factory=dict, init=False, repr=False)

    def stack(self, trials: Sequence[Trial], shown: str, split: str) -> Probabilities:
        """Return probabilities (trials, images, classes) on a split."""
        if (shown, split) not in self._stacks:
            rows = self.validation if split == "validation" else self.test
            self._stacks[shown, split] = np.stack([trial.probabilities[shown][rows] for trial in self.trials])
        return self._stacks[shown, split][[self.trials.index(trial) for trial in trials]]


def build(data_set: str, recordings: Sequence[Recording]) -> Laboratory:
    """Return the laboratory of a data set from its recordings at all sizes."""
    first = recordings[0]
    labels = np.concatenate([first.labels[split] for split in ("validation", "test")]).astype(np.int64)
    for each in recordings:
        if any((each.labels[split] != first.labels[split]).any() for split in first.labels):
            raise SystemExit(f"{data_set}: recording {each.facts.number} at {each.facts.image_size} pixels has other images than the first")
    trials = tuple(_trial(each) for each in recordings)
    return Laboratory(data_set=data_set, trials=trials, labels=labels, num_validation=first.facts.num_validation)


def _trial(recording: Recording) -> Trial:
    facts = recording.facts
    images = 2 * facts.num_train + facts.num_validation
    return Trial(
        number=facts.number,
        kind=facts.kind,
        image_size=facts.image_size,
        probe=max(epoch.validation_accuracy for epoch in facts.probe),
        curve=tuple(epoch.validation_accuracy for epoch in facts.fine_tune),
        probe_seconds=HEAD_SECONDS * len(facts.probe) * images / 2000,
        epoch_seconds=SECONDS_A_MULTIPLY_ADD * facts.epoch_multiply_adds,
        features_seconds=SECONDS_A_MULTIPLY_ADD * facts.features_multiply_adds,
        is_whole=facts.is_whole,
        length=facts.length,
        probabilities={
            "last": _pool(recording, "last", "image"),
            "both": np.float32(0.5) * (_pool(recording, "last", "image") + _pool(recording, "last", "mirrored")),
            "best": _pool(recording, "best", "image"),
        },
    )


def _pool(recording: Recording, epoch: str, view: str) -> Probabilities:
    logits = np.concatenate([recording.of(split, epoch=epoch, view=view) for split in ("validation", "test")]).astype(np.float32)
    raised = np.exp(logits - logits.max(1, keepdims=True))
    found: Probabilities = raised / raised.sum(1, keepdims=True)
    return found


def draw(laboratory: Laboratory, random: np.random.Generator, *, left_out: float = LEFT_OUT) -> World:
    """Draw a world: some recordings are left out, and as many images as before choose, drawn from validation and test images.

    No recorded trial was trained on either, and the last epoch was not chosen by them. The recipes always exist, because the recipe's
    ensemble needs every seed that was recorded.
    """
    kept = [trial for trial in laboratory.trials if random.random() >= left_out or trial.kind in ("recipe", "seed")]
    rows = random.permutation(len(laboratory.labels))
    chosen = laboratory.num_validation
    return World(laboratory=laboratory, trials=tuple(kept), validation=rows[:chosen], test=rows[chosen:])


def recorded_split(laboratory: Laboratory, random: np.random.Generator, *, left_out: float = LEFT_OUT) -> World:
    """Draw a world with the validation and test images of the recording, where the best epoch was chosen by validation images."""
    world = draw(laboratory, random, left_out=left_out)
    rows = np.arange(len(laboratory.labels))
    chosen = laboratory.num_validation
    return World(laboratory=laboratory, trials=world.trials, validation=rows[:chosen], test=rows[chosen:])
