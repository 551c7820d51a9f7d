"""Values that user code asks for, with the interface of KerasTuner's `HyperParameters`."""

from typing import Any

import numpy as np
import pytest

from tuner.errors import TrainingError
from tuner.protocol import messages
from tuner.spec.hyperparameters import ChosenValues
from tuner.tasks.custom.running.values import AskedValues, HyperParameters


class Answers:
    """A worker that answers each question with the last possible value, and remembers the questions."""

    def __init__(self) -> None:
        self.asked: list[messages.Ask] = []

    def send(self, message: messages.Message) -> None:
        """Drop a report."""

    def interruption(self) -> None:
        """Return nothing: nobody ends the trial."""

    def decision(self) -> messages.Proceed:
        """Return that the trial continues."""
        return messages.Proceed()

    def ask(self, question: messages.Ask | messages.AskPruning) -> messages.Answer:
        """Return the last value."""
        assert isinstance(question, messages.Ask)
        self.asked.append(question)
        last = question.choices[-1] if question.high is None else question.high
        return messages.Answer(value=int(last) if question.integer and isinstance(last, int | float) else last)


def opened(**declared: Any) -> tuple[HyperParameters, Answers]:
    """Return the hyperparameters of a trial, whose study file declares some; None: it declares one that does not act."""
    worker, chosen = Answers(), {name: value for name, value in declared.items() if value is not None}
    order = messages.Train(trial=0, hyperparameters=ChosenValues(values=chosen), seed=0, weights="", checkpoint="")
    return HyperParameters(AskedValues(order, worker, declared=frozenset(declared))), worker


@pytest.mark.parametrize(
    ("arguments", "choices"),
    [
        ((32, 512, 2, "log"), (32, 64, 128, 256, 512)),
        ((1, 1000, 10, "log"), (1, 10, 100, 1000)),
        ((10, 90, 3, "log"), (10, 30, 90)),
        ((7, 7, 2, "log"), (7,)),
    ],
)
def test_a_step_on_a_logarithmic_scale_is_a_factor(arguments: tuple[Any, ...], choices: tuple[int, ...]) -> None:
    hp, worker = opened()
    assert hp.Int("units", *arguments) == choices[-1]
    assert worker.asked[0].choices == choices


def test_a_factor_of_numbers_reaches_the_upper_end() -> None:
    hp, worker = opened()
    hp.Float("rate", 1e-4, 1e-1, step=10, sampling="log")
    assert worker.asked[0].choices == pytest.approx((1e-4, 1e-3, 1e-2, 1e-1))


@pytest.mark.parametrize(
    ("low", "high", "step", "last"), [(32, 500, 32, 480), (0, 10, 2, 10), (0.0, 1.0, 0.3, 0.9), (0.1, 0.5, 0.1, 0.5), (0.0, 0.9, 0.3, 0.9)]
)
def test_a_range_ends_at_the_last_value_that_its_steps_reach(low: float, high: float, step: float, last: float) -> None:
    hp, worker = opened()
    number = hp.Int("x", int(low), int(high), step=int(step)) if isinstance(low, int) else hp.Float("x", low, high, step=step)
    assert number == last
    assert (worker.asked[0].high, worker.asked[0].step) == (last, step)


def test_a_name_is_asked_for_once_and_then_known() -> None:
    hp, worker = opened()
    assert "units" not in hp
    assert hp.Int("units", 1, 8) == hp.Int("units", 1, 8) == hp.get("units") == hp["units"] == 8
    assert "units" in hp
    assert len(worker.asked) == 1


@pytest.mark.parametrize("question", [("Int", 1, 8), ("Float", 0.5, 1.0), ("Choice", ["a", "b"]), ("Boolean",), ("Fixed", 3)])
def test_every_kind_of_value_is_known_afterwards(question: tuple[Any, ...]) -> None:
    hp, _ = opened()
    kind, *arguments = question
    value = getattr(hp, kind)("x", *arguments)
    assert "x" in hp
    assert hp.get("x") == value
    assert hp.values == {"x": value}


def test_a_block_without_its_condition_gives_defaults_and_asks_nothing() -> None:
    hp, worker = opened()
    kind = hp.Choice("kind", ["mlp", "cnn"])
    assert kind == "cnn"
    with hp.conditional_scope("kind", ["mlp"]):
        assert hp.Int("layers", 1, 4) == 1
        assert hp.Int("width", 8, 64, default=16) == 16
        assert hp.Boolean("bias") is False
        assert hp.Fixed("depth", 3) == 3
        with hp.conditional_scope("layers", [1]):
            assert hp.Float("rate", 0.1, 0.5) == 0.1
    with hp.conditional_scope("kind", ["cnn"]):
        assert hp.Int("filters", 4, 32) == 32
        assert hp.Float("pool", 0.0, 1.0, parent_name="filters", parent_values=[32]) == 1.0
    assert [question.name for question in worker.asked] == ["kind", "filters", "pool"]
    assert "layers" not in hp
    assert "depth" not in hp
    with pytest.raises(ValueError, match="layers does not act in this trial, because its condition does not hold"):
        hp.get("layers")


def test_true_is_not_one_in_a_condition() -> None:
    hp, _ = opened()
    hp.Boolean("on")
    assert hp.Int("x", 1, 8, parent_name="on", parent_values=[1]) == 1
    assert hp.Int("y", 1, 8, parent_name="on", parent_values=[True]) == 8


def test_a_condition_on_an_unknown_name_is_refused() -> None:
    hp, _ = opened()
    message = "a hyperparameter depends on knd, which the code has not asked for yet; ask for knd first"
    with pytest.raises(ValueError, match=message), hp.conditional_scope("knd", ["a"]):
        pass
    with pytest.raises(ValueError, match=message):
        hp.Int("x", 1, 2, parent_name="knd", parent_values="a")


def test_a_name_scope_stands_before_the_names() -> None:
    hp, worker = opened()
    with hp.name_scope("encoder"):
        hp.Int("units", 1, 8)
        with hp.name_scope("inner"):
            hp.Choice("kind", ["a", "b"])
        assert hp.get("units") == 8
    assert [question.name for question in worker.asked] == ["encoder/units", "encoder/inner/kind"]
    assert "units" not in hp


def test_the_study_file_overrides_what_the_code_asks_for() -> None:
    hp, worker = opened(units=5, rate=0.9, depth=2, momentum=None)
    assert hp.Int("units", 32, 512) == 5
    assert hp.Float("rate", 0.5, 0.95, sampling="reverse_log") == 0.9
    assert hp.Fixed("depth", 3) == 2
    assert not worker.asked
    with pytest.raises(TrainingError, match="the code asks for momentum, which does not act in this trial: its condition in the section"):
        hp.Float("momentum", 0.0, 0.9)


def test_a_value_of_the_study_file_that_is_no_number_is_refused() -> None:
    hp, _ = opened(units="many", rate=True, layers=2.5)
    for ask, message in (
        (lambda: hp.Int("units", 1, 8), "the study file gives units the value 'many'; the code asks for a whole number"),
        (lambda: hp.Float("rate", 0.0, 1.0), "the study file gives rate the value true; the code asks for a number"),
        (lambda: hp.Int("layers", 1, 8), "the study file gives layers the value 2.5; the code asks for a whole number"),
    ):
        with pytest.raises(TrainingError, match=message):
            ask()


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("Float", {"min_value": 0.5, "max_value": 0.99, "sampling": "reverse_log"}, "x has sampling reverse_log, which Optuna's samplers"),
        ("Int", {"min_value": 1, "max_value": 8, "sampling": "cubic"}, "x has sampling 'cubic'; expected linear, log or reverse_log"),
        ("Int", {"min_value": 8, "max_value": 1}, r"x has the range \[8, 1\], but the lower end comes first"),
        ("Int", {"min_value": 1.5, "max_value": 4}, r"x has the range \[1.5, 4\]; expected whole numbers"),
        ("Int", {"min_value": 0, "max_value": 8, "sampling": "log"}, "x has a range that starts at 0, which a logarithmic scale does not"),
        ("Int", {"min_value": 1, "max_value": 8, "step": 1, "sampling": "log"}, "x has step 1 on a logarithmic scale from 1; expected a"),
        ("Int", {"min_value": 1, "max_value": 8, "step": 0}, "x has step 0; expected a number above 0"),
        ("Int", {"min_value": 1, "max_value": 8, "default": 9}, r"x has the default 9, which is not in the range \[1, 8\]"),
        ("Choice", {"values": ["a", "b"], "default": "c"}, "x has the default 'c', which is not among 'a', 'b'"),
        ("Choice", {"values": []}, "x has no choices"),
        ("Choice", {"values": [("a", 1)]}, "x has the choice"),
        ("Choice", {"values": [1.0, float("inf")]}, "x has the choice inf, which no database can hold; use None or a text"),
        ("Float", {"min_value": 0.0, "max_value": float("nan")}, "expected two numbers"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(kind: str, arguments: dict[str, Any], message: str) -> None:
    hp, _ = opened()
    with pytest.raises(ValueError, match=message):
        getattr(hp, kind)("x", **arguments)


def test_a_name_that_is_asked_for_with_other_values_is_refused() -> None:
    hp, _ = opened()
    hp.Int("units", 1, 8)
    with pytest.raises(TrainingError, match="the code asks twice for units"):
        hp.Int("units", 1, 9)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    hp, _ = opened(units=5)
    with pytest.raises(KeyError, match=r"there is no hyperparameter unit. Known: units. Did you mean units\?"):
        hp.get("unit")


def test_numbers_of_numpy_are_taken() -> None:
    hp, worker = opened()
    low: Any = np.int64(1)
    high: Any = np.int32(5)
    assert hp.Int("k", low, high) == 5
    low, high = np.float32(0.5), np.float64(1.5)
    assert hp.Float("rate", low, high) == 1.5
    assert hp.Choice("units", list(np.array([8, 16]))) == 16
    assert (worker.asked[0].low, worker.asked[0].high) == (1, 5)
    assert [type(value) for value in worker.asked[2].choices] == [int, int]


@pytest.mark.parametrize("name", ["", "x" * 513, "a\0b", "half \ud800", 3])
def test_a_name_that_no_database_can_hold_is_refused(name: Any) -> None:
    hp, _ = opened()
    with pytest.raises(ValueError, match="a hyperparameter has the name .*; expected a text of at most 512 characters"):
        hp.Int(name, 1, 8)


def test_a_declared_value_that_does_not_act_is_refused_as_such() -> None:
    hp, _ = opened(optimizer="adam", momentum=None)
    with pytest.raises(ValueError, match="momentum does not act in this trial, because its condition does not hold"):
        hp["momentum"]
    assert "momentum" not in hp
