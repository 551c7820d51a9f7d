"""The history of a study, and its outlook."""

import random
import statistics

import optuna
import pytest
from optuna.study import StudyDirection
from optuna.terminator import BestValueStagnationEvaluator
from optuna.trial import TrialState

from tuner.spec import budget
from tuner.spec.study import Budget
from tuner.storage import engine as storages
from tuner.storage import queries
from tuner.storage.queries import BestSoFar, ValuedTrial
from tuner.views import outlook


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("maximizes", [True, False])
def test_the_history_equals_a_plain_computation_and_optunas_stagnation(storage_url: str, maximizes: bool) -> None:
    storage = storages.open(storage_url)
    study = optuna.create_study(storage=storage.rdb, direction="maximize" if maximizes else "minimize")
    noise = random.Random(4)
    for _ in range(60):
        trial = study.ask()
        state = noise.choice([TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
        trial.report(noise.random(), 1)
        study.tell(trial, round(noise.random(), 2) if state is TrialState.COMPLETE else None, state=state)
    found = storage.read(lambda connection: queries.best_so_far(connection, study._study_id, num_trials=60))
    walked: list[tuple[int, float]] = []
    completed = [ended for ended in study.trials if ended.state is TrialState.COMPLETE]
    for ended in completed:
        assert ended.value is not None
        if not walked or (ended.value > walked[-1][1] if maximizes else ended.value < walked[-1][1]):
            walked.append((ended.number, ended.value))
    assert [(point.number, point.value) for point in found.records] == walked
    assert found.best is not None
    assert found.best.number == study.best_trial.number
    assert found.num_completed == len(completed)
    assert list(found.top) == sorted((ended.value for ended in completed if ended.value is not None), reverse=maximizes)
    direction = StudyDirection.MAXIMIZE if maximizes else StudyDirection.MINIMIZE
    left = BestValueStagnationEvaluator(outlook.STAGNATION).evaluate(study.trials, direction)
    assert found.num_since_best == outlook.STAGNATION - left
    storage.close()


@pytest.mark.parametrize(
    ("trials", "timeout", "left"),
    [
        (20, None, 100.0),  # ten more at ten seconds each
        (20, 130.0, 30.0),  # the time limit is reached before
        (None, 130.0, 30.0),
        (10, None, 0.0),
    ],
)
def test_the_end_is_estimated_at_the_pace_so_far(trials: int | None, timeout: float | None, left: float) -> None:
    seen = outlook.judge(BestSoFar(), Budget(trials=trials, timeout=timeout), num_ended=10, num_trials=10, busy_seconds=100.0)
    assert seen.seconds_left == pytest.approx(left)
    assert seen.per_hour == pytest.approx(360)


def test_without_a_budget_no_end_is_estimated() -> None:
    seen = outlook.judge(BestSoFar(), None, num_ended=10, num_trials=10, busy_seconds=100.0)
    assert (seen.seconds_left, seen.trials_left, seen.spent) == (None, None, None)


def test_the_chance_of_a_new_best_is_that_of_values_in_random_order() -> None:
    noise = random.Random(0)
    rows = [[noise.random() for _ in range(12)] for _ in range(20_000)]
    share = sum(max(row[8:]) > max(row[:8]) for row in rows) / len(rows)
    assert outlook.chance_of_a_new_best(8, 4) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("ahead", [1, 3, 6])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_gain_bound_equals_the_gain_of_the_last_values_in_random_order(ahead: int, sign: int) -> None:
    noise = random.Random(1)
    values = [noise.gauss(0.8, 0.05) for _ in range(12)]
    brought = max(values) - statistics.fmean(max(noise.sample(values, 12 - ahead)) for _ in range(40_000))
    top = [sign * value for value in sorted(values, reverse=True)]
    assert outlook.gain_at_most(top, 12, ahead) == pytest.approx(brought, rel=0.05)
    assert outlook.gain_at_most([0.9] * 12, 12, ahead) == pytest.approx(0, abs=1e-12)


def test_the_mean_gain_stays_below_the_bound() -> None:
    noise = random.Random(2)
    said, brought = [], []
    for _ in range(4_000):
        values = [noise.random() ** 0.25 for _ in range(24)]
        said.append(outlook.gain_at_most(sorted(values[:16], reverse=True), 16, 8))
        brought.append(max(values) - max(values[:16]))
    assert statistics.fmean(brought) < statistics.fmean(said) < 4 * statistics.fmean(brought)


@pytest.mark.parametrize(("num_completed", "budget", "ahead"), [(1, 20, 0), (2, 20, 1), (30, 40, 10), (200, None, 10)])
def test_the_gain_is_estimated_for_at_most_half_as_many_trials_as_completed(num_completed: int, budget: int | None, ahead: int) -> None:
    found = BestSoFar(num_completed=num_completed, top=tuple(0.9 - 0.01 * k for k in range(min(64, num_completed))))
    given = None if budget is None else Budget(trials=budget)
    seen = outlook.judge(found, given, num_ended=num_completed, num_trials=num_completed, busy_seconds=1.0)
    assert seen.gain_ahead == ahead
    assert (seen.gain is None) is (ahead == 0)


@pytest.mark.parametrize(("since", "is_stagnant"), [(29, False), (30, True)])
def test_a_study_is_stagnant_after_thirty_trials_without_a_new_best(since: int, is_stagnant: bool) -> None:
    found = BestSoFar(records=(ValuedTrial(trial_id=1, number=0, value=0.5),), num_since_best=since, num_completed=since + 1)
    assert outlook.judge(found, None, num_ended=1, num_trials=1, busy_seconds=1.0).is_stagnant is is_stagnant


def test_intervals_are_merged_in_order() -> None:
    assert budget.union([(5, 6), (0, 2), (1, 3), (3, 4), (7, 7)]) == [(0, 4), (5, 6)]
