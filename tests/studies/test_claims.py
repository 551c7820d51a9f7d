"""Claims: trials that another program enqueued, with values that fit the study or do not."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from tests.studies import by_hand
from tuner.storage import attributes
from tuner.studies import trials
from tuner.studies.study import Study
from tuner.studies.trials import WorkerId
from tuner.views import status

Begin = Callable[..., Study]
SEARCH = {
    "optimizer": ["sgd", "adamw"],
    "dropout": {"range": [0.0, 0.5]},
    "weight_decay": {"range": [1e-6, 0.1], "log": True, "off": True},
    "batch_size": 32,
    "nesterov": [True, False],
    "head_units": {"layers": [0, 2], "units": {"range": [16, 256]}},
}

#: no ranges
CHOICES = {
    **dict.fromkeys(("probe_learning_rate", "learning_rate", "weight_decay", "dropout", "label_smoothing", "unfreeze", "layer_decay"), 0.1),
    "head_units": [],
    "augmentation": dict.fromkeys(("rotation", "zoom", "translation", "brightness", "contrast", "erasing", "mixup"), 0.1),
}


@pytest.fixture
def searched(begin: Begin) -> Study:
    """A study whose trial 0 has completed."""
    study = begin(search=SEARCH)
    by_hand.finish(study, by_hand.must_claim(study), 0.5)
    return study


def claim(study: Study) -> tuple[trials.Claim | None, list[tuple[int, str]]]:
    """Claim a trial, and return it with the refused trials."""
    refused: list[tuple[int, str]] = []
    hand = WorkerId.here("hand")
    claimed = trials.claim(study, hand, num_train=1000, num_classes=2, epochs=4, refused=lambda number, why: refused.append((number, why)))
    return claimed, refused


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"optimizer": "adam"}, "optimizer is 'adam'; expected sgd or adamw"),
        ({"optimizer": 1}, "optimizer is 1; expected sgd or adamw"),
        ({"dropout": 0.99}, "dropout is 0.99; expected 0 to 0.5"),
        ({"dropout": "0.3"}, "dropout is '0.3'; expected 0 to 0.5"),
        ({"dropout": True}, "dropout is true; expected 0 to 0.5"),
        ({"dropout": None}, "dropout is null; expected 0 to 0.5"),
        ({"dropout": [0.3]}, "dropout is [0.3]; expected 0 to 0.5"),
        ({"dropout": float("nan")}, "dropout is nan; expected 0 to 0.5"),
        ({"dropot": 0.3}, "dropot is not a hyperparameter of this study"),
        ({"dropot": 0.3}, "Did you mean dropout?"),
        ({"batch_size": 64}, "batch_size is 64; expected 32, which is fixed in this study"),
        ({"nesterov": 1, "optimizer": "sgd"}, "nesterov is 1; expected true or false"),
        ({"head_units.1": 20.5}, "head_units.1 is 20.5; expected 16 to 256, whole"),
        ({"head_units.3": 20}, "head_units.3 is not a hyperparameter of this study"),
        ({"weight_decay.on": "yes"}, "weight_decay.on is 'yes'; expected true or false"),
    ],
)
def test_a_trial_that_optuna_enqueued_with_unsearched_values_fails_with_the_reason(
    searched: Study, given: dict[str, Any], said: str
) -> None:
    searched.optuna.enqueue_trial(given)
    claimed, refused = claim(searched)
    assert claimed is not None
    assert claimed.number == 2
    assert [number for number, _ in refused] == [1]
    failed = searched.optuna.get_trials()[1]
    assert failed.state is TrialState.FAIL
    assert failed.user_attrs[attributes.ERROR] == "UnusableTrial"
    assert said in failed.user_attrs[attributes.MESSAGE] == refused[0][1]


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({"optimizer": "sgd", "dropout": 0.25}, {"optimizer": "sgd", "dropout": 0.25}),
        ({"dropout": 0}, {"dropout": 0.0}),
        ({"batch_size": 32, "dropout": 0.25}, {"batch_size": 32, "dropout": 0.25}),
        ({"weight_decay": 0}, {"weight_decay": 0.0}),
        ({"weight_decay": 0.01}, {"weight_decay": 0.01}),
        ({"weight_decay.on": False, "weight_decay": 0.01}, {"weight_decay": 0.0}),
        ({"head_layers": 2, "head_units.1": 64.0, "head_units.2": 32}, {"head_units": (64, 32)}),
        # it does not act on adamw, as in a trial that Optuna runs itself
        ({"optimizer": "adamw", "nesterov": False}, {"optimizer": "adamw"}),
    ],
)
def test_a_trial_that_optuna_enqueued_with_searched_values_gets_them(
    searched: Study, given: dict[str, Any], chosen: dict[str, Any]
) -> None:
    searched.optuna.enqueue_trial(given)
    claimed, refused = claim(searched)
    assert refused == []
    assert claimed is not None
    assert claimed.number == 1
    assert {name: getattr(claimed.hyperparameters, name) for name in chosen} == chosen
    assert searched.optuna.get_trials()[1].user_attrs[attributes.ORIGIN] == "enqueued"


@pytest.mark.parametrize(
    ("distributions", "number"),
    [
        ({"dropout": FloatDistribution(0.0, 1.0)}, 1),
        ({"dropout": FloatDistribution(0.0, 1.0), "x": FloatDistribution(0.0, 1.0)}, 2),
        ({"head_units.1": IntDistribution(0, 300)}, 2),
    ],
)
def test_a_waiting_trial_with_parameters_of_its_own_is_checked_as_well(
    searched: Study, distributions: Mapping[str, BaseDistribution], number: int
) -> None:
    values: dict[str, float] = dict.fromkeys(distributions, 0)
    searched.optuna.add_trial(create_trial(state=TrialState.WAITING, params=values, distributions=dict(distributions)))
    claimed, _ = claim(searched)
    assert claimed is not None
    assert claimed.number == number
    stored = searched.optuna.get_trials()[number]
    assert stored.distributions["dropout"] == FloatDistribution(0.0, 0.5)  # that of the study
    assert (stored.params["dropout"] == 0.0) == (number == 1)


def test_any_number_of_unusable_trials_leaves_the_study_running(searched: Study) -> None:
    for _ in range(4):
        searched.optuna.enqueue_trial({"optimizer": "adam"})
    claimed, refused = claim(searched)
    assert [number for number, _ in refused] == [1, 2, 3, 4]
    assert claimed is not None
    assert trials.stopped(searched) is None
    assert status.snapshot(searched).num_failed == 4


def test_a_study_that_tries_all_combinations_refuses_a_trial_of_another_program(begin: Begin) -> None:
    study = begin(sampler="grid", search=CHOICES)
    study.optuna.enqueue_trial({"optimizer": "sgd"})
    _, refused = claim(study)
    assert refused == [(0, "the sampler grid tries all combinations in order; no trial can be enqueued")]
