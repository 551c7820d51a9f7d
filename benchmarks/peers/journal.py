"""Journal: write the epochs of a run as lines of JSON when they happen, and the weights of the best one to a file."""

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

    #: seconds since the start of the contender's process
    seconds: float
    trial: int
    #: counted from 1
    epoch: int
    validation_accuracy: float
    #: highest validation accuracy of the run so far
    best: float


class Journal:
    """The journal of a run; a killed run keeps what it has written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        epochs = read(folder)
        self._best = max((epoch.best for epoch in epochs), default=-1.0)
        self._trial = max((epoch.trial for epoch in epochs), default=-1)

    def begin_trial(self) -> int:
        """Return the number of a new trial."""
        self._trial += 1
        return self._trial

    def add(self, trial: int, epoch: int, accuracy: float, *, seconds: float | None = None) -> bool:
        """Write an epoch; return whether it is the best so far."""
        accuracy = round(accuracy, 6)  # Keras gives a float32, tuner a float64
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
        """Save the weights of the best model so far, and its recipe; write and rename a temporary file, because the run may be killed."""
        temporary = self._folder / f"{_BEST}.part"
        with temporary.open("wb") as file:
            np.savez(file, recipe=np.array(json.dumps(recipe)), **{str(number): value for number, value in enumerate(weights)})
        temporary.replace(self._folder / _BEST)


def read(folder: Path, *, until_seconds: float = float("inf")) -> list[Epoch]:
    """Return the epochs of a run up to a given time; an incomplete line of a killed run is skipped."""
    path = folder / _EPOCHS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    epochs = [Epoch(**json.loads(line)) for line in lines if line.endswith("\n")]
    return [epoch for epoch in epochs if epoch.seconds <= until_seconds]


def read_best(folder: Path) -> tuple[list[Any], dict[str, Any]] | None:
    """Return the weights and the recipe that were saved last, or None."""
    if not (folder / _BEST).exists():
        return None
    with np.load(folder / _BEST, allow_pickle=False) as arrays:
        return [arrays[str(number)] for number in range(len(arrays) - 1)], json.loads(str(arrays["recipe"]))


def following(epochs: Callable[[], list[tuple[int, int, float]]], journal: Journal) -> Callable[[], None]:
    """Return a function that writes the epochs (trial, epoch, accuracy) that are new since its last call."""
    seen: set[tuple[int, int]] = set()

    def look() -> None:
        for trial, epoch, accuracy in epochs():
            if (trial, epoch) not in seen:
                seen.add((trial, epoch))
                journal.add(trial, epoch, accuracy)

    return look
