"""Outlook: the pace of a study, its expected end, and the expected gain of further trials.

The estimates assume that values come in random order. `regret` has another estimate, from a Gaussian process.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tuner.spec import budget as budgets
from tuner.spec.study import Budget
from tuner.storage.queries import BestSoFar

#: after so many completed trials without a new best, the study counts as stagnant, as in Optuna's BestValueStagnationEvaluator
STAGNATION = 30


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """The outlook of a study."""

    #: trials per hour of work; None if no trial has ended
    per_hour: float | None
    #: seconds until the budget is spent at the pace so far; None if unknown or unlimited
    seconds_left: float | None
    #: trials left in the budget; None if trials are not limited
    trials_left: int | None
    #: share of the budget that is spent; None if there is no limit
    spent: float | None
    #: number of completed trials since the best one
    num_since_best: int
    #: upper bound for the chance of a new best in the next `ahead` trials; None if no trial has completed
    chance: float | None
    ahead: int
    #: upper bound for the expected gain over the best value in the next `gain_ahead` trials; None if unknown
    gain: float | None
    gain_ahead: int

    @property
    def is_stagnant(self) -> bool:
        """Whether the study has stopped improving."""
        return self.num_since_best >= STAGNATION


def judge(
    history: BestSoFar, budget: Budget | None, *, num_ended: int, num_trials: int, busy_seconds: float, num_combinations: int | None = None
) -> Outlook:
    """Return the outlook of a study; without a budget it has no expected end."""
    most = None if budget is None else budgets.limit(budget, num_combinations)
    timeout = None if budget is None else budget.timeout
    parts = [] if most is None else [num_ended / most]
    if timeout is not None:
        parts.append(busy_seconds / timeout)
    left = None if most is None else max(0, most - num_trials)
    ahead = left or 10
    # the estimate holds for at most half as many trials as have completed
    gain_ahead = min(ahead, history.num_completed // 2) if history.top else 0
    return Outlook(
        per_hour=3600 * num_ended / busy_seconds if num_ended and busy_seconds > 0 else None,
        seconds_left=seconds_left(budget, num_ended=num_ended, busy_seconds=busy_seconds, num_combinations=num_combinations),
        trials_left=left,
        spent=min(1.0, max(parts)) if parts else None,
        num_since_best=history.num_since_best,
        chance=chance_of_a_new_best(history.num_completed, ahead) if history.num_completed else None,
        ahead=ahead,
        gain=gain_at_most(history.top, history.num_completed, gain_ahead) if gain_ahead else None,
        gain_ahead=gain_ahead,
    )


def seconds_left(budget: Budget | None, *, num_ended: int, busy_seconds: float, num_combinations: int | None) -> float | None:
    """Return the seconds until the trials or the time of a budget are spent at the pace so far, or None if that is not known."""
    if budget is None:
        return None
    ends, most = [], budgets.limit(budget, num_combinations)
    if most is not None and num_ended:
        ends.append(max(0, most - num_ended) * busy_seconds / num_ended)
    if budget.timeout is not None:
        ends.append(max(0.0, budget.timeout - busy_seconds))
    return min(ends, default=None)


def chance_of_a_new_best(num_completed: int, ahead: int) -> float:
    """Return the chance that one of the next `ahead` trials beats all completed ones, if all values follow one distribution.

    Of k + n values in random order, the best is among the last n with probability n / (k + n).
    """
    return ahead / (num_completed + ahead)


def gain_at_most(top: Sequence[float], num_completed: int, ahead: int) -> float:
    """Return an upper bound for the expected gain of the next `ahead` trials over the best value, if all values follow one distribution.

    The expected best of j values grows more and more slowly with j. So n further values gain at most what the last n of k values gained in
    random order: the best value minus the expected best of k - n of them. The latter is the expected validation performance (Dodge et al.,
    arXiv 1909.03004), computed over subsets and therefore without bias (Tang et al., arXiv 2004.14164).

    `top` holds the best completed values, the best first; `ahead` is at most half of `num_completed`.
    """
    expected, missing = 0.0, 1.0  # probability that no better value is in the subset
    for index, value in enumerate(top):
        others = num_completed - index
        is_in = (num_completed - ahead) / others  # given that no better value is
        expected += missing * min(1.0, is_in) * value
        missing *= max(0.0, 1.0 - is_in)
    # a value beyond `top` is the best of a subset with probability below 2 ** -64
    return abs(top[0] - expected - missing * top[-1])
