"""Checkpoints and weights: read as they were written, and on a full disk."""

import errno
import importlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults import disks
from tests.tasks.images.training.test_trial import EAGER, PLAIN, Control, kept, order, run
from tests.trainer import child
from tuner import errors
from tuner.kernels import checkpoints
from tuner.protocol import messages
from tuner.protocol.messages import Ending, Epoch, Stage
from tuner.spec.hyperparameters import Hyperparameters
from tuner.tasks.images.training.study_context import StudyContext
from tuner.trust import age, at_rest, keys

ORDER = messages.Train(trial=1, hyperparameters=Hyperparameters(), seed=5, weights="w", checkpoint="c")


def epoch(step: int) -> messages.Epoch:
    return messages.Epoch(
        trial=1, stage=messages.Stage.FINE_TUNE, step=step, loss=float("inf"), accuracy=0.1, validation_loss=1 / 3,
        validation_accuracy=0.75, learning_rate=1e-4, seconds=1.5,
    )  # fmt: skip


def suspended() -> checkpoints.SuspendedTrial:
    progress = checkpoints.Progress(
        study="animals",
        hyperparameters=ORDER.hyperparameters,
        seed=5,
        epochs=2,
        curve=tuple(epoch(step) for step in (1, 2)),
        best_step=22,
        value=0.75,
        loss=float("inf"),
        confusion=((3, 1), (0, 4)),
        probe_seconds=1.5,
        fine_tune_seconds=20.0,
    )
    # more than ten, as their order by name is another than by number
    state = tuple(np.full((number + 1,), number, np.float32) for number in range(12))
    return checkpoints.SuspendedTrial(progress=progress, state=state, best=(np.eye(2, dtype=np.float32),))


def test_a_trial_is_read_as_it_was_written(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "new" / "c", suspended())
    found = checkpoints.read(tmp_path / "new" / "c", ORDER, study="animals")
    assert found is not None
    assert found.progress == suspended().progress
    assert [value.tolist() for value in found.state] == [[number] * (number + 1) for number in range(12)]
    assert [value.tolist() for value in found.best] == [[[1, 0], [0, 1]]]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["c"]


def test_a_checkpoint_of_a_version_without_curves_is_read(tmp_path: Path) -> None:
    older = json.dumps(suspended().progress.model_dump(mode="json", exclude={"curve"}))
    checkpoints.write_arrays(tmp_path / "c", {"progress": np.array(older), "state0": np.zeros(1), "best0": np.zeros(1)})
    found = checkpoints.read(tmp_path / "c", ORDER, study="animals")
    assert found is not None
    assert (found.progress.epochs, found.progress.curve) == (2, ())


def test_without_a_file_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoints.read(tmp_path / "c", ORDER, study="animals") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-200],
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"hello" * 100,
        lambda content: content[:300] + b"x" * 40 + content[340:],  # zipped parts carry their checksum
    ],
)
def test_a_damaged_file_is_ignored(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    checkpoints.write(tmp_path / "c", suspended())
    (tmp_path / "c").write_bytes(damage((tmp_path / "c").read_bytes()))
    assert checkpoints.read(tmp_path / "c", ORDER, study="animals") is None


def test_a_file_with_other_arrays_is_ignored(tmp_path: Path) -> None:
    checkpoints.write_arrays(tmp_path / "c", {"a": np.zeros(3)})
    assert checkpoints.read(tmp_path / "c", ORDER, study="animals") is None


@pytest.mark.parametrize("other", [{"seed": 6}, {"hyperparameters": Hyperparameters(learning_rate=1e-5)}])
def test_a_checkpoint_of_another_trial_is_ignored(tmp_path: Path, other: dict[str, Any]) -> None:
    checkpoints.write(tmp_path / "c", suspended())
    assert checkpoints.read(tmp_path / "c", ORDER.model_copy(update=other), study="animals") is None


def test_a_checkpoint_of_another_study_is_ignored(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "c", suspended())
    assert checkpoints.read(tmp_path / "c", ORDER, study="birds") is None


def test_weights_are_read_as_they_were_written_and_by_no_other_study(tmp_path: Path) -> None:
    checkpoints.write_weights(tmp_path / "w.npz", [np.full((number + 1,), number, np.float32) for number in range(12)], study="animals")
    found = checkpoints.read_weights(tmp_path / "w.npz", study="animals")
    assert [value.tolist() for value in found] == [[number] * (number + 1) for number in range(12)]
    with pytest.raises(errors.DataError, match="weights from a study with other images or another model"):
        checkpoints.read_weights(tmp_path / "w.npz", study="birds")


def test_a_failed_write_keeps_the_previous_file(tmp_path: Path) -> None:
    class Unwritable:
        def __array__(self, *_: Any, **__: Any) -> Any:
            raise OSError("disk full")

    checkpoints.write(tmp_path / "c", suspended())
    with pytest.raises(OSError, match="disk full"):
        checkpoints.write_arrays(tmp_path / "c", {"a": Unwritable()})  # type: ignore[dict-item]
    assert checkpoints.read(tmp_path / "c", ORDER, study="animals") is not None
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    made = str(importlib.import_module("pyrage").x25519.Identity.generate())
    monkeypatch.setenv(keys.ARTIFACT_KEY, made)
    return made


def test_with_a_key_checkpoints_and_weights_are_encrypted_and_read_back(tmp_path: Path, key: str) -> None:
    checkpoints.write(tmp_path / "c", suspended())
    checkpoints.write_weights(tmp_path / "w", suspended().best, study="animals")
    for name in ("c", "w"):
        assert (tmp_path / name).read_bytes().startswith(age.MAGIC)
    found = checkpoints.read(tmp_path / "c", ORDER, study="animals")
    assert found is not None and found.progress == suspended().progress
    assert checkpoints.read_weights(tmp_path / "w", study="animals")[0].tolist() == [[1, 0], [0, 1]]


def test_an_encrypted_checkpoint_without_its_key_is_an_error_and_not_a_missing_checkpoint(
    tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.write(tmp_path / "c", suspended())
    content = (tmp_path / "c").read_bytes()
    (tmp_path / "cut").write_bytes(content[:-1])
    assert checkpoints.read(tmp_path / "cut", ORDER, study="animals") is None
    monkeypatch.delenv(keys.ARTIFACT_KEY)
    for read in (
        lambda: checkpoints.read(tmp_path / "c", ORDER, study="animals"),
        lambda: checkpoints.read_weights(tmp_path / "c", study=""),
    ):
        with pytest.raises(at_rest.NoKey, match="set TUNER_ARTIFACT_KEY"):
            read()


#: bytes; less than a checkpoint or the weights of the small study take
LITTLE = 512


class Full(Control):
    """A worker whose disk is full until a message with a given text arrives."""

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
    """Closing it frees disk space, at the latest after the test."""
    with ExitStack() as stack:
        yield stack


def weights(path: str | None, context: StudyContext) -> list[list[float]]:
    assert path is not None
    return [array.ravel().tolist() for array in checkpoints.read_weights(Path(path), study=context.identity)]


def test_a_checkpoint_that_cannot_be_written_does_not_disturb_its_trial_and_the_next_epoch_retries(
    context: StudyContext, tmp_path: Path, room: ExitStack
) -> None:
    calm, undisturbed = run(context, order(tmp_path / "calm", PLAIN))
    assert sum(isinstance(message, messages.CheckpointWritten) for message in undisturbed.told) == 2
    folder = tmp_path / "full"
    finished, control = run(context, order(folder, PLAIN), full := Full(room, '"step":5'))
    assert control.curve == undisturbed.curve
    (told,) = full.troubles
    assert told.startswith("cannot write the checkpoint (")
    assert f") to {folder}, which has " in told
    assert told.endswith(" free: File too large; training continues, and the next epoch tries again")
    # without room after the fourth epoch, with room after the fifth
    kinds = [message.kind for message in control.told if not (isinstance(message, Epoch) and message.stage is Stage.PROBE)]
    assert kinds == ["probed", "epoch", "trouble", "epoch", "kept"]
    assert weights(finished.weights, context) == weights(calm.weights, context)
    assert kept(folder) == ["checkpoint", "confusion.png", "logits.npz", "mistakes.jpg", "weights.npz"]


def test_a_trial_whose_result_was_not_recorded_completes_again_without_training(context: StudyContext, tmp_path: Path) -> None:
    first, _ = run(context, order(tmp_path, PLAIN))
    again, control = run(context, order(tmp_path, PLAIN))
    assert [message.kind for message in control.told] == ["resumed"]
    assert (again.ending, again.value, again.best_step) == (Ending.COMPLETED, first.value, first.best_step)
    assert weights(again.weights, context)


def test_weights_wait_for_disk_space(context: StudyContext, tmp_path: Path, room: ExitStack) -> None:
    full = Full(room, "for free space")
    finished, _ = run(context, order(tmp_path, PLAIN), full)
    assert finished.ending is Ending.COMPLETED
    assert weights(finished.weights, context)
    assert kept(tmp_path) == ["confusion.png", "logits.npz", "mistakes.jpg", "weights.npz"]
    _, told = full.troubles
    assert told.startswith("cannot write the weights (")
    assert told.endswith("; the trial waits up to 10 minutes for free space")


def test_a_trial_completes_without_weights_if_the_disk_stays_full(context: StudyContext, tmp_path: Path, room: ExitStack) -> None:
    calm, _ = run(context, order(tmp_path / "calm", PLAIN))
    full = Full(room, "it is never heard")
    finished, _ = run(context, order(tmp_path / "full", PLAIN), full, timing=replace(EAGER, disk_seconds=0.2, busy_seconds=0.05))
    assert (finished.ending, finished.value, finished.weights) == (Ending.COMPLETED, calm.value, None)
    assert kept(tmp_path / "full") == []
    assert full.troubles[-1].endswith("; the trial ends without weights and cannot be scored on the test images")
    assert any(isinstance(message, messages.Busy) for message in full.told)


def test_a_worker_that_suspends_does_not_wait_for_disk_space(context: StudyContext, tmp_path: Path, room: ExitStack) -> None:
    class Leaving(Full):
        def interruption(self) -> messages.Stop | messages.Suspend | None:
            return messages.Suspend() if any("for free space" in trouble for trouble in self.troubles) else None

    finished, _ = run(context, order(tmp_path, PLAIN), Leaving(room, "it is never heard"))
    assert (finished.ending, finished.weights) == (Ending.COMPLETED, None)
    assert finished.value is not None
    assert kept(tmp_path) == []


def test_on_a_full_disk_a_checkpoint_is_deleted_to_write_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = checkpoints.write_weights

    def write_if_it_is_gone(path: Path, *arguments: object, study: str) -> None:
        if (tmp_path / "checkpoint").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, *arguments, study=study)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoints, "write_weights", write_if_it_is_gone)
    (tmp_path / "checkpoint").touch()
    control = Control()
    found = checkpoints.TrialFiles(order(tmp_path, PLAIN), control, study="small").write_weights([np.ones(3, np.float32)])
    assert found == str(tmp_path / "weights.npz")
    assert (kept(tmp_path), control.told) == (["weights.npz"], [])


def test_unfinished_files_of_a_killed_trainer_are_deleted_when_the_trial_ends(tmp_path: Path) -> None:
    trained = order(tmp_path, PLAIN)
    for name in ("checkpoint", "checkpoint.4711.part", "weights.npz.4711.part"):
        (tmp_path / name).touch()
    checkpoints.TrialFiles(trained, Control(), study="small").clear()
    assert kept(tmp_path) == []


def test_a_trainer_process_waits_for_disk_space_and_continues(trainer: child.Child, tmp_path: Path, room: ExitStack) -> None:
    calm = trainer.train(tmp_path / "calm", PLAIN)
    room.enter_context(disks.capped(LITTLE, pid=trainer.process.pid))

    def make_room(message: messages.Message) -> messages.Message | None:
        if isinstance(message, messages.TrialWarning):
            room.close()
        return child.go_on(message)

    full = trainer.train(tmp_path / "full", PLAIN, answer=make_room)
    assert [message.kind for message in full.told][-2:] == ["trouble", "finished"]
    assert full.finished.value == calm.finished.value
    assert kept(tmp_path / "full") == ["confusion.png", "logits.npz", "mistakes.jpg", "weights-0.npz"]
