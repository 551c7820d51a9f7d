"""A trial whose disk has no room: it goes on without its checkpoint, its weights wait, and nothing half-written is left."""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests.faults import disks
from tests.tasks.images.training.test_trial import PLAIN, Control, kept, order, run
from tests.trainer import child
from tuner.kernels import checkpoints
from tuner.protocol import failure_table, messages
from tuner.protocol.messages import Ending, Epoch, Stage
from tuner.tasks.images.training import context as benches
from tuner.tasks.images.training import trial

#: bytes; less than a checkpoint or the weights of the small study take
LITTLE = 512


@pytest.fixture(autouse=True)
def _keeps_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs are worth a checkpoint however short they are, and room is looked for often."""
    monkeypatch.setattr(trial, "_WORTH_KEEPING_SECONDS", -1.0)
    monkeypatch.setattr(checkpoints, "_LOOK_SECONDS", 0.05)


class Full(Control):
    """A worker whose disk is full until it hears what makes someone give it room."""

    def __init__(self, room: ExitStack, relief: str) -> None:
        super().__init__()
        self._room, self._relief = room, relief
        room.enter_context(disks.capped(LITTLE))

    def send(self, message: messages.Message) -> None:
        super().send(message)
        if self._relief in message.model_dump_json():
            self._room.close()

    @property
    def troubles(self) -> list[str]:
        return [message.message for message in self.told if isinstance(message, messages.TrialWarning)]


@pytest.fixture
def room() -> Iterator[ExitStack]:
    """There is room again when it is closed, at the latest after the test."""
    with ExitStack() as stack:
        yield stack


def weights(path: str | None, bench: benches.StudyContext) -> list[list[float]]:
    assert path is not None
    return [array.ravel().tolist() for array in checkpoints.read_weights(Path(path), study=bench.identity)]


def test_a_checkpoint_without_room_costs_its_trial_nothing_and_the_next_epoch_tries_again(
    bench: benches.StudyContext, tmp_path: Path, room: ExitStack
) -> None:
    calm, undisturbed = run(bench, order(tmp_path / "calm", PLAIN))
    assert sum(isinstance(message, messages.CheckpointWritten) for message in undisturbed.told) == 2
    folder = tmp_path / "full"
    finished, control = run(bench, order(folder, PLAIN), full := Full(room, '"step":5'))
    assert control.curve == undisturbed.curve
    (told,) = full.troubles
    assert told.startswith("the checkpoint (")
    assert f") cannot be written to {folder}, where " in told
    assert told.endswith(" are free: File too large; training goes on, and each epoch tries again")
    # without room after the fourth epoch, with room after the fifth
    kinds = [message.kind for message in control.told if not (isinstance(message, Epoch) and message.stage is Stage.PROBE)]
    assert kinds == ["probed", "epoch", "trouble", "epoch", "kept"]
    assert weights(finished.weights, bench) == weights(calm.weights, bench)
    assert kept(folder) == ["checkpoint", "confusion.png", "mistakes.jpg", "weights.npz"]


def test_a_trial_whose_result_the_storage_never_got_is_completed_again_without_training(
    bench: benches.StudyContext, tmp_path: Path
) -> None:
    first, _ = run(bench, order(tmp_path, PLAIN))
    again, control = run(bench, order(tmp_path, PLAIN))
    assert [message.kind for message in control.told] == ["resumed"]
    assert (again.ending, again.value, again.best_step) == (Ending.COMPLETED, first.value, first.best_step)
    assert weights(again.weights, bench)


def test_weights_without_room_wait_until_there_is_some(bench: benches.StudyContext, tmp_path: Path, room: ExitStack) -> None:
    full = Full(room, "waits for room")
    finished, _ = run(bench, order(tmp_path, PLAIN), full)
    assert finished.ending is Ending.COMPLETED
    assert weights(finished.weights, bench)
    assert kept(tmp_path) == ["confusion.png", "mistakes.jpg", "weights.npz"]
    _, told = full.troubles
    assert told.startswith("the weights (")
    assert told.endswith("; the trial waits for room, 10 minutes at most")


def test_a_trial_whose_weights_find_no_room_in_time_is_completed_without_them(
    bench: benches.StudyContext, tmp_path: Path, room: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, _ = run(bench, order(tmp_path / "calm", PLAIN))
    monkeypatch.setattr(failure_table, "ROOM_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(checkpoints, "_BUSY_SECONDS", 0.05)
    full = Full(room, "it is never heard")
    finished, _ = run(bench, order(tmp_path / "full", PLAIN), full)
    assert (finished.ending, finished.value, finished.weights) == (Ending.COMPLETED, calm.value, None)
    assert kept(tmp_path / "full") == []
    assert full.troubles[-1].endswith("; the trial ends without them, and cannot be scored on the test images")
    assert any(isinstance(message, messages.Busy) for message in full.told)


def test_a_worker_that_is_to_end_does_not_wait_for_room(bench: benches.StudyContext, tmp_path: Path, room: ExitStack) -> None:
    class Leaving(Full):
        def interruption(self) -> messages.Stop | messages.Suspend | None:
            return messages.Suspend() if any("waits for room" in trouble for trouble in self.troubles) else None

    finished, _ = run(bench, order(tmp_path, PLAIN), Leaving(room, "it is never heard"))
    assert (finished.ending, finished.weights) == (Ending.COMPLETED, None)
    assert finished.value is not None
    assert kept(tmp_path) == []


def test_a_checkpoint_makes_room_for_the_weights_of_its_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = checkpoints.write_weights

    def write_if_it_is_gone(path: Path, *arguments: object, study: str) -> None:
        if (tmp_path / "checkpoint").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, *arguments, study=study)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoints, "write_weights", write_if_it_is_gone)
    (tmp_path / "checkpoint").touch()
    control = Control()
    found = checkpoints.Keeping(order(tmp_path, PLAIN), control, study="small").keep_weights([np.ones(3, np.float32)])
    assert found == str(tmp_path / "weights.npz")
    assert (kept(tmp_path), control.told) == (["weights.npz"], [])


def test_what_a_trainer_that_was_killed_had_half_written_is_gone_when_its_trial_ends(tmp_path: Path) -> None:
    trained = order(tmp_path, PLAIN)
    for name in ("checkpoint", "checkpoint.4711.part", "weights.npz.4711.part"):
        (tmp_path / name).touch()
    checkpoints.Keeping(trained, Control(), study="small").clear()
    assert kept(tmp_path) == []


def test_a_trainer_process_waits_for_room_and_goes_on(trainer: child.Child, tmp_path: Path, room: ExitStack) -> None:
    calm = trainer.train(tmp_path / "calm", PLAIN)
    room.enter_context(disks.capped(LITTLE, pid=trainer.process.pid))

    def make_room(message: messages.Message) -> messages.Message | None:
        if isinstance(message, messages.TrialWarning):
            room.close()
        return child.go_on(message)

    full = trainer.train(tmp_path / "full", PLAIN, answer=make_room)
    assert [message.kind for message in full.told][-2:] == ["trouble", "finished"]
    assert full.finished.value == calm.finished.value
    assert kept(tmp_path / "full") == ["confusion.png", "mistakes.jpg", "weights-0.npz"]
