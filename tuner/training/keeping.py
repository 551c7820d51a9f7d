"""What a trial has to keep, its checkpoint and its weights, into files on a disk that may have no room for them."""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tuner import failures, messages
from tuner.data import room
from tuner.training import suspension
from tuner.training.control import Control
from tuner.training.suspension import Suspended

Weights = Sequence[NDArray[np.float32]]
#: between two looks whether there is room
_LOOK_SECONDS = 1.0
#: how often the worker hears of a trial that waits for room, so that it is not taken to hang
_BUSY_SECONDS = 10.0


class Keeping:
    """The files of one trial of the study with this `Bench.identity`."""

    def __init__(self, order: messages.Train, control: Control, *, study: str) -> None:
        self._order, self._control, self._study = order, control, study
        self._checkpoint, self._weights = Path(order.checkpoint), Path(f"{order.weights}.npz")
        self._is_told = False

    def read(self) -> Suspended | None:
        """The trial as it was kept: here, or as it was fetched from elsewhere, whichever is further."""
        paths = [self._checkpoint, *([] if self._order.fetched is None else [Path(self._order.fetched)])]
        found = [kept for path in paths if (kept := suspension.read(path, self._order, study=self._study)) is not None]
        return max(found, key=lambda kept: kept.progress.done, default=None)

    def keep(self, suspended: Suspended) -> None:
        """Write a checkpoint; where that is not possible the one before stays, and the worker hears of it once."""
        try:
            suspension.write(self._checkpoint, suspended)
        except OSError as error:
            needed = sum(array.nbytes for array in (*suspended.state, *suspended.best))
            if not self._is_told:
                self._tell(f"{self._why('checkpoint', needed, error)}; training goes on, and each epoch tries again")
            self._is_told = True
        else:
            self._is_told = False
            self._control.send(messages.Kept(trial=self._order.trial))

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
            suspension.write_weights(path, weights, study=self._study)
        except OSError as error:
            return error
        return None

    def _await_room(self, path: Path, weights: Weights, refused: OSError) -> OSError | None:
        limit_seconds = failures.ROOM_PATIENCE_SECONDS
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
        free = room.show_size(shutil.disk_usage(there).free)
        reason = os.strerror(error.errno) if error.errno else str(error)
        return f"the {what} ({room.show_size(num_bytes)}) cannot be written to {folder}, where {free} are free: {reason}"

    def _tell(self, message: str) -> None:
        self._control.send(messages.Trouble(trial=self._order.trial, message=message))


def _size(weights: Weights) -> int:
    return sum(array.nbytes for array in weights)
