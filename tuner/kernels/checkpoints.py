"""The worker's side of a trial, as whatever trains it sees it.

A trial in the middle of its fine-tuning, to and from a file, so that it goes on as if it had never stopped.

What a trial has to keep, its checkpoint and its weights, into files on a disk that may have no room for them.
"""

import os
import shutil
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import keras
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from tuner import errors
from tuner.cache import entries
from tuner.protocol import failure_table, messages
from tuner.spec.hyperparameters import Hyperparameters
from tuner.trust import age, at_rest


class Control(Protocol):
    """Takes what a trial has to tell, and says what becomes of it."""

    def send(self, message: messages.Message) -> None:
        """Tell the worker something."""

    def interruption(self) -> messages.Stop | messages.Suspend | None:
        """What the worker wants at once, if anything; it stays until the trial ends."""

    def decision(self) -> messages.Proceed | messages.Stop | messages.Suspend:
        """Wait for the worker's word after the probe."""


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

    #: `StudyContext.identity`; a file of another study is not taken up
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
    mistakes: tuple[messages.Misclassified, ...] = ()
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
    """Keep the weights of a trial of the study with this `StudyContext.identity`."""
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


Weights = Sequence[NDArray[np.float32]]
#: between two looks whether there is room
_LOOK_SECONDS = 1.0
#: how often the worker hears of a trial that waits for room, so that it is not taken to hang
_BUSY_SECONDS = 10.0


class Keeping:
    """The files of one trial of the study with this `StudyContext.identity`."""

    def __init__(self, order: messages.Train, control: Control, *, study: str) -> None:
        self._order, self._control, self._study = order, control, study
        self._checkpoint, self._weights = Path(order.checkpoint), Path(f"{order.weights}.npz")
        self._is_told = False

    def read(self) -> Suspended | None:
        """The trial as it was kept: here, or as it was fetched from elsewhere, whichever is further."""
        paths = [self._checkpoint, *([] if self._order.fetched is None else [Path(self._order.fetched)])]
        found = [kept for path in paths if (kept := read(path, self._order, study=self._study)) is not None]
        return max(found, key=lambda kept: kept.progress.done, default=None)

    def keep(self, suspended: Suspended) -> None:
        """Write a checkpoint; where that is not possible the one before stays, and the worker hears of it once."""
        try:
            write(self._checkpoint, suspended)
        except OSError as error:
            needed = sum(array.nbytes for array in (*suspended.state, *suspended.best))
            if not self._is_told:
                self._tell(f"{self._why('checkpoint', needed, error)}; training goes on, and each epoch tries again")
            self._is_told = True
        else:
            self._is_told = False
            self._control.send(messages.CheckpointWritten(trial=self._order.trial))

    def clear(self) -> None:
        """The checkpoint is needed no more, nor what trainers that were killed had half written."""
        self._checkpoint.unlink(missing_ok=True)
        for path in (self._checkpoint, self._weights):
            for part in path.parent.glob(f"{path.name}.*.part"):
                part.unlink(missing_ok=True)

    def keep_weights(self, weights: Weights) -> str | None:
        """Write the weights of a trial that is completed: the file.

        The checkpoint stays until the worker has told the storage, lest one that is killed before have it all trained again; it makes way
        only where there is no room. Where there is none even then the weights wait for it, for as long as `failures` says and the worker
        is not asked to stop; None if there was none by then.
        """
        path = self._weights
        refused = self._write_weights(path, weights)
        if refused is not None:
            self.clear()
            refused = self._write_weights(path, weights)
        if refused is not None:
            refused = self._await_room(path, weights, refused)
        if refused is None:
            return str(path)
        lost = "the trial ends without them, and cannot be scored on the test images"
        self._tell(f"{self._why('weights', _size(weights), refused)}; {lost}")
        return None

    def _write_weights(self, path: Path, weights: Weights) -> OSError | None:
        try:
            write_weights(path, weights, study=self._study)
        except OSError as error:
            return error
        return None

    def _await_room(self, path: Path, weights: Weights, refused: OSError) -> OSError | None:
        limit_seconds = failure_table.ROOM_PATIENCE_SECONDS
        waits = f"the trial waits for room, {limit_seconds / 60:.0f} minutes at most"
        self._tell(f"{self._why('weights', _size(weights), refused)}; {waits}")
        began = told_at = time.monotonic()
        left: OSError | None = refused
        while left is not None and time.monotonic() - began < limit_seconds:
            if isinstance(self._control.interruption(), messages.Suspend):
                return left
            time.sleep(_LOOK_SECONDS)
            if time.monotonic() - told_at > _BUSY_SECONDS:
                told_at = time.monotonic()
                self._control.send(messages.Busy(trial=self._order.trial))
            left = self._write_weights(path, weights)
        return left

    def _why(self, what: str, num_bytes: int, error: OSError) -> str:
        folder = self._checkpoint.parent
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = entries.show_size(shutil.disk_usage(there).free)
        reason = os.strerror(error.errno) if error.errno else str(error)
        return f"the {what} ({entries.show_size(num_bytes)}) cannot be written to {folder}, where {free} are free: {reason}"

    def _tell(self, message: str) -> None:
        self._control.send(messages.TrialWarning(trial=self._order.trial, message=message))


def _size(weights: Weights) -> int:
    return sum(array.nbytes for array in weights)
