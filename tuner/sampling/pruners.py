"""The pruner a study names into Optuna's, confined to the part of the fine-tuning in which trials compare."""

import copy
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
from tuner.spec.study import StudySpec

#: part of the fine-tuning's epochs that pruners without an option of their own leave alone
_WARMUP = 0.5


@dataclass(frozen=True, kw_only=True)
class _Road:
    """The steps of a trial: the probe ends at `probe`, nothing is pruned up to `warm`, the trial ends at `end`."""

    probe: int
    warm: int
    end: int


class _Patient(BasePruner):
    """Prunes what has not improved for some epochs; Optuna's waits for a value to fall, and the best so far never does."""

    def __init__(self, patience: int, min_delta: float, start: int) -> None:
        self._patience = patience
        self._min_delta = min_delta
        self._start = start

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        last = trial.last_step
        if last is None or last - self._patience - 1 < self._start:
            return False
        values = trial.intermediate_values
        before = max(value for step, value in values.items() if step < last - self._patience)
        return max(values.values()) - before <= self._min_delta


class _TopK(BasePruner):
    """Prunes what does not lie among the best `keep` of the trials up to its own at one step, after which it lets it go on for good.

    A later trial takes no place away from one that runs.
    """

    def __init__(self, keep: int, step: int) -> None:
        self._keep = keep
        self._step = step

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        value = trial.intermediate_values.get(self._step)
        if value is None or trial.last_step != self._step:
            return False
        others = study.get_trials(deepcopy=False)
        earlier = [other.intermediate_values.get(self._step) for other in others if other.number < trial.number]
        return sum(other is not None and other >= value for other in earlier) >= self._keep


class Confined(BasePruner):
    """A pruner that is asked after step `start` only, and sees the steps after `origin`, counted from there if `renumbers`."""

    def __init__(self, inner: BasePruner, start: int, *, origin: int | None = None, renumbers: bool = False) -> None:
        self.inner = inner
        self.start = start
        self._origin = start if origin is None else origin
        self._renumbers = renumbers

    @property
    def is_silent(self) -> bool:
        """Whether it never prunes, so that it need not be asked."""
        return isinstance(self.inner, NopPruner)

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial is to be stopped."""
        if self.is_silent or (trial.last_step or 0) <= self.start:
            return False
        offset = self._origin if self._renumbers else 0
        seen = copy.copy(trial)
        seen.intermediate_values = {
            step - offset: value for step, value in sorted(trial.intermediate_values.items()) if step > self._origin
        }
        with warnings.catch_warnings():
            # trials of different lengths are nothing to warn about here
            warnings.filterwarnings("ignore", message="WilcoxonPruner", category=UserWarning)
            return bool(self.inner.prune(study, seen))


def _median(options: strategies.Median, road: _Road) -> Confined:
    return Confined(MedianPruner(n_startup_trials=options.startup_trials), road.warm)


def _percentile(options: strategies.Percentile, road: _Road) -> Confined:
    return Confined(PercentilePruner(options.percentile, n_startup_trials=options.startup_trials), road.warm)


def _top_k(options: strategies.TopK, road: _Road) -> Confined:
    step = road.probe + options.epochs
    return Confined(_TopK(options.keep, step), step - 1, origin=road.probe)


def _patient(options: strategies.Patient, road: _Road) -> Confined:
    return Confined(_Patient(options.patience, options.min_delta, road.probe), road.warm, origin=0)


def _hyperband(options: strategies.Hyperband, road: _Road) -> Confined:
    inner = HyperbandPruner(min_resource=1, max_resource=max(1, road.end - road.warm), reduction_factor=options.reduction_factor)
    return Confined(inner, road.warm, renumbers=True)


def _successive_halving(options: strategies.SuccessiveHalving, road: _Road) -> Confined:
    return Confined(SuccessiveHalvingPruner(min_resource=1, reduction_factor=options.reduction_factor), road.warm, renumbers=True)


def _wilcoxon(options: strategies.Wilcoxon, road: _Road) -> Confined:
    return Confined(WilcoxonPruner(p_threshold=options.p_threshold), road.warm)


def _threshold(options: strategies.Threshold, road: _Road) -> Confined:
    return Confined(ThresholdPruner(lower=options.lower), road.warm)


_BUILDERS: dict[str, Callable[[Any, _Road], Confined]] = {
    "none": lambda options, road: Confined(NopPruner(), road.end),
    "median": _median,
    "percentile": _percentile,
    "top-k": _top_k,
    "patient": _patient,
    "hyperband": _hyperband,
    "successive-halving": _successive_halving,
    "wilcoxon": _wilcoxon,
    "threshold": _threshold,
}


def build(spec: StudySpec, *, epochs: int) -> Confined:
    """The pruner of a study whose trials are fine-tuned for `epochs`.

    Steps 1 to `training.probe_epochs` are the probe, the `epochs` after them the fine-tuning. It prunes neither in the probe nor in the
    first `warmup` part of the fine-tuning: with a cosine schedule the best trial may look poor for half of its way. `top-k` alone decides
    where its options say.
    """
    probe = spec.training.probe_epochs
    warmup = getattr(spec.pruner, "warmup", _WARMUP)
    road = _Road(probe=probe, warm=probe + round(warmup * epochs), end=probe + epochs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _BUILDERS[spec.pruner.name](spec.pruner, road)
