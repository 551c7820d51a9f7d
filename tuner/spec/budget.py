"""What a study has spent into whether one more trial may start."""

from collections.abc import Sequence
from dataclasses import dataclass

from tuner.spec.study import Budget


@dataclass(frozen=True, kw_only=True)
class StudyProgress:
    """What a study has spent and found so far."""

    #: trials in every state
    num_trials: int
    #: best validation accuracy of a completed trial
    best_value: float | None
    #: time in which some worker was at work
    busy_seconds: float
    #: why the study stopped itself
    stopped: str | None = None
    #: who stopped it; None: no one
    halted: str | None = None
    #: trials in `num_trials` that someone enqueued and that no worker has begun
    num_enqueued: int = 0
    #: combinations that the sampler goes through; None: no end
    num_combinations: int | None = None
    #: trials in `num_trials` that were carried over from another study, and so cost nothing here
    num_carried: int = 0


def decide(budget: Budget, standing: StudyProgress) -> str | None:
    """Why no further trial starts; None if one may."""
    ended = decide_to_end(budget, standing)
    if ended is not None:
        return ended
    if standing.num_enqueued:
        return None
    if budget.trials is not None and standing.num_trials - standing.num_carried >= budget.trials:
        beside = f" beside {standing.num_carried} that were carried over" if standing.num_carried else ""
        return f"the budget of {budget.trials} trials{beside} is spent"
    if standing.num_combinations is not None and standing.num_trials >= standing.num_combinations:
        return f"all {standing.num_combinations} combinations are tried"
    return None


def decide_to_end(budget: Budget, standing: StudyProgress) -> str | None:
    """Why not even a trial that was begun is taken up again; None if it is."""
    if standing.stopped:
        return standing.stopped
    if standing.halted:
        return f"it was stopped by {standing.halted}"
    if budget.target is not None and standing.best_value is not None and standing.best_value >= budget.target:
        return f"the target {budget.target:g} is reached: {standing.best_value:.4f}"
    if budget.timeout is not None and standing.busy_seconds >= budget.timeout:
        return f"the time is up: {standing.busy_seconds:.0f} of {budget.timeout:.0f} s"
    return None


def decide_room(budget: Budget, standing: StudyProgress, *, num_trials: int) -> str | None:
    """Why a study has no room for one more trial beside so many, begun or waiting; None if it has."""
    if budget.trials is None or num_trials - standing.num_carried < budget.trials:
        return None
    return f"its budget is {budget.trials} trials"


def limit(budget: Budget, num_combinations: int | None) -> int | None:
    """The most trials that a study may have; None: no limit."""
    limits = [number for number in (budget.trials, num_combinations) if number is not None]
    return min(limits) if limits else None


def busy_seconds(intervals: Sequence[tuple[float, float]]) -> float:
    """Length of the union of intervals: time in which several work counts once."""
    return sum(stop - start for start, stop in union(intervals))


def union(intervals: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same as intervals that do not touch, in order."""
    found: list[tuple[float, float]] = []
    for start, stop in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], stop))
        elif stop > start:
            found.append((start, stop))
    return found
