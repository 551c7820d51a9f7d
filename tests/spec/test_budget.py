"""When the budget allows no further trial."""

from typing import Any

import pytest

from tuner.spec import budget
from tuner.spec.budget import StudyProgress
from tuner.spec.study import Budget


def standing(**known: Any) -> StudyProgress:
    return StudyProgress(**({"num_trials": 3, "best_value": 0.8, "busy_seconds": 50.0} | known))


@pytest.mark.parametrize(
    ("limits", "known", "words"),
    [
        ({"trials": 4}, {}, None),
        ({"trials": 3}, {}, "the budget of 3 trials is spent"),
        # the budget is smaller than the number of trials
        ({"trials": 2}, {}, "the budget of 2 trials is spent"),
        ({"trials": None, "timeout": 50}, {}, "the time limit is reached"),
        ({"trials": None, "timeout": 51}, {}, None),
        ({"trials": 40, "target": 0.8}, {}, "the target 0.8 is reached: 0.8000"),
        ({"trials": 40, "target": 0.81}, {}, None),
        ({"trials": 40, "target": 0.1}, {"best_value": None}, None),
        ({"trials": 40}, {"num_combinations": 3}, "all 3 combinations have been tried"),
        ({"trials": 40}, {"num_combinations": 4}, None),
        ({"trials": 40}, {"stopped": "3 trials in a row failed"}, "3 trials in a row failed"),
    ],
)
def test_the_reason_is_the_first_limit_that_is_reached(limits: dict[str, Any], known: dict[str, Any], words: str | None) -> None:
    reason = budget.decide(Budget.model_validate(limits), standing(**known))
    assert reason == words or (words is not None and reason is not None and reason.startswith(words))


@pytest.mark.parametrize("limits", [{"trials": 3}, {"trials": 40}])
def test_a_spent_trial_budget_still_lets_trials_resume(limits: dict[str, Any]) -> None:
    assert budget.decide_to_end(Budget.model_validate(limits), standing()) is None


@pytest.mark.parametrize(
    ("intervals", "seconds"),
    [
        ([], 0.0),
        ([(10, 20)], 10.0),
        # at the same time
        ([(10, 20), (10, 20)], 10.0),
        # one inside the other
        ([(10, 20), (12, 14)], 10.0),
        # overlapping, in any order
        ([(15, 30), (10, 20)], 20.0),
        # separate: the pause between two runs is not work
        ([(10, 20), (100, 105)], 15.0),
    ],
)
def test_busy_time_counts_overlapping_work_once(intervals: list[tuple[float, float]], seconds: float) -> None:
    assert budget.busy_seconds(intervals) == seconds
