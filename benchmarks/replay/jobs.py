"""Jobs of the replay laboratory: the data sets, and the trials that are recorded on each of them, in a fixed order."""

import gzip
import itertools
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tuner.spec.study import StudySpec

T = TypeVar("T")

#: Debian's package dataset-fashion-mnist
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
CIFAR10_SMALL = "cifar10_small"
DATA_SETS = (CIFAR10_SMALL, "animals", "fashion_mnist", "digits")
#: trials of each data set at SIZE pixels, and of cifar10_small at LARGE pixels
NUM_TRIALS, NUM_LARGE = 24, 12
SIZE, LARGE = 96, 160
#: numbers of whole trials after which the first large one comes, and one trial of each data set is continued
LARGE_AFTER, CONTINUED_AFTER = 4, 6
#: images of a class of Fashion-MNIST for each split
_PER_CLASS = {"train": 100, "val": 100, "test": 200}
#: standard deviation of a neighbor's parameter, as a fraction of the range, and the chance that it keeps the recipe's choice
SPREAD, KEEPS = 0.15, 0.85


class Kind(StrEnum):
    """How the hyperparameters of a job are chosen."""

    #: the recipe with the seed of trial 0
    RECIPE = "recipe"
    #: the recipe with another seed
    SEED = "seed"
    #: drawn around the recipe
    NEAR = "near"
    #: drawn from the whole search space
    SPACE = "space"


class Length(StrEnum):
    """How long a job fine-tunes."""

    FULL = "full"
    #: half of the epochs
    HALF = "half"
    #: half of the epochs, and the other half from there, with a schedule of its own
    CONTINUED = "continued"


#: the kind of each trial: one recipe, five seeds, nine neighbors and nine draws of the whole space, mixed so that a part is useful, too
KINDS = (Kind.RECIPE, *(Kind.NEAR, Kind.SEED, Kind.SPACE) * 5, *(Kind.NEAR, Kind.SPACE) * 4)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One trial to record."""

    data_set: str
    image_size: int
    #: number of the trial in its folder; trials of one number have equal draws on all data sets
    number: int
    #: a continued job records its first half, too
    length: Length = Length.FULL

    @property
    def kind(self) -> Kind:
        """How its hyperparameters are chosen."""
        return KINDS[self.number]

    @property
    def folder(self) -> str:
        """Name of the folder of its recording."""
        size = "" if self.image_size == SIZE else f"-{self.image_size}"
        return f"{self.data_set}{size}" if self.length is Length.FULL else f"{self.data_set}{size}-{self.length}"

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return self.number


def jobs(data_sets: Sequence[str] = DATA_SETS, *, size: int = SIZE) -> Iterator[Job]:
    """Yield all jobs: trial k of every data set before trial k + 1 of any.

    A large trial takes as long as the others of its number together, so the first ones come a little later.
    """
    for number in range(NUM_TRIALS):
        yield from (Job(data_set=name, image_size=size, number=number) for name in data_sets)
        if 0 <= number - LARGE_AFTER < NUM_LARGE and CIFAR10_SMALL in data_sets:
            yield Job(data_set=CIFAR10_SMALL, image_size=LARGE, number=number - LARGE_AFTER)
        if number % CONTINUED_AFTER == CONTINUED_AFTER - 1:
            each = number // CONTINUED_AFTER
            yield from (Job(data_set=name, image_size=size, number=each, length=Length.CONTINUED) for name in data_sets)


class Drawn:
    """A chooser that draws the parameters of a job, each with a random generator of its own.

    A parameter of the same name and number is therefore equal on all data sets, whichever other parameters act.
    """

    def __init__(self, job: Job, recipe: Mapping[str, Any]) -> None:
        self._job, self._recipe = job, recipe
        self.parameters: dict[str, Any] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None) -> float:
        """Return a number of a range."""
        return self._record(name, self._number(name, low, high, log=log))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
        """Return a whole number of a range."""
        return self._record(name, min(high, max(low, round(self._number(name, low - 0.49, high + 0.49, log=log)))))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of some values."""
        random, usual = self._random(name), self._recipe.get(name)
        if self._job.kind in (Kind.RECIPE, Kind.SEED) or (self._job.kind is Kind.NEAR and usual in choices and random.random() < KEEPS):
            return self._record(name, usual)
        return self._record(name, choices[int(random.integers(len(choices)))])

    def _number(self, name: str, low: float, high: float, *, log: bool) -> float:
        ends = (math.log(low), math.log(high)) if log else (low, high)
        usual = self._recipe.get(name)
        if self._job.kind in (Kind.RECIPE, Kind.SEED):
            assert usual is not None
            return float(usual)
        at = self._random(name).random()
        if self._job.kind is Kind.NEAR:
            middle = 0.5 if usual is None else ((math.log(usual) if log else usual) - ends[0]) / (ends[1] - ends[0])
            at = _truncated_normal(self._random(name), middle)
        found = ends[0] + at * (ends[1] - ends[0])
        return min(high, max(low, math.exp(found) if log else found))

    def _random(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self._job.number, zlib.crc32(name.encode())])

    def _record(self, name: str, value: T) -> T:
        self.parameters[name] = value
        return value


def _truncated_normal(random: np.random.Generator, middle: float) -> float:
    """Return a draw of a normal distribution between 0 and 1."""
    return next(found for found in (float(random.normal(middle, SPREAD)) for _ in itertools.count()) if 0 <= found <= 1)


def study(job: Job, *, npz: Path | None, cache: Path, epochs: int | None = None) -> StudySpec:
    """Return the study of a job; `epochs` replace the default number of epochs of fine-tuning."""
    return StudySpec.model_validate(
        {
            "name": f"replay-{job.folder}",
            "data": _data(job.data_set, npz, cache),
            "model": {"backbone": "efficientnet_lite0", "image_size": job.image_size},
            "training": {"epochs": "auto" if epochs is None else epochs, "precision": "float32"},
        }
    )


def _data(name: str, npz: Path | None, cache: Path) -> dict[str, Any]:
    match name:
        case "animals":
            return {"source": "animals", "train": 1000, "validation": 500, "test": 2000}
        case "digits":
            return {"source": "digits", "train": 300, "validation": 300, "test": 1197}
        case "fashion_mnist":
            return {"source": "npz", "path": str(fashion_mnist(cache))}
        case _:
            assert npz is not None
            return {"source": "npz", "path": str(npz.resolve())}


def fashion_mnist(cache: Path) -> Path:
    """Return an .npz file with 1,000 training, 1,000 validation and 2,000 test images of Fashion-MNIST, as many of each class."""
    to = cache / "fashion_mnist.npz"
    if to.exists():
        return to
    if not FASHION_MNIST.is_dir():
        raise SystemExit(f"{FASHION_MNIST} does not exist; run apt-get install dataset-fashion-mnist, or name other --data-sets")
    random = np.random.default_rng(0)
    official = {part: _read_official(part) for part in ("train", "t10k")}
    taken: dict[str, NDArray[np.generic]] = {}
    rows = {"t10k": _stratified(random, official["t10k"][1], (_PER_CLASS["test"],))}
    rows["train"] = _stratified(random, official["train"][1], (_PER_CLASS["train"], _PER_CLASS["val"]))
    for split, part, which in (("train", "train", 0), ("val", "train", 1), ("test", "t10k", 0)):
        images, labels = official[part]
        taken |= {f"x_{split}": images[rows[part][which]], f"y_{split}": labels[rows[part][which]]}
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = to.with_name(f"{os.getpid()}.npz")
    np.savez_compressed(unfinished, **taken)  # type: ignore[arg-type]
    unfinished.replace(to)
    return to


def _read_official(part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images (n, 28, 28) and labels (n,) of files in the IDX format, whose headers have 16 and 8 bytes."""
    content = {name: gzip.decompress((FASHION_MNIST / f"{part}-{name}-ubyte.gz").read_bytes()) for name in ("images-idx3", "labels-idx1")}
    images = np.frombuffer(content["images-idx3"], np.uint8, offset=16).reshape(-1, 28, 28)
    return images, np.frombuffer(content["labels-idx1"], np.uint8, offset=8).astype(np.int64)


def _stratified(random: np.random.Generator, labels: NDArray[np.int64], sizes: Sequence[int]) -> list[NDArray[np.int64]]:
    """Return disjoint sets of rows, each with as many rows of each class as its size."""
    by_class = [random.permutation(np.flatnonzero(labels == label)) for label in range(int(labels.max()) + 1)]
    ends = np.cumsum([0, *sizes])
    return [np.sort(np.concatenate([rows[low:high] for rows in by_class])) for low, high in itertools.pairwise(ends)]
