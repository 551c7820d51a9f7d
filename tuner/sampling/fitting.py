"""Hyperparameters that were trained with elsewhere into the parameters of a study, or the reasons why they are none of its own."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tuner import wording
from tuner.spec import space
from tuner.spec.domains import Domain, Fixed
from tuner.spec.hyperparameters import Hyperparameters
from tuner.spec.search import HeadSpace, SearchSpace
from tuner.spec.study import StudySpec

#: what decides which of the others act: where one of them does not fit, no more is said
_DECISIVE = ("optimizer", "loss", "unfreeze", "head_units")


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a study's search would have to choose to come to some hyperparameters."""

    #: by the names of its parameters
    values: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]


def fit(known: Hyperparameters, spec: StudySpec) -> Fitted | list[str]:
    """The parameters by which a study comes to these hyperparameters; where it never does, the reasons."""
    follower = _Follower(known)
    reached = space.suggest(follower, spec.search, fine_tunes=space.fine_tunes(spec))
    if reached == known:
        return Fitted(values=follower.values, distributions=follower.distributions)
    misfits = dict(_misfits(known, reached, spec))
    decisive = [reason for name, reason in misfits.items() if name in _DECISIVE]
    return decisive or list(misfits.values())


def fixed(spec: StudySpec) -> Hyperparameters | list[str]:
    """The hyperparameters of a study file of fixed values; the names of what it searches if it is none."""
    searched = [row.name for row in space.rows(spec) if row.is_searched]
    return searched or space.suggest(_Follower(Hyperparameters()), spec.search, fine_tunes=space.fine_tunes(spec))


class _Follower:
    """A chooser that takes what some hyperparameters have, and what is nearest where that cannot be."""

    def __init__(self, known: Hyperparameters) -> None:
        self._known = known
        self.values: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self._keep(name, min(high, max(low, float(self._wish(name)))), FloatDistribution(low, high, log=log)))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return int(self._keep(name, min(high, max(low, int(self._wish(name)))), IntDistribution(low, high, log=log)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        wish = self._wish(name)
        taken = choices[list(choices).index(wish)] if wish in choices else choices[0]
        return self._keep(name, taken, CategoricalDistribution(choices))

    def _wish(self, name: str) -> Any:
        if name.endswith(".on"):
            return bool(self._wish(name.removesuffix(".on")))
        if name == "head_layers":
            return len(self._known.head_units)
        section, _, inner = name.partition(".")
        if section == "head_units":
            layer = int(inner) - 1
            return self._known.head_units[layer] if layer < len(self._known.head_units) else 0
        if section == "augmentation":
            return _plain(getattr(self._known.augmentation, inner))
        return _plain(getattr(self._known, section))

    def _keep(self, name: str, value: Any, distribution: BaseDistribution) -> Any:
        self.values[name], self.distributions[name] = value, distribution
        return value


def _misfits(known: Hyperparameters, reached: Hyperparameters, spec: StudySpec) -> Iterator[tuple[str, str]]:
    """Each hyperparameter in which the nearest that a study comes to is another, and why."""
    theirs = _flat(reached.model_dump(mode="json"))
    for name, value in _flat(known.model_dump(mode="json")).items():
        if theirs[name] != value:
            yield name, f"{name} is {wording.show(value)}; expected {_expected(name, known, spec)}"


def _expected(name: str, known: Hyperparameters, spec: StudySpec) -> str:
    """What a study's trials try of a hyperparameter, in words."""
    if name == "unfreeze" and not space.fine_tunes(spec):
        return "0, for nothing is fine-tuned there"
    if name == "head_units":
        return _expected_head(spec.search)
    section, _, inner = name.partition(".")
    owner: Any = spec.search.augmentation if section == "augmentation" else spec.search
    domain = getattr(owner, inner or section)
    if isinstance(domain, Mapping):
        domain = domain.get(known.optimizer)
    return _what(domain)


def _expected_head(search: SearchSpace) -> str:
    if isinstance(search.head_units, HeadSpace):
        return f"{_what(search.head_units.layers)} layers of {_what(search.head_units.units)} units"
    return wording.show(list(search.head_units))


def _what(domain: Domain | None) -> str:
    if domain is None:
        return "what another optimizer has"
    return f"{space.what(domain)}, which is fixed there" if isinstance(domain, Fixed) else space.what(domain)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= {f"{name}.{inner}": given for inner, given in value.items()} if isinstance(value, dict) else {name: value}
    return found


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)
