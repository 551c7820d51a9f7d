"""Classes of KerasTuner's form with a `fit` of their own: what an interrupted training resumes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.custom.training.test_custom import CODE, EAGER, Control, order, prepare  # noqa: F401 -- a fixture
from tuner.errors import TrainingError
from tuner.protocol.messages import Ending
from tuner.tasks.custom.training.custom import PreparedCode
from tuner.tasks.custom.training.fitting import CheckpointTiming

PASSES_ON = """
class Mine:
    def build(self, hp):
        return build(hp)

    def fit(self, hp, model, *args, **kwargs):
        return model.fit(*args, batch_size=hp.Choice("batch", [16, 32]), shuffle=False, **kwargs)
"""
LOOP = """
class Mine:
    def build(self, hp):
        return build(hp)

    def fit(self, hp, model, x, y, validation_data, callbacks, epochs, verbose):
        for callback in callbacks:
            callback.set_model(model)
        for epoch in range(epochs):
            model.train_on_batch(x, y)
            error = model.evaluate(*validation_data, verbose=0, return_dict=True)["mae"]
            for callback in callbacks:
                callback.on_epoch_end(epoch, logs={"val_mae": error})
        return error
"""
SECTIONS = {"model": {"build": "mine0.py:Mine"}}
BRIEF: dict[str, Any] = SECTIONS | {"training": {"epochs": 1, "batch_size": 16}}


def trained(ready: PreparedCode, place: Path, number: int, *, suspend_after: int | None = None) -> tuple[Ending, Control]:
    """Train a trial, or continue it."""
    control = Control(learning_rate=0.01, batch=16, suspend_after=suspend_after)
    ready.timing = CheckpointTiming(share=1e9)  # these epochs are shorter than a checkpoint is worth
    wanted = order(place, number).model_copy(update={"seed": 7})
    return ready.train(wanted, control).ending, control


def test_a_fit_that_passes_its_arguments_on_resumes_with_the_same_curve(
    prepare: Callable[..., PreparedCode],  # noqa: F811
    tmp_path: Path,
) -> None:
    ready = prepare(CODE + PASSES_ON, **SECTIONS)
    _, whole = trained(ready, tmp_path, 0)
    assert len(whole.values) == 5
    assert trained(ready, tmp_path, 1, suspend_after=2)[0] is Ending.SUSPENDED
    ending, rest = trained(ready, tmp_path, 1)
    assert ending is Ending.COMPLETED
    assert [epoch.step for epoch in rest.epochs] == [3, 4, 5]
    assert rest.values == pytest.approx(whole.values[2:], rel=1e-5)


def test_a_loop_of_its_own_begins_anew(
    prepare: Callable[..., PreparedCode],  # noqa: F811
    tmp_path: Path,
) -> None:
    ready = prepare(EAGER + LOOP, **SECTIONS)
    _, whole = trained(ready, tmp_path, 0)
    trained(ready, tmp_path, 1, suspend_after=2)
    ending, again = trained(ready, tmp_path, 1)
    assert ending is Ending.COMPLETED
    assert [epoch.step for epoch in again.epochs] == [1, 2, 3, 4, 5]
    assert again.values == pytest.approx(whole.values, rel=1e-5)


@pytest.mark.parametrize("given", ["np.float32(0.25)", "{'val_mae': np.float32(0.25), 'other': 3}", "np.array(0.25)"])
def test_a_number_that_fit_returns_is_the_value(
    prepare: Callable[..., PreparedCode],  # noqa: F811
    tmp_path: Path,
    given: str,
) -> None:
    ready = prepare(EAGER + LOOP.replace("return error", f"return {given}"), **BRIEF)
    finished = ready.train(order(tmp_path, 0), Control(learning_rate=0.01))
    assert (finished.ending, finished.value) == (Ending.COMPLETED, 0.25)


def test_nan_that_fit_returns_ends_the_trial_with_its_reason(
    prepare: Callable[..., PreparedCode],  # noqa: F811
    tmp_path: Path,
) -> None:
    ready = prepare(EAGER + LOOP.replace("return error", "return float('nan')"), **BRIEF)
    finished = ready.train(order(tmp_path, 0), Control(learning_rate=0.01))
    assert (finished.ending, finished.value, finished.reason) == (Ending.NOT_FINITE, None, "fit returned nan")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("[0.25]", r"fit returned \[0.25\]; expected a number, a dict with val_mae, a History or None"),
        ("{'loss': 1.0}", "fit returned loss, but objective.metric is val_mae; return it, too"),
        ("'good'", "fit returned 'good'; expected a number"),
    ],
)
def test_something_else_that_fit_returns_is_refused(
    prepare: Callable[..., PreparedCode],  # noqa: F811
    tmp_path: Path,
    given: str,
    message: str,
) -> None:
    ready = prepare(EAGER + LOOP.replace("return error", f"return {given}"), **BRIEF)
    with pytest.raises(TrainingError, match=message):
        ready.train(order(tmp_path, 0), Control(learning_rate=0.01))
