"""Positions of sampled values on the axis of their parameter."""

from datetime import datetime
from typing import Any

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from tests.studies import by_hand
from tuner.report import diagrams

SWITCH = CategoricalDistribution([True, False])


def trial(number: int, **params: tuple[Any, BaseDistribution]) -> FrozenTrial:
    return FrozenTrial(
        number=number, trial_id=number, state=TrialState.COMPLETE, value=0.5, values=None, datetime_start=datetime(2026, 1, 1),
        datetime_complete=datetime(2026, 1, 2), params={name: value for name, (value, _) in params.items()},
        distributions={name: distribution for name, (_, distribution) in params.items()}, user_attrs={}, system_attrs={},
        intermediate_values={},
    )  # fmt: skip


def of(*trials: FrozenTrial) -> diagrams.Axis:
    (found,) = diagrams.axes(trials, by_hand.spec())
    return found


def test_a_number_lies_between_the_ends_of_its_range() -> None:
    dropout = FloatDistribution(0.0, 0.5)
    axis = of(trial(0, dropout=(0.0, dropout)), trial(1, dropout=(0.25, dropout)), trial(2, dropout=(0.5, dropout)))
    assert axis.positions == {0: 0.0, 1: 0.5, 2: 1.0}
    assert axis.ends == ("0", "0.5")


def test_a_logarithmic_range_has_a_logarithmic_axis() -> None:
    rate = FloatDistribution(1e-4, 1e-2, log=True)
    axis = of(trial(0, rate=(1e-4, rate)), trial(1, rate=(1e-3, rate)))
    assert axis.positions == {0: 0.0, 1: pytest.approx(0.5)}
    assert axis.is_log


def test_off_lies_beside_the_range() -> None:
    decay = FloatDistribution(1e-4, 1e-2, log=True)
    axis = of(
        trial(0, **{"decay.on": (False, SWITCH)}), trial(1, **{"decay.on": (True, SWITCH), "decay": (1e-4, decay)})
    )  # fmt: skip
    assert axis.positions[0] == 0.0 < axis.positions[1] < 0.3
    assert axis.ends == ("off", "0.01")


def test_choices_and_short_integer_ranges_are_drawn_side_by_side() -> None:
    optimizer = CategoricalDistribution(["adamw", "sgd", "lion"])
    axis = of(trial(0, optimizer=("adamw", optimizer)), trial(1, optimizer=("lion", optimizer)))
    assert [label for label, _ in axis.labels] == ["adamw", "sgd", "lion"]
    layers = IntDistribution(0, 2)
    axis = of(trial(0, layers=(0, layers)), trial(1, layers=(2, layers)))
    assert [label for label, _ in axis.labels] == ["0", "1", "2"]


def test_a_parameter_with_one_value_has_no_axis() -> None:
    dropout = FloatDistribution(0.0, 0.5)
    assert diagrams.axes([trial(0, dropout=(0.1, dropout)), trial(1, dropout=(0.1, dropout))], by_hand.spec()) == []


def test_different_ranges_share_one_axis() -> None:
    axis = of(trial(0, dropout=(0.2, FloatDistribution(0.0, 0.2))), trial(1, dropout=(0.4, FloatDistribution(0.0, 0.4))))
    assert axis.positions == {0: 0.5, 1: 1.0}
