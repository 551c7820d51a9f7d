"""Budget: whether a study may start another trial, given what it has spent so far."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tuner import wording
from tuner.spec.study import Budget, Training

#: fine-tuned trials that a study should have, trial 0 among them: their mean predicts better than any of them
WANTED_TRIALS = 3
#: fraction of the probes that continue, if a study has many trials
_SHARE = 0.25
#: how much longer than measured a fine-tuning may take
MARGIN = 1.1


@dataclass(frozen=True, kw_only=True)
class StudyProgress:
    """Trials and time that a study has used, and its best value."""

    #: number of trials, in any state
    num_trials: int
    #: best value of a completed trial
    best_value: float | None
    #: time during which at least one worker was working
    busy_seconds: float
    #: why the study stopped itself; None: it did not
    stopped: str | None = None
    #: who stopped it; None: nobody
    halted: str | None = None
    #: trials in `num_trials` that were enqueued and that no worker has started
    num_enqueued: int = 0
    #: combinations that the sampler tries; None: no limit
    num_combinations: int | None = None
    #: trials in `num_trials` that were migrated from another study and cost nothing here
    num_carried: int = 0
    #: seconds that a probe and a fine-tuning take here, with a margin; None: not measured, or no trial is fine-tuned
    needed_seconds: float | None = None
    #: whether a higher value is better
    maximizes: bool = True


def decide(budget: Budget, progress: StudyProgress) -> str | None:
    """Return why no further trial may start; None if one may."""
    ended = decide_to_end(budget, progress)
    if ended is not None:
        return ended
    left = seconds_left(budget, progress)
    if left is not None and progress.needed_seconds is not None and left < progress.needed_seconds:
        return (
            f"the {wording.duration(left)} left of {wording.duration(budget.timeout or 0.0)} are too few for another trial, "
            f"which takes at least about {wording.duration(progress.needed_seconds)}"
        )
    if progress.num_enqueued:
        return None
    if budget.trials is not None and progress.num_trials - progress.num_carried >= budget.trials:
        beside = f" (besides {wording.count(progress.num_carried, 'migrated trial')})" if progress.num_carried else ""
        return f"the budget of {budget.trials} trials{beside} is spent"
    if progress.num_combinations is not None and progress.num_trials >= progress.num_combinations:
        return f"all {progress.num_combinations} combinations have been tried"
    return None


def decide_to_end(budget: Budget, progress: StudyProgress) -> str | None:
    """Return why even a suspended or lost trial may not resume; None if it may."""
    if progress.stopped:
        return progress.stopped
    if progress.halted:
        return f"it was stopped by {progress.halted}"
    best, target = progress.best_value, budget.target
    if target is not None and best is not None and (best >= target if progress.maximizes else best <= target):
        return f"the target {target:g} is reached: {wording.figure(best)}"
    if budget.timeout is not None and progress.busy_seconds >= budget.timeout:
        return f"the time limit is reached: {progress.busy_seconds:.0f} of {budget.timeout:.0f} s"
    return None


def decide_to_add(budget: Budget, progress: StudyProgress, *, num_trials: int) -> str | None:
    """Return why the budget allows no trial beyond `num_trials`; None if it allows one."""
    if budget.trials is None or num_trials - progress.num_carried < budget.trials:
        return None
    return f"its budget is {budget.trials} trials"


def seconds_left(budget: Budget, progress: StudyProgress) -> float | None:
    """Return the seconds until the timeout; None without one."""
    return None if budget.timeout is None else max(0.0, budget.timeout - progress.busy_seconds)


def share(training: Training, budget: Budget) -> float:
    """Return the fraction of the probes that continue, where time does not decide: so many that WANTED_TRIALS are fine-tuned."""
    if training.promote != "auto":
        return training.promote
    if budget.trials is None:
        return _SHARE
    return min(1.0, max(_SHARE, (WANTED_TRIALS - 1) / max(1, budget.trials - 1)))


def num_fine_tuned(training: Training, budget: Budget, num_trials: int) -> int:
    """Return how many of a study's trials are fine-tuned: trial 0, and a fraction of the others."""
    return min(num_trials, 1 + math.ceil(share(training, budget) * (num_trials - 1) - 1e-9))


def limit(budget: Budget, num_combinations: int | None) -> int | None:
    """Return the maximum number of trials of a study; None: no limit."""
    limits = [number for number in (budget.trials, num_combinations) if number is not None]
    return min(limits) if limits else None


def busy_seconds(intervals: Sequence[tuple[float, float]]) -> float:
    """Return the length of the union of intervals: overlapping work counts once."""
    return sum(stop - start for start, stop in union(intervals))


def union(intervals: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Merge intervals that overlap or touch; return them in order."""
    found: list[tuple[float, float]] = []
    for start, stop in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], stop))
        elif stop > start:
            found.append((start, stop))
    return found
