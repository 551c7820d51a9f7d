"""What a study has spent and found into what is to be expected of it: its pace, its end, and whether going on pays.

What is said here rests on values in any order; what Optuna's terminator says of a study, with a Gaussian process, is in `regret`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tuner.spec import budget as budgets
from tuner.spec.study import Budget
from tuner.storage.queries import BestSoFar

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
    #: by how much the next `gain_ahead` trials better the best at most, on average, were each as good as any other; None: not known
    gain: float | None
    gain_ahead: int

    @property
    def is_stagnant(self) -> bool:
        """Whether it is worth stopping now."""
        return self.num_since_best >= STAGNATION


def judge(
    history: BestSoFar, budget: Budget | None, *, num_ended: int, num_trials: int, busy_seconds: float, num_combinations: int | None = None
) -> Outlook:
    """The outlook of a study; without a budget there is no end to foretell."""
    most = None if budget is None else budgets.limit(budget, num_combinations)
    timeout = None if budget is None else budget.timeout
    parts = [] if most is None else [num_ended / most]
    if timeout is not None:
        parts.append(busy_seconds / timeout)
    left = None if most is None else max(0, most - num_trials)
    ahead = left or 10
    # of few trials nothing can be said of more than half as many
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
    """Chance that one of the next trials beats all completed ones, if their values were drawn alike.

    Of k + n values in any order the best is among the last n in n of k + n cases.
    """
    return ahead / (num_completed + ahead)


def gain_at_most(top: Sequence[float], num_completed: int, ahead: int) -> float:
    """What the next trials better the best by at most, on average, if their values were drawn like those of the completed ones.

    The expected best of j such values grows ever more slowly with j. So n more bring no more than the last n of k did, in any order of
    the k: the best value, less the expected best of k - n of them. The latter is their expected validation performance (Dodge et al.,
    arXiv 1909.03004), over subsets and so without bias (Tang et al., arXiv 2004.14164).

    `top` holds the best of the completed values, the best first; `ahead` is at most half of `num_completed`.
    """
    expected, missing = 0.0, 1.0  # chance that no better value is in the subset
    for index, value in enumerate(top):
        others = num_completed - index
        is_in = (num_completed - ahead) / others  # given that those before it are not
        expected += missing * min(1.0, is_in) * value
        missing *= max(0.0, 1.0 - is_in)
    # what lies beyond the best few is the best of a subset in less than one case of 2 ** 64
    return abs(top[0] - expected - missing * top[-1])
