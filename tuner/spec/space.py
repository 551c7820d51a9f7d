"""A search space into the hyperparameters of one trial, asked of whoever chooses: a sampler, a rule, an enumeration."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tuner import wording
from tuner.spec import conditions
from tuner.spec.domains import Choice, Domain, Fixed, Range
from tuner.spec.hyperparameters import Hyperparameters
from tuner.spec.search import SearchSpace
from tuner.spec.study import StudySpec


class Chooser(Protocol):
    """Chooses the value of one parameter after another, as an Optuna trial does."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number of a range."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """A whole number of a range."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of some values: str, int, float or bool."""
        ...


@dataclass(frozen=True, kw_only=True)
class SpaceRow:
    """One line of the table that `tuner check` shows."""

    #: as it is called in the study file, below `search`
    name: str
    #: the values that are tried
    what: str
    #: when it acts
    when: str
    is_searched: bool


def suggest(chooser: Chooser, space: SearchSpace, *, fine_tunes: bool) -> Hyperparameters:
    """Return the hyperparameters that `chooser` makes of a space; it is asked only for those that act, given its earlier choices."""
    chosen: dict[str, Any] = {conditions.FINE_TUNES: fine_tunes}
    if isinstance(space.head_units, tuple):
        chosen |= {"head_units.layers": len(space.head_units), "head_units.units": space.head_units}
    for each in conditions.TABLE:
        if not each.acts(space, chosen):
            if each.otherwise is not None:
                chosen[each.name] = each.otherwise
        elif (domain := each.domain(space)) is not None:
            names = [each.name] if each.parameters is None else each.parameters(chosen)
            values = [choose(chooser, name, domain) for name in names]
            chosen[each.name] = tuple(values) if each.name == "head_units.units" else values[0]
    return _hyperparameters(chosen)


def _hyperparameters(chosen: dict[str, Any]) -> Hyperparameters:
    plain: dict[str, Any] = {"head_units": chosen.pop("head_units.units", ()), "augmentation": {}}
    for name, value in chosen.items():
        section, _, inner = name.partition(".")
        if section == "augmentation":
            plain["augmentation"][inner] = value
        elif name not in (conditions.FINE_TUNES, "head_units.layers"):
            plain[section] = value
    return Hyperparameters(**plain)


def choose(chooser: Chooser, name: str, domain: Domain) -> Any:
    """The value of one hyperparameter; one that may be switched off has a switch `name.on` before it."""
    match domain:
        case Fixed(value=value):
            return value
        case Choice(values=values):
            plain = [getattr(value, "value", value) for value in values]
            return values[plain.index(chooser.suggest_categorical(name, plain))]
        case Range():
            if domain.off and not chooser.suggest_categorical(f"{name}.on", [True, False]):
                return 0 if domain.integer else 0.0
            if domain.low == domain.high:
                return domain.low
            if domain.integer:
                return chooser.suggest_int(name, int(domain.low), int(domain.high), log=domain.log)
            return chooser.suggest_float(name, domain.low, domain.high, log=domain.log)


def fine_tunes(spec: StudySpec) -> bool:
    """Whether trials of a study may go beyond their probe."""
    return spec.training.epochs != 0


def rows(spec: StudySpec) -> list[SpaceRow]:
    """Return what a study searches and what it holds fixed, of all that can act."""
    scope = conditions.Scope(space=spec.search, fine_tunes=fine_tunes(spec))
    found = []
    for each in conditions.TABLE:
        domain = each.domain(spec.search)
        if domain is None and each.name == "head_units.layers":
            found.append(_row("head_units", Fixed(value=spec.search.head_units), conditions.ALWAYS))
        elif domain is not None and each.can_act(scope):
            found.append(_row(each.name, domain, each.words(scope)))
    return found


def _row(name: str, domain: Domain, when: str) -> SpaceRow:
    return SpaceRow(name=name, what=what(domain), when=when, is_searched=not isinstance(domain, Fixed))


def what(domain: Domain) -> str:
    """What trials try of a hyperparameter, in words."""
    match domain:
        case Fixed(value=value):
            return _shown(value)
        case Choice(values=values):
            return " or ".join(_shown(value) for value in values)
        case Range():
            scale = ", logarithmic" if domain.log else ""
            kind = ", whole" if domain.integer else ""
            off = "off, or " if domain.off else ""
            return f"{off}{wording.number(domain.low)} to {wording.number(domain.high)}{kind}{scale}"


def _shown(value: Any) -> str:
    plain = getattr(value, "value", value)
    return plain if isinstance(plain, str) else wording.show(plain)
