"""Prior: a sampler that draws trials around the rule of trial 0, around the best trials, or from the whole space.

Source: Mallik and others, PriorBand: practical hyperparameter optimization in the age of deep learning (arXiv 2306.12370), without its
brackets. Of the trials that are not drawn from the whole space, the share that is drawn around the rule falls as the best trials move away
from it. Until a study has the fine-tuned trials that it needs for an ensemble, all trials are drawn around the rule or the best trial.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tuner.spec import strategies
from tuner.spec.budget import WANTED_TRIALS

#: standard deviation of a number around its centre, as a share of the range (of its logarithm, if the range is logarithmic)
WIDTH = 0.15
#: probability that a choice stays as it is, and that a number of the best trial does
CHOICE_STAYS, NUMBER_STAYS = 0.85, 0.5
#: the best of this share of the completed trials says whether the rule or the best trial is the better centre
_BEST_SHARE = 1 / 3


class PriorSampler(BaseSampler):
    """Draws one trial; `rule` are the values of trial 0 by the names of the parameters."""

    def __init__(self, options: strategies.Prior, rule: Mapping[str, Any], *, seed: int) -> None:
        self._options, self._rule = options, rule
        self._random = np.random.default_rng(seed)
        self._centre: Mapping[str, Any] | None = None
        self._is_rule = False

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Choose what the trial is drawn around."""
        draws = self._random.random(2)
        completed = [one for one in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if one.value is not None]
        if len(completed) >= WANTED_TRIALS and draws[0] < self._options.random:
            self._centre = None
            return
        sign = 1 if study.direction is StudyDirection.MAXIMIZE else -1
        best = sorted(completed, key=lambda one: (-sign * (one.value or 0.0), one.number))
        self._is_rule = not best or draws[1] < self._rule_share(best[: max(1, math.ceil(_BEST_SHARE * len(best)))])
        self._centre = self._rule if self._is_rule else best[0].params

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return nothing: every parameter is drawn alone."""
        return {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """Return nothing: every parameter is drawn alone."""
        return {}

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        """Draw one parameter."""
        centre = None if self._centre is None else self._centre.get(param_name)
        if isinstance(param_distribution, CategoricalDistribution):
            if centre in param_distribution.choices and self._random.random() < CHOICE_STAYS:
                return centre
            return param_distribution.choices[self._random.integers(len(param_distribution.choices))]
        assert isinstance(param_distribution, FloatDistribution | IntDistribution)
        if centre is None:
            return _number(param_distribution, self._random.random())
        if not self._is_rule and self._random.random() < NUMBER_STAYS:
            return _within(param_distribution, centre)
        return _number(param_distribution, _near(_position(param_distribution, centre), self._random))

    def _rule_share(self, best: Sequence[FrozenTrial]) -> float:
        """Return how likely the best trials are under the rule, compared with the best one of them: 0.5 if both fit equally well.

        The better a trial, the more it counts.
        """
        scores = np.zeros(2)
        for weight, trial in zip(range(len(best), 0, -1), best, strict=True):
            scores += weight * np.array([_likelihood(trial, centre) for centre in (self._rule, best[0].params)])
        return float(scores[0] / scores.sum()) if scores.sum() > 0 else 0.5


def _likelihood(trial: FrozenTrial, centre: Mapping[str, Any]) -> float:
    """Return the geometric mean over the parameters of how likely their values are around a centre, 1 at the centre itself."""
    logarithms = []
    for name, value in trial.params.items():
        distribution = trial.distributions[name]
        if name not in centre:
            logarithms.append(math.log(CHOICE_STAYS))
        elif isinstance(distribution, CategoricalDistribution):
            logarithms.append(0.0 if value == centre[name] else math.log((1 - CHOICE_STAYS) / len(distribution.choices)))
        else:
            assert isinstance(distribution, FloatDistribution | IntDistribution)
            away = (_position(distribution, value) - _position(distribution, centre[name])) / WIDTH
            logarithms.append(-away * away / 2)
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else 1.0


def _near(position: float, random: np.random.Generator) -> float:
    """Draw a position in [0, 1] from a normal distribution around another, cut off at both ends."""
    while not 0.0 <= (drawn := random.normal(position, WIDTH)) <= 1.0:
        pass
    return float(drawn)


def _position(distribution: FloatDistribution | IntDistribution, value: float) -> float:
    """Return where a value lies in its range, from 0 to 1."""
    low, high, value = (math.log(each) if distribution.log else float(each) for each in (distribution.low, distribution.high, value))
    return min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.5


def _number(distribution: FloatDistribution | IntDistribution, position: float) -> float | int:
    """Return the value at a position of a range."""
    low, high = (math.log(each) if distribution.log else float(each) for each in (distribution.low, distribution.high))
    value = low + position * (high - low)
    return _within(distribution, math.exp(value) if distribution.log else value)


def _within(distribution: FloatDistribution | IntDistribution, value: float) -> float | int:
    inside = min(distribution.high, max(distribution.low, value))
    return round(inside) if isinstance(distribution, IntDistribution) else float(inside)
