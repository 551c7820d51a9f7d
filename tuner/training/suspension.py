"""A trial in the middle of its fine-tuning, to and from a file, so that it goes on as if it had never stopped."""

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from tuner import errors, messages
from tuner.hyperparameters import Hyperparameters
from tuner.trust import age, at_rest


class Part(BaseModel):
    """How far an epoch has come that is not done."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    steps: int
    #: of loss and accuracy over these steps
    sums: tuple[float, float]
    seconds: float


class Progress(BaseModel):
    """How far a trial has come."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    #: `Bench.identity`; a file of another study is not taken up
    study: str
    #: what the trial trains with; a file of another trial is not taken up either
    hyperparameters: Hyperparameters
    seed: int
    #: fine-tuning epochs that are done
    epochs: int
    #: of both stages, as the worker was told of them; empty in a file of an earlier version
    curve: tuple[messages.Epoch, ...] = ()
    #: of the epoch after them; None: it is not begun
    part: Part | None = None
    #: step and scores of the best epoch
    best_step: int
    value: float
    loss: float
    confusion: tuple[tuple[int, ...], ...]
    mistakes: tuple[messages.Mistake, ...] = ()
    probe_seconds: float
    fine_tune_seconds: float

    @property
    def done(self) -> tuple[int, int]:
        """Epochs and steps that are done; of two, the greater is further."""
        return self.epochs, 0 if self.part is None else self.part.steps


@dataclass(frozen=True, kw_only=True)
class Suspended:
    """What a trial needs to go on."""

    progress: Progress
    #: of `FineTuning.state`
    state: tuple[NDArray[np.float32], ...]
    #: of the best epoch
    best: tuple[NDArray[np.float32], ...]


def write(path: Path, suspended: Suspended) -> None:
    """Keep a trial; the file is written beside and renamed."""
    arrays = {f"state{number}": value for number, value in enumerate(suspended.state)}
    arrays |= {f"best{number}": value for number, value in enumerate(suspended.best)}
    write_arrays(path, arrays | {"progress": np.array(suspended.progress.model_dump_json())})


def read(path: Path, order: messages.Train, *, study: str) -> Suspended | None:
    """The trial that was kept, or None if there is none, it is damaged, or it is another trial's or another study's.

    Raises:
        NoKey: it is encrypted, and there is no key here that opens it.
    """
    try:
        with at_rest.opened(path) as file, np.load(file, allow_pickle=False) as arrays:
            progress = Progress.model_validate_json(str(arrays["progress"]))
            found = Suspended(progress=progress, state=_numbered(arrays, "state"), best=_numbered(arrays, "best"))
    except (FileNotFoundError, ValueError, KeyError, EOFError, zipfile.BadZipFile, age.Damaged):
        return None
    is_same = (progress.study, progress.hyperparameters, progress.seed) == (study, order.hyperparameters, order.seed)
    return found if is_same else None


def write_weights(path: Path, weights: Sequence[NDArray[np.float32]], *, study: str) -> None:
    """Keep the weights of a trial of the study with this `Bench.identity`."""
    write_arrays(path, {"study": np.array(study)} | {str(number): value for number, value in enumerate(weights)})


def read_weights(path: Path, *, study: str) -> list[NDArray[np.float32]]:
    """The weights that `write_weights` kept.

    Raises:
        DataError: they are another study's.
        NoKey: they are encrypted, and there is no key here that opens them.
        FileNotFoundError: they are not there any more.
    """
    with at_rest.opened(path) as file, np.load(file, allow_pickle=False) as arrays:
        if str(arrays["study"]) != study:
            raise errors.DataError(
                f"{path} holds weights of a study with other images or another model; nothing of this study can be scored with them"
            )
        return [arrays[str(number)] for number in range(len(arrays) - 1)]


def write_arrays(path: Path, arrays: dict[str, NDArray[np.generic]]) -> None:
    """An .npz file, encrypted where there is a key, written beside and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            at_rest.write(file, lambda target: np.savez(target, **arrays))  # type: ignore[arg-type]
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _numbered(arrays: np.lib.npyio.NpzFile, name: str) -> tuple[NDArray[np.float32], ...]:
    count = sum(key.startswith(name) for key in arrays)
    return tuple(arrays[f"{name}{number}"] for number in range(count))


def values(variables: Sequence[keras.Variable]) -> tuple[NDArray[np.float32], ...]:
    """The values of variables, copied."""
    return tuple(variable.numpy() for variable in variables)
