"""The bound for the regret: which trials it is computed from, and when it is shown."""

import importlib.util
import math
import random
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from tests import databases
from tuner.errors import StorageError
from tuner.storage import engine as storages
from tuner.storage.engine import Storage
from tuner.views import regret, studies
from tuner.views.regret import Bound, RegretBounds
from tuner.views.studies import Listed


def add(study: optuna.Study, count: int, noise: random.Random) -> None:
    """Create completed trials with a rate; some also have a momentum."""
    for _ in range(count):
        trial = study.ask()
        rate = trial.suggest_float("rate", 1e-4, 1e-1, log=True)
        if noise.random() < 0.5:
            trial.suggest_float("momentum", 0.0, 1.0)
        study.tell(trial, 0.9 - (math.log10(rate) + 2.5) ** 2 / 10)


def listed(storage: Storage, study: optuna.Study) -> Listed:
    found = storage.read(lambda connection: studies.one(connection, study._study_id))
    assert found is not None
    return found


def awaited(regrets: RegretBounds, found: Listed, num_completed: int) -> Bound | None:
    """Return the bound after waiting for its computation."""
    regrets.at(found, num_completed)
    regrets._worker.submit(lambda: None).result(60)
    return regrets.at(found, num_completed)


@pytest.mark.parametrize("maximizes", [True, False])
def test_the_bound_is_computed_from_parameters_that_all_best_trials_share(
    storage_url: str, maximizes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regret, "MOST", 25)
    storage = storages.open(storage_url)
    study = optuna.create_study(storage=storage.rdb, direction="maximize" if maximizes else "minimize")
    study.tell(study.ask(), 0.5 if maximizes else -9.0)  # a trial without parameters
    add(study, 40, random.Random(0))
    study.tell(study.ask(), state=TrialState.FAIL)
    asked: list[Sequence[FrozenTrial]] = []

    def evaluate(trials: Sequence[FrozenTrial], direction: bool) -> float:
        assert direction is maximizes
        asked.append(trials)
        return 0.01 * len(asked)

    regrets = RegretBounds(storage=storage, evaluate=evaluate)
    found = listed(storage, study)
    assert regrets.at(found, 19) is None
    assert not asked
    bound = awaited(regrets, found, 41)
    assert bound is not None
    assert (bound.at_most, bound.parameters) == (0.01, ("rate",))
    values = sorted((trial.value for trial in study.trials if trial.value is not None), reverse=maximizes)[:25]
    assert [trial.value for trial in asked[0]] == pytest.approx(values[-bound.num_trials :])
    assert regrets.at(found, 41) == bound
    assert len(asked) == 1

    add(study, 1, random.Random(1))
    assert regrets.at(listed(storage, study), 42) == bound  # the old bound, until there is a newer one
    newer = awaited(regrets, listed(storage, study), 42)
    assert newer is not None
    assert newer.at_most == 0.02
    storage.close()


def test_there_is_no_bound_without_enough_trials_or_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = storages.open(databases.sqlite(tmp_path))
    study = optuna.create_study(storage=storage.rdb, direction="maximize")
    add(study, 30, random.Random(0))

    def fail(trials: Sequence[FrozenTrial], maximizes: bool) -> float:
        raise ValueError("a matrix that cannot be inverted")

    assert awaited(RegretBounds(storage=storage, evaluate=fail), listed(storage, study), 30) is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert RegretBounds(storage=storage).evaluate is None
    assert awaited(RegretBounds(storage=storage), listed(storage, study), 30) is None
    bare = optuna.create_study(storage=storage.rdb, direction="maximize")
    for _ in range(30):
        bare.tell(bare.ask(), 0.5)
    assert awaited(RegretBounds(storage=storage, evaluate=lambda trials, maximizes: 1.0), listed(storage, bare), 30) is None
    several = optuna.create_study(storage=storage.rdb, directions=["maximize", "minimize"])
    assert awaited(RegretBounds(storage=storage, evaluate=lambda trials, maximizes: 1.0), listed(storage, several), 30) is None
    storage.close()


def test_the_bound_is_computed_again_after_an_outage_of_the_storage(tmp_path: Path) -> None:
    storage = storages.open(databases.sqlite(tmp_path))
    study = optuna.create_study(storage=storage.rdb, direction="maximize")
    add(study, 30, random.Random(0))
    answers = iter([StorageError("it is away"), None])

    def evaluate(trials: Sequence[FrozenTrial], maximizes: bool) -> float:
        if (error := next(answers)) is not None:
            raise error
        return 0.5

    regrets = RegretBounds(storage=storage, evaluate=evaluate)
    found = listed(storage, study)
    assert awaited(regrets, found, 30) is None
    bound = awaited(regrets, found, 30)
    assert bound is not None
    assert bound.at_most == 0.5
    storage.close()


@pytest.mark.parametrize(("at_most", "is_within"), [(0.0133, True), (0.0135, False)])
def test_a_bound_is_compared_with_the_standard_error_of_the_best_value(at_most: float, is_within: bool) -> None:
    # sqrt(0.9 * 0.1 / 500) = 0.01342
    assert Bound(at_most=at_most, parameters=("rate",), num_trials=20).is_within(0.9, 500) is is_within
