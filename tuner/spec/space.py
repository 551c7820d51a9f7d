"""Search spaces: ask a chooser (a sampler, the rule, an enumeration) for the hyperparameters of one trial."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tuner import wording
from tuner.spec import conditions, domains
from tuner.spec.domains import Choice, Domain, Fixed, Range
from tuner.spec.hyperparameters import Hyperparameters, ProbeSolver
from tuner.spec.search import HeadSpace, SearchSpace
from tuner.spec.strategies import BruteForce, Grid
from tuner.spec.study import StudySpec


class Chooser(Protocol):
    """Chooses the values of a trial's parameters, one after another; an Optuna trial is one."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None) -> float:
        """Return a number of a range."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
        """Return a whole number of a range."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of several values: str, int, float or bool."""
        ...


@dataclass(frozen=True, kw_only=True)
class SpaceRow:
    """One row of the table that `tuner check` shows."""

    #: name in the study file, below `search`
    name: str
    #: the values that trials have, in words
    what: str
    #: when it acts, in words
    when: str
    is_searched: bool


def suggest(chooser: Chooser, space: SearchSpace, *, fine_tunes: bool) -> Hyperparameters:
    """Return hyperparameters that `chooser` chooses; it is asked only for those that act, given its earlier choices."""
    chosen: dict[str, Any] = {conditions.FINE_TUNES: fine_tunes, "probe_solver": ProbeSolver.SGD}
    if isinstance(space.head_units, tuple):
        chosen |= {"head_units.layers": len(space.head_units), "head_units.units": space.head_units}
    for each in conditions.in_order(space):
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
    """Return the value of one hyperparameter; if it may be switched off, first ask for the parameter `name.on`."""
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
                return chooser.suggest_int(name, int(domain.low), int(domain.high), log=domain.log, **_step(domain, int))
            return chooser.suggest_float(name, domain.low, domain.high, log=domain.log, **_step(domain, float))


def _step(domain: Range, kind: Callable[[float], float]) -> dict[str, Any]:
    return {} if domain.step is None else {"step": kind(domain.step)}


def parameters(space: SearchSpace) -> dict[str, Domain]:
    """Return the domain of every parameter by its name in the storage, even of those that act only in some trials."""
    found: dict[str, Domain] = {}
    for each in conditions.TABLE:
        domain = each.domain(space)
        if domain is not None:
            most = int(max(domains.values(space.head_units.layers))) if isinstance(space.head_units, HeadSpace) else 0
            names = [each.name] if each.parameters is None else each.parameters({"head_units.layers": most})
            found |= dict.fromkeys(names, domain)
    return found


def fitted(given: Mapping[str, Any], space: SearchSpace) -> tuple[dict[str, Any], list[str]]:
    """Return values of parameters as a trial of the study takes them, and the reasons why others do not fit.

    Programs other than tuner do not check what they enqueue. A number of a range that may be switched off also sets its switch.
    """
    return fitted_to(given, parameters(space))


def fitted_to(given: Mapping[str, Any], known: Mapping[str, Domain]) -> tuple[dict[str, Any], list[str]]:
    """Return values of parameters as a trial takes them, given the domain of each parameter, and the reasons why others do not fit."""
    switches = {f"{name}.on": Choice(values=(True, False)) for name, domain in known.items() if isinstance(domain, Range) and domain.off}
    values: dict[str, Any] = {}
    reasons: list[str] = []
    for name, value in given.items():
        domain = known.get(name, switches.get(name))
        if domain is None:
            reasons.append(f"{name} is not a hyperparameter of this study. {wording.known(list(known), name)}")
        elif f"{name}.on" in switches and domains.is_number(value) and value == 0:
            values[f"{name}.on"] = False
        else:
            fitting = list(_fitting(domain, value))
            values |= {name: fitting[0]} if fitting else {}
            values |= {f"{name}.on": True} if fitting and f"{name}.on" in switches and f"{name}.on" not in given else {}
            reasons += [] if fitting else [f"{name} is {wording.show(value)}; expected {_expected(domain)}"]
    return values, reasons


def _fitting(domain: Domain, value: Any) -> Iterator[Any]:
    """Yield the value as the domain has it; nothing if the domain excludes it. A truth value is not a number."""
    match domain:
        case Range():
            is_inside = domains.is_number(value) and domain.low <= value <= domain.high
            if is_inside and (not domain.integer or float(value).is_integer()) and domains.keeps_step(domain, value):
                yield int(value) if domain.integer else float(value)
        case Fixed() | Choice():
            for other in (domain.value,) if isinstance(domain, Fixed) else domain.values:
                plain = getattr(other, "value", other)
                if domains.is_same(plain, value):
                    yield plain


def _expected(domain: Domain) -> str:
    return describe(domain) + (", which is fixed in this study" if isinstance(domain, Fixed) else "")


def fine_tunes(spec: StudySpec) -> bool:
    """Return whether trials of a study may be fine-tuned."""
    return spec.training.epochs != 0


def probe_solvers(spec: StudySpec) -> tuple[ProbeSolver, ...]:
    """Return the solvers that probes of a study may use."""
    return conditions.Scope(space=spec.search, fine_tunes=fine_tunes(spec)).values("probe_solver")


#: trials that the budget must have for each model, so that a study screens its models
TRIALS_A_MODEL = 2


def is_screened(spec: StudySpec) -> bool:
    """Return whether the first trials of a study screen its models, that is its combinations of backbone and image size.

    Sizes are not compared with each other, so a study of one backbone screens nothing.
    """
    num_models, num_trials = len(spec.model.backbones) * len(spec.model.sizes), spec.budget.trials
    is_short = num_trials is not None and num_trials < TRIALS_A_MODEL * num_models
    return len(spec.model.backbones) > 1 and not is_short and spec.retraining is None and not isinstance(spec.sampler, Grid | BruteForce)


def rows(spec: StudySpec) -> list[SpaceRow]:
    """Return a row for each hyperparameter that can act in the study, searched or fixed."""
    scope = conditions.Scope(space=spec.space, fine_tunes=fine_tunes(spec))
    found = []
    for each in conditions.TABLE:
        domain = each.domain(spec.space)
        if domain is None and each.name == "head_units.layers":
            found.append(_row("head_units", Fixed(value=spec.space.head_units), conditions.ALWAYS))
        elif domain is not None and each.can_act(scope):
            found.append(_row(each.name, domain, each.words(scope)))
    return found


def _row(name: str, domain: Domain, when: str) -> SpaceRow:
    return SpaceRow(name=name, what=describe(domain), when=when, is_searched=not isinstance(domain, Fixed))


def describe(domain: Domain) -> str:
    """Return the values of a domain in words."""
    match domain:
        case Fixed(value=value):
            return _describe_value(value)
        case Choice(values=values):
            return " or ".join(_describe_value(value) for value in values)
        case Range():
            scale = ", logarithmic" if domain.log else ""
            kind = ", whole" if domain.integer else ""
            off = "off, or " if domain.off else ""
            step = "" if domain.step is None else f", in steps of {wording.number(domain.step)}"
            return f"{off}{wording.number(domain.low)} to {wording.number(domain.high)}{kind}{scale}{step}"


def _describe_value(value: Any) -> str:
    plain = getattr(value, "value", value)
    return plain if isinstance(plain, str) else wording.show(plain)
