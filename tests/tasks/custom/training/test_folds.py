"""Folds of small data: how the examples are divided, the value of a trial, its epochs, and what an interruption changes."""

import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.tasks.custom.training.test_custom import EAGER, Control, order, prepare  # noqa: F401 -- a fixture
from tuner.errors import DataError
from tuner.kernels import checkpoints
from tuner.protocol import messages
from tuner.protocol.messages import Ending
from tuner.spec.hyperparameters import ChosenValues
from tuner.tasks.custom.spec.custom_study import Validation
from tuner.tasks.custom.training import folds, inputs
from tuner.tasks.custom.training.custom import PreparedCode

Prepare = Callable[..., PreparedCode]
#: the data function of EAGER, without a validation split
UNDIVIDED = EAGER.replace(
    "return (x[:64], y[:64]), (x[64:80], y[64:80]), (x[80:], y[80:])", "return {'train': (x[:60], y[:60]), 'test': (x[80:], y[80:])}"
)
TRAINING = {"epochs": 3, "batch_size": 20}
EXAMPLES = np.arange(60, dtype="float32").reshape(30, 2)


def divided(y: Any, groups: Any = None, *, seed: int = 0, **section: Any) -> inputs.LoadedData:
    given = {"train": (EXAMPLES[: len(y)], y)} | ({} if groups is None else {"groups": groups})
    return folds.divide(inputs.read_undivided(given), Validation(**{"folds": 5, **section}), seed=seed)


def of(data: inputs.LoadedData) -> NDArray[np.int64]:
    assert data.folds is not None
    return data.folds


NUMBERS = np.linspace(0, 1, 30)
CLASSES = np.array(["a"] * 20 + ["b"] * 10)


@pytest.mark.parametrize(
    "labels",
    [
        CLASSES,
        CLASSES == "b",
        (CLASSES == "b").astype("float32"),
        (CLASSES == "b").astype(int).reshape(-1, 1),
        np.eye(2)[(CLASSES == "b").astype(int)],
        np.array(CLASSES.tolist(), dtype=object),
    ],
    ids=["text", "bool", "float", "column", "one-hot", "objects"],
)
def test_each_class_has_the_same_share_in_every_fold(labels: NDArray[Any]) -> None:
    data = divided(labels)
    assert [Counter(CLASSES[of(data) == fold].tolist()) for fold in range(5)] == [{"a": 4, "b": 2}] * 5
    assert data.words_of_folds == "5 folds of about 6 of 30 examples, with the same shares of 2 classes"


@pytest.mark.parametrize(
    "y", [NUMBERS, np.arange(30), np.ones((30, 2)), NUMBERS.reshape(-1, 1)], ids=["floats", "counts", "rows", "column"]
)
def test_folds_of_numbers_have_equal_sizes(y: NDArray[Any]) -> None:
    data = divided(y, folds=4)
    assert sorted(Counter(of(data).tolist()).values()) == [7, 7, 8, 8]
    assert data.words_of_folds == "4 folds of about 7 of 30 examples"


def test_examples_of_a_group_are_in_one_fold() -> None:
    groups = np.array([f"patient {number % 11}" for number in range(30)])
    data = divided(NUMBERS, groups)
    assert all(len(set(of(data)[groups == group])) == 1 for group in groups)
    assert all(4 <= size <= 8 for size in Counter(of(data).tolist()).values())
    assert data.words_of_folds.endswith("11 groups kept whole")


def test_groups_and_classes_are_respected_together() -> None:
    groups = np.arange(30) // 2
    data = divided(CLASSES, groups)
    assert all(len(set(of(data)[groups == group])) == 1 for group in groups)
    assert [Counter(CLASSES[of(data) == fold].tolist()) for fold in range(5)] == [{"a": 4, "b": 2}] * 5


def test_the_seed_alone_decides_the_folds() -> None:
    assert (of(divided(CLASSES, seed=1)) == of(divided(CLASSES, seed=1))).all()
    assert (of(divided(CLASSES, seed=1)) != of(divided(CLASSES, seed=2))).any()


def test_each_example_validates_once_and_test_examples_never() -> None:
    test = (EXAMPLES + 1000, NUMBERS)
    data = folds.divide(inputs.read_undivided({"train": (EXAMPLES, NUMBERS), "test": test}), Validation(folds=5), seed=3)
    seen: list[float] = []
    for number in range(5):
        part = data.of_fold(number)
        train, validation = (set(one.arrays[0][:, 0].tolist()) for one in (part.train, part.validation) if one.arrays is not None)
        assert not train & validation
        assert train | validation == set(EXAMPLES[:, 0].tolist())
        assert part.test is data.test
        seen += validation
    assert sorted(seen) == EXAMPLES[:, 0].tolist()


def test_nested_inputs_and_weights_are_divided_alike() -> None:
    given = {"train": ({"a": EXAMPLES, "b": (EXAMPLES[:, :1], EXAMPLES[:, 1:])}, {"y": NUMBERS, "z": NUMBERS}, NUMBERS)}
    part = folds.divide(inputs.read_undivided(given), Validation(folds=3), seed=0).of_fold(2)
    assert part.validation.arrays is not None
    x, y, weights = part.validation.arrays
    assert x["b"][0][:, 0].tolist() == x["a"][:, 0].tolist()
    assert y["z"].tolist() == weights.tolist() == y["y"].tolist()


MISTAKES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "a small class": (
        {"train": (EXAMPLES, ["a"] * 27 + ["b"] * 3)},
        {},
        "validation.folds is 5, but the class b has only 3 examples, so that a fold would be without it; give at most 3 folds",
    ),
    "a single example": ({"train": (EXAMPLES, ["a"] * 29 + ["b"])}, {}, "the class b has only 1 example, so that a fold would be without"),
    "few examples": ({"train": (EXAMPLES[:4], NUMBERS[:4])}, {}, "the data have only 4 examples; at most 4 folds are possible"),
    "few groups": (
        {"train": (EXAMPLES, NUMBERS), "groups": [0, 1, 2] * 10},
        {},
        "the data have only 3 groups; at most 3 folds are possible",
    ),
    "a class in one group": (
        {"train": (EXAMPLES, CLASSES), "groups": [*range(20), *[20] * 10]},
        {},
        "would have no example of the class b, because its examples belong to few groups; give fewer folds",
    ),
    "groups of another length": (
        {"train": (EXAMPLES, NUMBERS), "groups": [1, 2]},
        {},
        "groups of the form \\(2,\\) int64; expected one for each of 30 examples",
    ),
    "a validation split": (
        {"train": (EXAMPLES, NUMBERS), "validation": (EXAMPLES, NUMBERS)},
        {},
        "returned a validation split, but the study has validation.folds: each fold validates once. Return these examples as part of train",
    ),
    "a tuple": (
        ((EXAMPLES, NUMBERS), (EXAMPLES, NUMBERS)),
        {},
        "returned a tuple of 2, which may have a validation split; with validation.fo",
    ),
    "an unknown split": (
        {"train": (EXAMPLES, NUMBERS), "tset": 1},
        {},
        "returned a dict with train, tset; with validation.folds, return {'tr",
    ),
    "no train": ({"test": (EXAMPLES, NUMBERS)}, {}, "returned a dict with test; with validation.folds, return"),
}


@pytest.mark.parametrize(("given", "section", "message"), MISTAKES.values(), ids=MISTAKES)
def test_data_that_cannot_be_divided_are_refused(given: Any, section: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        folds.divide(inputs.read_undivided(given), Validation(**{"folds": 5, **section}), seed=0)


def test_a_data_set_cannot_be_divided() -> None:
    import tensorflow as tf

    with pytest.raises(DataError, match=r"Dataset as train, which cannot be divided into folds; return arrays, for example x, y = map\("):
        inputs.read_undivided({"train": tf.data.Dataset.range(10).batch(2)})


def test_a_small_class_is_divided_if_the_file_says_so() -> None:
    data = divided(np.array(["a"] * 27 + ["b"] * 3), stratify="never")
    assert sorted(Counter(of(data).tolist()).values()) == [6] * 5


def test_the_value_of_a_trial_is_the_mean_over_the_folds(prepare: Prepare, tmp_path: Path) -> None:  # noqa: F811
    ready = prepare(UNDIVIDED, training=TRAINING, validation={"folds": 3})
    told = ready.describe(seconds=1.0)
    assert (told.num_train, told.num_validation, told.num_test) == (60, 0, 16)
    assert len(told.splits) == 64
    control = Control(learning_rate=0.03)
    finished = ready.train(order(tmp_path), control)
    assert finished.ending is Ending.COMPLETED
    raw = [[epoch.metrics["val_mae"] for epoch in control.epochs[3 * fold : 3 * fold + 3]] for fold in range(3)]
    bests = [min(values) for values in raw]
    assert finished.value == pytest.approx(statistics.fmean(bests))
    assert finished.attributes == {
        "folds": pytest.approx(bests),
        "standard_deviation": pytest.approx(statistics.stdev(bests)),
        "best_epochs": [1 + values.index(best) for values, best in zip(raw, bests, strict=True)],
    }
    assert finished.metrics["val_mae"] == pytest.approx(finished.value)
    assert (finished.weights, finished.best_step) == (None, None)
    # an epoch tells the mean over the folds so far, each with its best epoch so far
    expected = [statistics.fmean([*bests[:fold], min(raw[fold][: epoch + 1])]) for fold in range(3) for epoch in range(3)]
    assert control.values == pytest.approx(expected)
    assert [epoch.step for epoch in control.epochs] == list(range(1, 10))
    assert control.values[-1] == pytest.approx(finished.value)


def test_the_folds_are_shown_when_the_code_is_tried(prepare: Prepare) -> None:  # noqa: F811
    facts = dict(prepare(UNDIVIDED, training=TRAINING, validation={"folds": 3}).try_once())
    assert facts["folds"] == "3 folds of about 20 of 60 examples"
    assert "validation" not in facts


def test_a_trial_that_was_suspended_in_a_fold_ends_with_the_same_result(prepare: Prepare, tmp_path: Path) -> None:  # noqa: F811
    ready = prepare(UNDIVIDED, training=TRAINING, validation={"folds": 3})
    whole = Control(learning_rate=0.03)
    uninterrupted = ready.train(order(tmp_path, 0), whole)
    for after in (1, 3, 8):  # in the first fold, at its end, and in the last one
        first, second = Control(learning_rate=0.03, suspend_after=after), Control(learning_rate=0.03)
        wanted = order(tmp_path, after).model_copy(update={"seed": 7})
        assert ready.train(wanted, first).ending is Ending.SUSPENDED
        resumed = ready.train(wanted, second)
        told = next(message for message in second.told if isinstance(message, messages.Resumed))
        assert len(told.curve) >= after - 1  # at most one epoch is repeated
        assert [epoch.measured for epoch in told.curve] + second.values == pytest.approx(whole.values, abs=1e-6)
        assert [epoch.step for epoch in (*told.curve, *second.epochs)] == list(range(1, 10))
        assert resumed.value == pytest.approx(uninterrupted.value, abs=1e-6)
        assert resumed.attributes["best_epochs"] == uninterrupted.attributes["best_epochs"]
        assert resumed.metrics == pytest.approx(uninterrupted.metrics, abs=1e-6)


def test_a_resumed_trial_of_several_trainings_keeps_the_weights_of_the_best(prepare: Prepare, tmp_path: Path) -> None:  # noqa: F811
    ready = prepare(EAGER, training={"epochs": 2, "batch_size": 16, "executions": 3})
    uninterrupted = ready.train(order(tmp_path, 0), Control(learning_rate=0.03))
    values = uninterrupted.attributes["executions"]
    best = values.index(min(values))
    wanted = order(tmp_path, 1).model_copy(update={"seed": 7})
    ready.train(wanted, Control(learning_rate=0.03, suspend_after=2 * best + 3 if best < 2 else 5))
    resumed = ready.train(wanted, Control(learning_rate=0.03))
    assert resumed.best_step == uninterrupted.best_step
    assert uninterrupted.weights is not None
    assert resumed.weights is not None
    identity = str(np.load(uninterrupted.weights)["study"])
    before, after = (checkpoints.read_weights(Path(path), study=identity) for path in (uninterrupted.weights, resumed.weights))
    assert all(np.allclose(one, other, atol=1e-6) for one, other in zip(before, after, strict=True))


def test_a_training_that_had_stopped_early_is_not_trained_further(prepare: Prepare, tmp_path: Path) -> None:  # noqa: F811
    training = {"epochs": 30, "batch_size": 16, "early_stopping": {"patience": 1, "min_delta": 0.5}}
    ready = prepare(UNDIVIDED, training=training, validation={"folds": 2})
    whole = Control(learning_rate=0.001)
    uninterrupted = ready.train(order(tmp_path, 0), whole)
    assert [epoch.step for epoch in whole.epochs] == [1, 2, 31, 32]
    wanted = order(tmp_path, 1).model_copy(update={"seed": 7})
    ready.train(wanted, Control(learning_rate=0.001, suspend_after=2))
    again = Control(learning_rate=0.001)
    resumed = ready.train(wanted, again)
    told = next(message for message in again.told if isinstance(message, messages.Resumed))
    assert [epoch.step for epoch in (*told.curve, *again.epochs)] == [1, 2, 31, 32]
    assert resumed.value == pytest.approx(uninterrupted.value, abs=1e-6)


def test_a_stopped_trial_has_the_mean_so_far(prepare: Prepare, tmp_path: Path) -> None:  # noqa: F811
    ready = prepare(UNDIVIDED, training=TRAINING, validation={"folds": 3})
    control = Control(learning_rate=0.03)
    control.interruption = lambda: messages.Stop() if len(control.epochs) >= 5 else None  # type: ignore[method-assign]
    finished = ready.train(order(tmp_path), control)
    assert finished.ending is Ending.STOPPED
    assert finished.value == control.values[-1]
    assert finished.attributes == {}


def test_the_final_model_is_trained_on_all_examples_and_keeps_its_last_epoch(prepare: Prepare, tmp_path: Path) -> None:  # noqa: F811
    final = {"validation": {"folds": 3, "train_on": "all"}, "result": {}, "search": {"epochs": [50, 60]}}
    ready = prepare(UNDIVIDED, training={**TRAINING, "early_stopping": {"patience": 1, "min_delta": 9}}, **final)
    assert ready.describe(seconds=1.0).splits == ""
    control = Control(learning_rate=0.1)
    finished = ready.train(order(tmp_path, epochs=55), control)
    assert len(control.epochs) == 3  # those of the file
    assert (finished.best_step, finished.value) == (3, control.values[-1])
    assert finished.weights is not None
    target = tmp_path / "predicted.npz"
    chosen = ChosenValues(values={"learning_rate": 0.1, "epochs": 55})
    asked = {"trial": 0, "hyperparameters": chosen}
    ready.predict(messages.Predict(**asked, weights=(finished.weights,), splits=("test",), to=str(target)))
    with np.load(target) as arrays:
        error = float(np.abs(arrays["test"] - arrays["test_labels"]).mean())
    scored = ready.evaluate(messages.Evaluate(**asked, weights=finished.weights))
    assert scored.value == pytest.approx(error, abs=1e-5)
    assert scored.num_images == 16
