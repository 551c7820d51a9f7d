"""The prior: trials around the rule, around the best trial, and from the whole space."""

import math
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from tuner.sampling import prior, suggestion
from tuner.spec import strategies

RULE = {"rate": 1e-3, "units": 10, "kind": "a"}
RATE, UNITS, KIND = FloatDistribution(1e-5, 1e-1, log=True), IntDistribution(0, 100), CategoricalDistribution(["a", "b", "c", "d"])
DISTRIBUTIONS: dict[str, Any] = {"rate": RATE, "units": UNITS, "kind": KIND}


def ended(value: float, **parameters: Any) -> FrozenTrial:
    return create_trial(state=TrialState.COMPLETE, value=value, params=parameters, distributions=DISTRIBUTIONS)


def draw(known: list[FrozenTrial], number: int, *, random: float) -> list[dict[str, Any]]:
    """Return the values of many trials, each with its own seed."""
    found = []
    for seed in range(number):
        sampler = prior.PriorSampler(strategies.Prior(random=random), RULE, seed=seed)
        study = optuna.create_study(sampler=sampler, direction="maximize")
        study.add_trials(known)
        trial = study.ask()
        reader = suggestion.open_study(study._study_id, study.study_name, study._storage, [*known], sampler)
        asked = suggestion.Suggestion(reader, study.trials[trial.number], {})
        asked.suggest_float("rate", RATE.low, RATE.high, log=True)
        asked.suggest_int("units", UNITS.low, UNITS.high)
        asked.suggest_categorical("kind", KIND.choices)
        found.append(asked.values)
    return found


def positions(found: list[dict[str, Any]]) -> np.ndarray:
    """Return where the rates lie in their range, from 0 to 1."""
    return np.array([(math.log(each["rate"]) - math.log(1e-5)) / math.log(1e4) for each in found])


def test_without_completed_trials_every_trial_is_drawn_around_the_rule() -> None:
    found = draw([], 300, random=0.0)
    assert np.mean(positions(found)) == pytest.approx(0.5, abs=0.04)
    assert np.std(positions(found)) == pytest.approx(0.15, abs=0.03)
    assert np.mean([each["units"] for each in found]) < 32
    assert np.mean([each["kind"] == "a" for each in found]) == pytest.approx(0.85 + 0.15 / 4, abs=0.06)
    assert all(RATE.low <= each["rate"] <= RATE.high and 0 <= each["units"] <= 100 for each in found)


def test_the_whole_space_is_drawn_from_as_often_as_the_option_says() -> None:
    found = draw([ended(0.9, **RULE)] * 3, 300, random=1.0)
    assert np.mean(positions(found)) == pytest.approx(0.5, abs=0.05)
    assert np.std(positions(found)) == pytest.approx(math.sqrt(1 / 12), abs=0.03)
    assert np.mean([each["units"] for each in found]) == pytest.approx(50, abs=6)
    assert np.mean([each["kind"] == "a" for each in found]) == pytest.approx(0.25, abs=0.08)


def test_the_first_trials_of_an_ensemble_are_not_drawn_from_the_whole_space() -> None:
    found = draw([ended(0.9, **RULE)] * 2, 300, random=1.0)
    assert np.mean([each["kind"] == "a" for each in found]) > 0.8


def test_the_search_moves_to_the_best_trial_if_it_is_far_from_the_rule() -> None:
    known = [
        ended(0.9, rate=3e-2, units=90, kind="d"),
        ended(0.5, rate=1e-3, units=10, kind="a"),
        ended(0.4, rate=1e-3, units=12, kind="a"),
    ]
    found = draw(known, 300, random=0.0)
    is_best = [each["units"] == 90 for each in found]
    assert 0.35 < np.mean(is_best) < 0.6  # nearly every trial is drawn around the best one, and half of those keep this value
    assert np.mean([each["kind"] == "d" for each in found]) > 0.5


def test_the_search_stays_around_the_rule_if_the_rule_is_the_best() -> None:
    known = [ended(0.9, **RULE), ended(0.5, rate=3e-2, units=90, kind="d")]
    found = draw(known, 300, random=0.0)
    assert np.mean([each["kind"] == "a" for each in found]) > 0.8
    assert np.mean([each["units"] for each in found]) < 32
