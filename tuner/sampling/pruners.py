"""Pruners: build the Optuna pruner that a study file names, limited to the epochs in which trials are comparable."""

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    ThresholdPruner,
    WilcoxonPruner,
)
from optuna.trial import FrozenTrial

from tuner.spec import strategies
from tuner.spec.objective import Objective
from tuner.spec.study import AnyStudySpec

#: fraction of the fine-tuning epochs without pruning, for pruners without the option `warmup`
_WARMUP = 0.5


@dataclass(frozen=True, kw_only=True)
class _Steps:
    """The steps of a trial: the probe ends at `probe`, nothing is pruned up to `warmup_end`, the trial ends at `end`."""

    probe: int
    warmup_end: int
    end: int
    objective: Objective
    #: whether the value of a step is a mean over folds, which may fall
    are_means: bool = False


class _Patient(BasePruner):
    """Prunes trials that have not improved for some epochs. Optuna's PatientPruner compares the best values, which never fall."""

    def __init__(self, patience: int, min_delta: float, start: int, objective: Objective) -> None:
        self._objective = objective
        self._patience = patience
        self._min_delta = min_delta
        self._start = start

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        last = trial.last_step
        if last is None or last - self._patience - 1 < self._start:
            return False
        values = {step: self._objective.merit(value) for step, value in trial.intermediate_values.items()}
        before = max((value for step, value in values.items() if step < last - self._patience), default=-math.inf)
        return max(values.values()) - before <= self._min_delta


class _TopK(BasePruner):
    """Prunes a trial, once, if `keep` earlier trials were at least as good at the given step. Later trials never count."""

    def __init__(self, keep: int, step: int, objective: Objective) -> None:
        self._objective = objective
        self._keep = keep
        self._step = step

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        value = trial.intermediate_values.get(self._step)
        if value is None or trial.last_step != self._step:
            return False
        others = study.get_trials(deepcopy=False)
        earlier = [other.intermediate_values.get(self._step) for other in others if other.number < trial.number]
        merit = self._objective.merit
        return sum(other is not None and merit(other) >= merit(value) for other in earlier) >= self._keep


class ConfinedPruner(BasePruner):
    """A pruner that is only asked after step `start` and only sees steps after `origin`; `renumbers` counts them from `origin`.

    With `sees_last`, it sees only the last step of the trial: values that may fall have no best one so far.
    """

    def __init__(
        self, inner: BasePruner, start: int, *, origin: int | None = None, renumbers: bool = False, sees_last: bool = False
    ) -> None:
        self.inner = inner
        self.start = start
        self._origin = start if origin is None else origin
        self._renumbers = renumbers
        self._sees_last = sees_last

    @property
    def never_prunes(self) -> bool:
        """Whether it never prunes any trial."""
        return isinstance(self.inner, NopPruner)

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether to stop the trial."""
        if self.never_prunes or trial.last_step is None or trial.last_step <= self.start:
            return False
        offset = self._origin if self._renumbers else 0
        seen = copy.copy(trial)
        seen.intermediate_values = {
            step - offset: value
            for step, value in sorted(trial.intermediate_values.items())
            if step > self._origin and (step == trial.last_step or not self._sees_last)
        }
        with warnings.catch_warnings():
            # trials of different lengths are normal here
            warnings.filterwarnings("ignore", message="WilcoxonPruner", category=UserWarning)
            return bool(self.inner.prune(study, seen))


def _median(options: strategies.Median, steps: _Steps) -> ConfinedPruner:
    return ConfinedPruner(MedianPruner(n_startup_trials=options.startup_trials), steps.warmup_end, sees_last=steps.are_means)


def _percentile(options: strategies.Percentile, steps: _Steps) -> ConfinedPruner:
    inner = PercentilePruner(options.percentile, n_startup_trials=options.startup_trials)
    return ConfinedPruner(inner, steps.warmup_end, sees_last=steps.are_means)


def _top_k(options: strategies.TopK, steps: _Steps) -> ConfinedPruner:
    step = steps.probe + options.epochs
    return ConfinedPruner(_TopK(options.keep, step, steps.objective), step - 1, origin=steps.probe)


def _patient(options: strategies.Patient, steps: _Steps) -> ConfinedPruner:
    return ConfinedPruner(_Patient(options.patience, options.min_delta, steps.probe, steps.objective), steps.warmup_end, origin=0)


def _hyperband(options: strategies.Hyperband, steps: _Steps) -> ConfinedPruner:
    most: int | str = max(1, steps.end - steps.warmup_end) if steps.end else "auto"
    inner = HyperbandPruner(min_resource=1, max_resource=most, reduction_factor=options.reduction_factor)
    return ConfinedPruner(inner, steps.warmup_end, renumbers=True)


def _successive_halving(options: strategies.SuccessiveHalving, steps: _Steps) -> ConfinedPruner:
    return ConfinedPruner(
        SuccessiveHalvingPruner(min_resource=1, reduction_factor=options.reduction_factor), steps.warmup_end, renumbers=True
    )


def _wilcoxon(options: strategies.Wilcoxon, steps: _Steps) -> ConfinedPruner:
    return ConfinedPruner(WilcoxonPruner(p_threshold=options.p_threshold), steps.warmup_end)


def _threshold(options: strategies.Threshold, steps: _Steps) -> ConfinedPruner:
    return ConfinedPruner(ThresholdPruner(lower=options.lower, upper=options.upper), steps.warmup_end)


_BUILDERS: dict[str, Callable[[Any, _Steps], ConfinedPruner]] = {
    "none": lambda options, steps: ConfinedPruner(NopPruner(), steps.end),
    "median": _median,
    "percentile": _percentile,
    "top-k": _top_k,
    "patient": _patient,
    "hyperband": _hyperband,
    "successive-halving": _successive_halving,
    "wilcoxon": _wilcoxon,
    "threshold": _threshold,
}


def build(spec: AnyStudySpec, *, epochs: int) -> ConfinedPruner:
    """Return the pruner of a study whose trials are fine-tuned for `epochs`.

    Steps 1 to `training.probe_epochs` are the probe; the next `epochs` steps are the fine-tuning. The pruner never prunes during the probe
    or during the first part of the fine-tuning (`warmup`): with a cosine schedule, the best trial can look poor until halfway. Only `top-k`
    decides at the epoch that its options give. The steps of an objective are its own: it may be pruned at each of them. The epochs of a
    trial with folds are those of all folds.
    """
    epochs *= spec.num_folds
    probe = spec.probe_epochs
    warmup = getattr(spec.pruner, "warmup", _WARMUP)
    start = -1 if spec.asks_pruning else probe + round(warmup * epochs)
    steps = _Steps(probe=probe, warmup_end=start, end=probe + epochs, objective=spec.objective, are_means=spec.num_folds > 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _BUILDERS[spec.pruner.name](spec.pruner, steps)
