"""The epochs of a run, as they happen, into lines of JSON; the weights of the best of them into a file."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import task

_EPOCHS = "epochs.jsonl"
_BEST = "best.npz"


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch of one trial."""

    #: since the process of the contender was started
    seconds: float
    trial: int
    #: counted from 1
    epoch: int
    validation_accuracy: float
    #: the highest validation accuracy of the run so far
    best: float


class Journal:
    """The journal of a run; what a killed run wrote stays."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        epochs = read(folder)
        self._best = max((epoch.best for epoch in epochs), default=-1.0)
        self._trial = max((epoch.trial for epoch in epochs), default=-1)

    def begin_trial(self) -> int:
        """The number of a new trial."""
        self._trial += 1
        return self._trial

    def add(self, trial: int, epoch: int, accuracy: float, *, seconds: float | None = None) -> bool:
        """Write an epoch down; whether it is the best so far."""
        accuracy = round(accuracy, 6)  # a float32 of Keras, a float64 of ours
        is_best = accuracy > self._best
        self._best = max(self._best, accuracy)
        line = Epoch(
            seconds=round(time.time() - task.started() if seconds is None else seconds, 3),
            trial=trial,
            epoch=epoch,
            validation_accuracy=accuracy,
            best=self._best,
        )
        with (self._folder / _EPOCHS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(line)) + "\n")
        return is_best

    def keep(self, weights: list[Any], recipe: Mapping[str, Any]) -> None:
        """Keep the weights of the best model so far, and what it takes to build it again; beside and renamed, as the run may be killed."""
        beside = self._folder / f"{_BEST}.part"
        with beside.open("wb") as file:
            np.savez(file, recipe=np.array(json.dumps(recipe)), **{str(number): value for number, value in enumerate(weights)})
        beside.replace(self._folder / _BEST)


def read(folder: Path, *, until_seconds: float = float("inf")) -> list[Epoch]:
    """The epochs that a run has written, up to some time; a line that a kill cut short is left out."""
    path = folder / _EPOCHS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    epochs = [Epoch(**json.loads(line)) for line in lines if line.endswith("\n")]
    return [epoch for epoch in epochs if epoch.seconds <= until_seconds]


def read_best(folder: Path) -> tuple[list[Any], dict[str, Any]] | None:
    """The weights and the recipe that were kept last, if any were."""
    if not (folder / _BEST).exists():
        return None
    with np.load(folder / _BEST, allow_pickle=False) as arrays:
        return [arrays[str(number)] for number in range(len(arrays) - 1)], json.loads(str(arrays["recipe"]))


def following(epochs: Callable[[], list[tuple[int, int, float]]], journal: Journal) -> Callable[[], None]:
    """A call that writes down those of `epochs` (trial, epoch, accuracy) that were not there at the last call."""
    seen: set[tuple[int, int]] = set()

    def look() -> None:
        for trial, epoch, accuracy in epochs():
            if (trial, epoch) not in seen:
                seen.add((trial, epoch))
                journal.add(trial, epoch, accuracy)

    return look
