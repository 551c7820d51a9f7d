"""Suggestion: the values that a trial tries. Given values come first, then those of the sampler."""

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
    """A chooser that asks a sampler and collects the values, so that one statement stores them all; Optuna's Trial needs one each."""

    def __init__(self, study: optuna.Study, trial: FrozenTrial, given: Mapping[str, Any]) -> None:
        self._study = study
        self._trial = copy.copy(trial)
        # what another program stored is among the given values; the trial then gets the distributions of the study
        self._trial.params, self._trial.distributions = {}, {}
        self._given = given
        self._relative: dict[str, Any] | None = None
        self._sampler: BaseSampler = study.sampler
        self._sampler.before_trial(study, self._trial)
        self.values: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None) -> float:
        """Return a number of a range."""
        return float(self._suggest(name, FloatDistribution(low, high, log=log, step=step)))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
        """Return a whole number of a range."""
        return int(self._suggest(name, IntDistribution(low, high, log=log, step=step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of some values."""
        return self._suggest(name, CategoricalDistribution(choices))

    def of(self, name: str, distribution: BaseDistribution) -> Any:
        """Return the value of a parameter.

        Raises:
            ValueError: the trial has asked for the parameter with another distribution before.
        """
        return self._suggest(name, distribution)

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


class _FixedTrials:
    """A storage with a fixed list of trials: samplers would read all trials again for every group of parameters."""

    def __init__(self, storage: BaseStorage, study_id: int, trials: Sequence[FrozenTrial]) -> None:
        self._storage, self._id, self._trials = storage, study_id, trials

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._id  # Optuna would read it with each study that is opened

    def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        # TPE stores its draws for other workers until the parameters are stored; tuner stores the parameters immediately
        if not key.startswith(optuna_private.TPE_RELATIVE_PARAMS):
            self._storage.set_trial_system_attr(trial_id, key, value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


def open_study(study_id: int, name: str, storage: BaseStorage, trials: Sequence[FrozenTrial], sampler: BaseSampler) -> optuna.Study:
    """Return an Optuna study in which a sampler sees only these trials."""
    snapshot = cast("BaseStorage", _FixedTrials(storage, study_id, trials))
    return optuna.Study(name, snapshot, sampler=sampler, pruner=optuna.pruners.NopPruner())
