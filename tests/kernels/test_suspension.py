"""A trial in the middle of its fine-tuning, to a file and back."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuner import errors
from tuner.kernels import checkpoints
from tuner.protocol import messages
from tuner.spec.hyperparameters import Hyperparameters
from tuner.trust import age, at_rest, keys

ORDER = messages.Train(trial=1, hyperparameters=Hyperparameters(), seed=5, weights="w", checkpoint="c")


def epoch(step: int) -> messages.Epoch:
    return messages.Epoch(
        trial=1, stage=messages.Stage.FINE_TUNE, step=step, loss=float("inf"), accuracy=0.1, validation_loss=1 / 3,
        validation_accuracy=0.75, learning_rate=1e-4, seconds=1.5,
    )  # fmt: skip


def suspended() -> checkpoints.Suspended:
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
    return checkpoints.Suspended(progress=progress, state=state, best=(np.eye(2, dtype=np.float32),))


def test_a_trial_is_read_as_it_was_written(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "new" / "c", suspended())
    found = checkpoints.read(tmp_path / "new" / "c", ORDER, study="animals")
    assert found is not None
    assert found.progress == suspended().progress
    assert [value.tolist() for value in found.state] == [[number] * (number + 1) for number in range(12)]
    assert [value.tolist() for value in found.best] == [[[1, 0], [0, 1]]]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["c"]


def test_a_file_of_a_version_that_kept_no_curve_is_read(tmp_path: Path) -> None:
    older = json.dumps(suspended().progress.model_dump(mode="json", exclude={"curve"}))
    checkpoints.write_arrays(tmp_path / "c", {"progress": np.array(older), "state0": np.zeros(1), "best0": np.zeros(1)})
    found = checkpoints.read(tmp_path / "c", ORDER, study="animals")
    assert found is not None
    assert (found.progress.epochs, found.progress.curve) == (2, ())


def test_there_is_none_where_there_is_no_file(tmp_path: Path) -> None:
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
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    checkpoints.write(tmp_path / "c", suspended())
    (tmp_path / "c").write_bytes(damage((tmp_path / "c").read_bytes()))
    assert checkpoints.read(tmp_path / "c", ORDER, study="animals") is None


def test_a_file_of_other_arrays_is_as_good_as_none(tmp_path: Path) -> None:
    checkpoints.write_arrays(tmp_path / "c", {"a": np.zeros(3)})
    assert checkpoints.read(tmp_path / "c", ORDER, study="animals") is None


@pytest.mark.parametrize("other", [{"seed": 6}, {"hyperparameters": Hyperparameters(learning_rate=1e-5)}])
def test_another_trial_does_not_take_it_up(tmp_path: Path, other: dict[str, Any]) -> None:
    checkpoints.write(tmp_path / "c", suspended())
    assert checkpoints.read(tmp_path / "c", ORDER.model_copy(update=other), study="animals") is None


def test_another_study_does_not_take_it_up(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "c", suspended())
    assert checkpoints.read(tmp_path / "c", ORDER, study="birds") is None


def test_weights_are_read_as_they_were_written_and_by_no_other_study(tmp_path: Path) -> None:
    checkpoints.write_weights(tmp_path / "w.npz", [np.full((number + 1,), number, np.float32) for number in range(12)], study="animals")
    found = checkpoints.read_weights(tmp_path / "w.npz", study="animals")
    assert [value.tolist() for value in found] == [[number] * (number + 1) for number in range(12)]
    with pytest.raises(errors.DataError, match="weights of a study with other images or another model"):
        checkpoints.read_weights(tmp_path / "w.npz", study="birds")


def test_a_write_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
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


def test_an_encrypted_checkpoint_is_not_taken_for_a_missing_one_where_the_key_is_missing(
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
