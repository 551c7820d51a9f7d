"""What a trial tries: stored values first, then given ones, then the sampler's."""

import copy
from collections.abc import Container, Mapping, Sequence
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from tuner.storage import optuna_private


class Suggestion:
    """A chooser that asks a sampler and keeps what it says, to be stored in one go; Optuna's Trial stores each value by itself."""

    def __init__(self, study: optuna.Study, trial: FrozenTrial, given: Mapping[str, Any]) -> None:
        self._study = study
        self._trial = copy.copy(trial)
        self._trial.params = dict(trial.params)
        self._trial.distributions = dict(trial.distributions)
        self._given = given
        self._relative: dict[str, Any] | None = None
        self._sampler: BaseSampler = study.sampler
        self._sampler.before_trial(study, self._trial)
        #: what was not stored yet
        self.values: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number of a range."""
        return float(self._suggest(name, FloatDistribution(low, high, log=log)))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """A whole number of a range."""
        return int(self._suggest(name, IntDistribution(low, high, log=log)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of some values."""
        return self._suggest(name, CategoricalDistribution(choices))

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name in self._trial.params:
            return self._trial.params[name]
        value = self._given[name] if name in self._given else self._sample(name, distribution)
        self.values[name] = self._trial.params[name] = value
        self.distributions[name] = self._trial.distributions[name] = distribution
        return value

    def _sample(self, name: str, distribution: BaseDistribution) -> Any:
        if self._relative is None:
            searched = self._sampler.infer_relative_search_space(self._study, self._trial)
            self._relative = self._sampler.sample_relative(self._study, self._trial, searched)
        if name in self._relative and optuna_private.contains(distribution, self._relative[name]):
            return self._relative[name]
        return self._sampler.sample_independent(self._study, self._trial, name, distribution)


class _Snapshot:
    """A storage whose trials are read once: samplers read them all again for every group of parameters."""

    def __init__(self, storage: BaseStorage, trials: Sequence[FrozenTrial]) -> None:
        self._storage = storage
        self._trials = trials

    def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        # TPE tells other workers what it has drawn, for as long as the parameters are not stored; ours are stored at once, in a moment
        if not key.startswith(optuna_private.TPE_RELATIVE_PARAMS):
            self._storage.set_trial_system_attr(trial_id, key, value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


def open_study(name: str, storage: BaseStorage, trials: Sequence[FrozenTrial], sampler: BaseSampler) -> optuna.Study:
    """Optuna's study as a sampler is to see it: with these trials."""
    snapshot = cast("BaseStorage", _Snapshot(storage, trials))
    return optuna.Study(name, snapshot, sampler=sampler, pruner=optuna.pruners.NopPruner())
