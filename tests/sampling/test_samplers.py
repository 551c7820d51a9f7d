"""Samplers: each sampler, from the first trial to the last."""

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from tests.studies import by_hand
from tuner.errors import MissingPackage, SpecError
from tuner.sampling import enumeration, samplers
from tuner.spec.hyperparameters import Hyperparameters
from tuner.studies import trials
from tuner.studies.study import Study

Begin = Callable[..., Study]

CHOICES = {
    "optimizer": ["adamw", "sgd"],
    "learning_rate": {"choices": [1e-4, 3e-4]},
    "probe_learning_rate": 1e-3,
    "weight_decay": 1e-4,
    "features": "last",
    "head_units": {"layers": {"choices": [0, 1]}, "units": {"choices": [32, 64]}},
    "activation": "relu",
    "dropout": 0.3,
    "label_smoothing": 0.1,
    "unfreeze": 1.0,
    "layer_decay": 1.0,
    "augmentation": {
        "rotation": 0.0,
        "zoom": 0.1,
        "translation": 0.1,
        "brightness": 0.1,
        "contrast": 0.1,
        "erasing": 0.0,
        "mixup": 0.0,
    },
}
#: two optimizers, two learning rates, three heads: without a hidden layer, or with one of two widths
NUM_COMBINATIONS = 2 * 2 * 3


def run(study: Study, number: int) -> list[Hyperparameters]:
    """Complete some trials, one after another; return their hyperparameters."""
    found = []
    for _ in range(number):
        claimed = by_hand.must_claim(study)
        found.append(claimed.of_images)
        value = 1.0 - abs(claimed.of_images.dropout - 0.2)
        by_hand.finish(study, claimed, value)
    return found


@pytest.mark.parametrize("name", ["tpe", "prior", "cma-es", "nsga-ii", "qmc", "random"])
def test_a_study_with_one_worker_is_reproducible(begin: Begin, name: str) -> None:
    options: dict[str, Any] = {"name": name} | ({"startup_trials": 4} if name in ("tpe", "cma-es") else {})
    first = run(begin(name="first", sampler=options, seed=3), 10)
    second = run(begin(name="second", sampler=options, seed=3), 10)
    other = run(begin(name="other", sampler=options, seed=4), 10)
    assert first == second
    assert first[0] == other[0]  # the rule
    assert first[1:] != other[1:]


@pytest.mark.parametrize("name", ["tpe", "cma-es", "nsga-ii", "qmc", "random"])
def test_concurrent_trials_try_different_values(begin: Begin, name: str) -> None:
    study = begin(sampler=name)
    run(study, 3)
    side_by_side = [by_hand.must_claim(study).hyperparameters for _ in range(8)]
    assert len(set(map(repr, side_by_side))) == 8


def test_tpe_finds_the_better_region(begin: Begin) -> None:
    found = run(begin(sampler={"name": "tpe", "startup_trials": 5}), 40)
    late = [hyperparameters.dropout for hyperparameters in found[20:]]
    assert sum(abs(dropout - 0.2) < 0.1 for dropout in late) > 12


@pytest.mark.parametrize("sequence", ["sobol", "halton"])
def test_quasi_random_trials_spread_evenly(begin: Begin, sequence: str) -> None:
    search = {"optimizer": "adamw"}
    found = run(begin(sampler={"name": "qmc", "sequence": sequence}, search=search), 18)
    thirds = {int(hyperparameters.dropout * 6) for hyperparameters in found}
    assert thirds == {0, 1, 2}


@pytest.mark.parametrize("name", ["grid", "brute-force"])
def test_every_combination_is_tried_once_beginning_with_the_rule_and_then_the_study_ends(begin: Begin, name: str) -> None:
    study = begin(sampler=name, search=CHOICES, budget={"trials": 100})
    found = run(study, NUM_COMBINATIONS)
    assert len(set(map(repr, found))) == NUM_COMBINATIONS
    assert (found[0].optimizer, found[0].learning_rate, found[0].head_units) == ("adamw", 3e-4, ())
    assert by_hand.claim(study) is None
    assert trials.stop_reason(study) == f"all {NUM_COMBINATIONS} combinations have been tried"


def test_brute_force_tries_every_whole_number_of_a_range(begin: Begin) -> None:
    search = CHOICES | {
        "optimizer": "adamw",
        "learning_rate": 3e-4,
        "head_units": {"layers": [0, 1], "units": {"range": [7, 10], "log": False}},
    }
    study = begin(sampler="brute-force", search=search)
    assert len(set(map(repr, run(study, 5)))) == 5
    assert by_hand.claim(study) is None


def test_a_smaller_budget_ends_a_grid_early(begin: Begin) -> None:
    study = begin(sampler="grid", search=CHOICES, budget={"trials": 2})
    run(study, 2)
    assert trials.stop_reason(study) == "the budget of 2 trials is spent"


def test_a_grid_with_too_many_combinations_is_refused() -> None:
    search = CHOICES | {"dropout": [0.01 * step for step in range(50)], "label_smoothing": [0.001 * step for step in range(50)]}
    with pytest.raises(SpecError, match="more than 10000 combinations"):
        enumeration.check_sampler(by_hand.spec(sampler="grid", search=search))


def test_the_gp_sampler_runs_or_names_the_missing_extra(begin: Begin) -> None:
    options = {"name": "gp", "startup_trials": 2}
    if importlib.util.find_spec("torch") is not None:
        assert len(run(begin(sampler=options), 4)) == 4
    else:
        with pytest.raises(MissingPackage, match=r"sampler gp needs the package torch\. Install it with: pip install 'tuner\[gp\]'"):
            begin(sampler=options)


def test_optunas_experimental_warnings_are_hidden() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("tpe", "cma-es", "nsga-ii", "qmc", "random"):
            samplers.build(by_hand.spec(sampler=name), 0, {})


def test_seeds_differ_by_study_use_and_trial_and_are_reproducible() -> None:
    seeds = {samplers.derive_seed(seed, use, number) for seed in range(3) for use in ("trial", "sampler") for number in range(50)}
    assert len(seeds) == 300
    assert samplers.derive_seed(0, "trial", 0) == 3451003037
