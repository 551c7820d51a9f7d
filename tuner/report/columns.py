"""The sampled parameters of trials into columns: a place between 0 and 1 for each value, and the labels of the scale."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial

from tuner import wording

#: the switch of a parameter that may be off
SWITCH = ".on"
#: where values begin on the scale of a parameter that may be off
_ON = 0.14
#: room beside the first and the last choice
_CHOICE_MARGIN = 0.08
#: whole numbers of so few values stand beside each other as choices do
_FEW = 6
#: parameters that a study file calls otherwise
_NAMES = {"head_layers": "head_units.layers"}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One parameter over the trials that have it."""

    name: str
    #: places by the number of the trial
    places: Mapping[int, float]
    #: label and place, from the left
    labels: Sequence[tuple[str, float]]
    is_choice: bool
    is_log: bool

    @property
    def ends(self) -> tuple[str, str]:
        """The labels at both ends of the scale."""
        return self.labels[0][0], self.labels[-1][0]


def columns(trials: Sequence[FrozenTrial]) -> list[Column]:
    """The parameters that took more than one value in some trials, in the order in which they were first sampled."""
    found = [_column(name, trials) for name in _names(trials)]
    return [column for column in found if len(set(column.places.values())) > 1]


def base(name: str) -> str:
    """The parameter that a name or its switch belongs to."""
    return name.removesuffix(SWITCH)


def shown(name: str) -> str:
    """A parameter as a study file calls it."""
    return _NAMES.get(name, name)


def _names(trials: Sequence[FrozenTrial]) -> list[str]:
    return list(dict.fromkeys(base(name) for trial in trials for name in trial.params))


def _column(name: str, trials: Sequence[FrozenTrial]) -> Column:
    having = [trial for trial in trials if name in trial.params]
    off = [trial.number for trial in trials if trial.params.get(f"{name}{SWITCH}") is False]
    distributions = [trial.distributions[name] for trial in having]
    if not having:  # only ever switched off, or on without a range
        on = {trial.number: 1.0 for trial in trials if trial.params.get(f"{name}{SWITCH}") is True}
        return Column(name=name, places=dict.fromkeys(off, 0.0) | on, labels=[("off", 0.0), ("on", 1.0)], is_choice=True, is_log=False)
    choices = _choices(distributions)
    if choices and not off:
        return _of_choices(name, {trial.number: trial.params[name] for trial in having}, choices)
    return _of_numbers(name, {trial.number: float(trial.params[name]) for trial in having}, distributions, off)


def _choices(distributions: Sequence[BaseDistribution]) -> list[Any]:
    """All that a parameter may be, where that is little enough to stand side by side; else none."""
    whole = [one for one in distributions if isinstance(one, IntDistribution)]
    low, high = min((one.low for one in whole), default=0), max((one.high for one in whole), default=0)
    if len(whole) == len(distributions) and high - low < _FEW:
        return list(range(low, high + 1))
    known = [value for one in distributions if isinstance(one, CategoricalDistribution) for value in one.choices]
    return list(dict.fromkeys(known))


def _of_choices(name: str, values: Mapping[int, Any], choices: Sequence[Any]) -> Column:
    step = (1 - 2 * _CHOICE_MARGIN) / max(1, len(choices) - 1)
    place = {choice: _CHOICE_MARGIN + step * index for index, choice in enumerate(choices)}
    labels = [(wording.value(choice), place[choice]) for choice in choices]
    return Column(name=name, places={number: place[value] for number, value in values.items()}, labels=labels, is_choice=True, is_log=False)


def _of_numbers(name: str, values: Mapping[int, float], distributions: Sequence[Any], off: Sequence[int]) -> Column:
    low, high = min(one.low for one in distributions), max(one.high for one in distributions)
    is_log = all(one.log for one in distributions) and low > 0
    start = _ON if off else 0.0

    def place(value: float) -> float:
        if high <= low:
            return 1.0
        part = math.log(value / low) / math.log(high / low) if is_log else (value - low) / (high - low)
        return start + (1 - start) * min(1.0, max(0.0, part))

    labels = [("off", 0.0)] if off else []
    labels += [(wording.number(low), start), (wording.number(high), 1.0)]
    places = {number: place(value) for number, value in values.items()} | dict.fromkeys(off, 0.0)
    return Column(name=name, places=places, labels=labels, is_choice=False, is_log=is_log)
