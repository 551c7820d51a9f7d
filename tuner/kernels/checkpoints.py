"""Checkpoints and weights: the files of a trial, from which it resumes and is scored.

The disk may be full: a checkpoint is then skipped, and weights wait for free space.
"""

import os
import shutil
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from tuner import errors
from tuner.cache import entries
from tuner.protocol import failure_table, messages
from tuner.protocol.messages import WorkerPort
from tuner.spec.hyperparameters import ChosenValues, Plain, TrialValues
from tuner.trust import age, at_rest

Weights = Sequence[NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class TrialTiming:
    """Times of the training of a trial, in seconds."""

    #: shorter work is cheaper to repeat than to write to a checkpoint
    worth_writing_seconds: float = 2.0
    #: interval of the messages that tell the worker that a trial computes features or waits for disk space and does not hang
    busy_seconds: float = 10.0
    #: interval between attempts to write weights to a full disk
    retry_seconds: float = 1.0
    #: how long weights wait for space on a full disk
    disk_seconds: float = failure_table.DISK_PATIENCE_SECONDS


class EpochPart(BaseModel):
    """The finished steps of an unfinished epoch."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    steps: int
    #: sums of loss and accuracy over these steps
    sums: tuple[float, float]
    seconds: float


class EndedTraining(BaseModel):
    """The result of a training of a trial that has several: with several seeds, or one for each fold."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    #: best value, and its step
    value: float
    best_step: int
    #: epoch of the training with this value, counted from 1
    best_epoch: int
    seconds: float
    #: all other metrics of this epoch
    metrics: dict[str, float] = {}
    #: confusion matrix of this epoch, for a fold of images
    confusion: tuple[tuple[int, ...], ...] = ()


class BestEpoch(BaseModel):
    """The step and the scores of the best epoch of a training of images."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    step: int
    value: float
    loss: float
    confusion: tuple[tuple[int, ...], ...] = ()
    by_class: tuple[messages.LabelCounts, ...] = ()
    mistakes: tuple[messages.Misclassified, ...] = ()
    metrics: dict[str, float] = {}


class Progress(BaseModel):
    """Progress of a trial's training."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    #: `StudyContext.identity`; a file of another study is ignored
    study: str
    #: hyperparameters of the trial; a file of another trial is ignored, too
    hyperparameters: TrialValues
    seed: int
    #: finished epochs of fine-tuning
    epochs: int
    #: epochs of both stages, as they were reported to the worker; empty in a file of an earlier version
    curve: tuple[messages.Epoch, ...] = ()
    #: the epoch after them; None if it has not started
    part: EpochPart | None = None
    #: step and scores of the best epoch
    best_step: int
    value: float
    loss: float
    confusion: tuple[tuple[int, ...], ...] = ()
    by_class: tuple[messages.LabelCounts, ...] = ()
    mistakes: tuple[messages.Misclassified, ...] = ()
    probe_seconds: float
    fine_tune_seconds: float
    #: the trainings of the trial that have ended, if it has several
    ended: tuple[EndedTraining, ...] = ()
    #: for images: the best epoch of these
    kept: BestEpoch | None = None
    #: the metric of the study in each epoch of the training that has not ended; the curve may have means over folds in its place
    measured: tuple[float, ...] = ()
    #: metrics of the best epoch
    metrics: dict[str, float] = {}
    #: what user code asked for
    asked: dict[str, Plain] = {}

    @property
    def done(self) -> tuple[int, int, int]:
        """Finished trainings, epochs and steps; a greater triple is further."""
        return len(self.ended), self.epochs, 0 if self.part is None else self.part.steps


@dataclass(frozen=True, kw_only=True)
class SuspendedTrial:
    """Everything that a trial needs to resume."""

    progress: Progress
    #: values of `FineTuning.state`; empty if the next of several trainings has not begun
    state: tuple[NDArray[np.float32], ...]
    #: weights of the best epoch
    best: tuple[NDArray[np.float32], ...]
    #: weights of `Progress.kept`
    kept: tuple[NDArray[np.float32], ...] = ()


def write(path: Path, suspended: SuspendedTrial) -> None:
    """Write a trial to a file, which is replaced in one step."""
    arrays = {f"state{number}": value for number, value in enumerate(suspended.state)}
    arrays |= {f"best{number}": value for number, value in enumerate(suspended.best)}
    arrays |= {f"kept{number}": value for number, value in enumerate(suspended.kept)}
    write_arrays(path, arrays | {"progress": np.array(suspended.progress.model_dump_json())})


def read(path: Path, order: messages.Train, *, study: str) -> SuspendedTrial | None:
    """Return the trial in a file, or None if the file is missing or damaged, or belongs to another trial or study.

    Raises:
        NoKey: the file is encrypted, and no key on this machine opens it.
    """
    try:
        with at_rest.opened(path) as file, np.load(file, allow_pickle=False) as arrays:
            progress = Progress.model_validate_json(str(arrays["progress"]))
            state, best, kept = (_numbered(arrays, name) for name in ("state", "best", "kept"))
            found = SuspendedTrial(progress=progress, state=state, best=best, kept=kept)
    except (FileNotFoundError, ValueError, KeyError, EOFError, zipfile.BadZipFile, age.Damaged):
        return None
    is_same = (progress.study, progress.seed) == (study, order.seed) and _has_values(progress, order.hyperparameters)
    return found if is_same else None


def _has_values(progress: Progress, wanted: TrialValues) -> bool:
    """Return whether a checkpoint has the values of a trial; user code may have asked for some after the trial began."""
    if not isinstance(wanted, ChosenValues):
        return progress.hyperparameters == wanted
    return all(progress.asked.get(name, value) == value for name, value in wanted.values.items())


def write_weights(path: Path, weights: Sequence[NDArray[np.float32]], *, study: str) -> None:
    """Write the weights of a trial; `study` is the `StudyContext.identity`."""
    write_arrays(path, {"study": np.array(study)} | {str(number): value for number, value in enumerate(weights)})


def read_weights(path: Path, *, study: str) -> list[NDArray[np.float32]]:
    """Return the weights that `write_weights` wrote.

    Raises:
        DataError: they belong to another study.
        NoKey: they are encrypted, and no key on this machine opens them.
        FileNotFoundError: the file no longer exists.
    """
    with at_rest.opened(path) as file, np.load(file, allow_pickle=False) as arrays:
        if str(arrays["study"]) != study:
            raise errors.DataError(f"{path} has weights from a study with other images or another model; expected weights of this study")
        return [arrays[str(number)] for number in range(len(arrays) - 1)]


def write_arrays(path: Path, arrays: dict[str, NDArray[np.generic]]) -> None:
    """Write an .npz file, which is replaced in one step; it is encrypted if there is a key."""
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


def copy_values(variables: Sequence[keras.Variable]) -> tuple[NDArray[np.float32], ...]:
    """Return copies of the values of variables."""
    return tuple(variable.numpy() for variable in variables)


class TrialFiles:
    """The checkpoint and the weights of one trial; `study` is the `StudyContext.identity`."""

    def __init__(self, order: messages.Train, worker: WorkerPort, *, study: str, timing: TrialTiming | None = None) -> None:
        self._order, self._worker, self._study, self._timing = order, worker, study, timing or TrialTiming()
        self._checkpoint, self._weights = Path(order.checkpoint), Path(f"{order.weights}.npz")
        self._is_warned = False

    def read(self) -> SuspendedTrial | None:
        """Return the suspended trial, or None. If this machine and another one have a checkpoint, return the one with more epochs."""
        paths = [self._checkpoint, *([] if self._order.fetched is None else [Path(self._order.fetched)])]
        found = [trial for path in paths if (trial := read(path, self._order, study=self._study)) is not None]
        return max(found, key=lambda trial: trial.progress.done, default=None)

    def write_checkpoint(self, suspended: SuspendedTrial) -> None:
        """Write a checkpoint; if that fails, keep the previous one and warn the worker once."""
        try:
            write(self._checkpoint, suspended)
        except OSError as error:
            needed = sum(array.nbytes for array in (*suspended.state, *suspended.best, *suspended.kept))
            if not self._is_warned:
                self._warn(f"{self._explain('checkpoint', needed, error)}; training continues, and the next epoch tries again")
            self._is_warned = True
        else:
            self._is_warned = False
            self._worker.send(messages.CheckpointWritten(trial=self._order.trial))

    def clear(self) -> None:
        """Delete the checkpoint, and unfinished files of killed trainers."""
        self._checkpoint.unlink(missing_ok=True)
        for path in (self._checkpoint, self._weights):
            for part in path.parent.glob(f"{path.name}.*.part"):
                part.unlink(missing_ok=True)

    def write_weights(self, weights: Weights) -> str | None:
        """Write the weights of a completed trial and return their file.

        The checkpoint stays until the worker has recorded the result, so that a killed worker does not lose the training. On a full disk
        the checkpoint is deleted first. If that is not enough, wait for free space for `TrialTiming.disk_seconds`, or until the
        worker suspends the trial. Return None if there is still no space.
        """
        path = self._weights
        refused = self._write_weights(path, weights)
        if refused is not None:
            self.clear()
            refused = self._write_weights(path, weights)
        if refused is not None:
            refused = self._wait_for_space(path, weights, refused)
        if refused is None:
            return str(path)
        lost = "the trial ends without weights and cannot be scored on the test images"
        self._warn(f"{self._explain('weights', _num_bytes(weights), refused)}; {lost}")
        return None

    def write_logits(self, arrays: Mapping[str, NDArray[np.generic]]) -> str | None:
        """Write the logits of a completed trial beside its weights and return their file; on a full disk, warn and return None."""
        path = self._weights.with_name("logits.npz")
        try:
            write_arrays(path, dict(arrays))
        except OSError as error:
            needed = sum(array.nbytes for array in arrays.values())
            self._warn(f"{self._explain('logits', needed, error)}; the trial ends without them and can be no member of an ensemble")
            return None
        return str(path)

    def _write_weights(self, path: Path, weights: Weights) -> OSError | None:
        try:
            write_weights(path, weights, study=self._study)
        except OSError as error:
            return error
        return None

    def _wait_for_space(self, path: Path, weights: Weights, refused: OSError) -> OSError | None:
        limit_seconds = self._timing.disk_seconds
        waits = f"the trial waits up to {limit_seconds / 60:.0f} minutes for free space"
        self._warn(f"{self._explain('weights', _num_bytes(weights), refused)}; {waits}")
        began = reported_at = time.monotonic()
        left: OSError | None = refused
        while left is not None and time.monotonic() - began < limit_seconds:
            if isinstance(self._worker.interruption(), messages.Suspend):
                return left
            time.sleep(self._timing.retry_seconds)
            if time.monotonic() - reported_at > self._timing.busy_seconds:
                reported_at = time.monotonic()
                self._worker.send(messages.Busy(trial=self._order.trial))
            left = self._write_weights(path, weights)
        return left

    def _explain(self, what: str, num_bytes: int, error: OSError) -> str:
        folder = self._checkpoint.parent
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = entries.show_size(shutil.disk_usage(existing).free)
        reason = os.strerror(error.errno) if error.errno else str(error)
        return f"cannot write the {what} ({entries.show_size(num_bytes)}) to {folder}, which has {free} free: {reason}"

    def _warn(self, message: str) -> None:
        self._worker.send(messages.TrialWarning(trial=self._order.trial, message=message))


def _num_bytes(weights: Weights) -> int:
    return sum(array.nbytes for array in weights)
