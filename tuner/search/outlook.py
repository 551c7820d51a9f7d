"""What a study has spent and found into what is to be expected of it: its pace, its end, and whether going on pays.

Optuna's terminator asks a Gaussian process (`RegretBoundEvaluator`, `EMMREvaluator`). That needs PyTorch and parameters that all trials
share; trial 0 of a study of ours, the rule, has none, and others are conditional. So what is said here rests on counts alone.
"""

from dataclasses import dataclass

from tuner.search import budget as budgets
from tuner.search.records import History
from tuner.spec import Budget

#: completed trials in a row without a new best after which going on is called into question, as in Optuna's BestValueStagnationEvaluator
STAGNATION = 30


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What is to be expected of a study."""

    #: trials that end in an hour of work; None: none has ended
    per_hour: float | None
    #: until the budget is spent, at this pace; None: not known, or without an end
    seconds_left: float | None
    #: of the budget; None: without a limit of trials
    trials_left: int | None
    #: the part of the budget that is spent; None: without a limit
    spent: float | None
    #: completed trials since the best
    num_since_best: int
    #: chance at most that one of the next `ahead` trials is a new best, were each trial as good as any other
    chance: float | None
    ahead: int

    @property
    def is_stagnant(self) -> bool:
        """Whether it is worth stopping now."""
        return self.num_since_best >= STAGNATION


def judge(
    history: History, budget: Budget | None, *, num_ended: int, num_trials: int, busy_seconds: float, num_combinations: int | None = None
) -> Outlook:
    """The outlook of a study; without a budget there is no end to foretell."""
    most = None if budget is None else budgets.limit(budget, num_combinations)
    timeout = None if budget is None else budget.timeout
    ends, parts = [], []
    if most is not None:
        parts.append(num_ended / most)
        if num_ended:
            ends.append(max(0, most - num_ended) * busy_seconds / num_ended)
    if timeout is not None:
        parts.append(busy_seconds / timeout)
        ends.append(max(0.0, timeout - busy_seconds))
    left = None if most is None else max(0, most - num_trials)
    ahead = left or 10
    return Outlook(
        per_hour=3600 * num_ended / busy_seconds if num_ended and busy_seconds > 0 else None,
        seconds_left=min(ends) if ends else None,
        trials_left=left,
        spent=min(1.0, max(parts)) if parts else None,
        num_since_best=history.num_since_best,
        chance=chance_of_a_new_best(history.num_completed, ahead) if history.num_completed else None,
        ahead=ahead,
    )


def chance_of_a_new_best(num_completed: int, ahead: int) -> float:
    """Chance that one of the next trials beats all completed ones, if their values were drawn alike.

    Of k + n values in any order the best is among the last n in n of k + n cases.
    """
    return ahead / (num_completed + ahead)
