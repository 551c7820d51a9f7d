"""Clashes: fields of a study file that cannot work together, or that could never have an effect."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tuner import wording
from tuner.spec import conditions, strategies
from tuner.spec.conditions import Scope
from tuner.spec.domains import Domain, Fixed, Range
from tuner.spec.hyperparameters import Hyperparameters, Optimizer
from tuner.spec.search import LEARNING_RATES, SearchSpace

Epochs = int | Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class Clash:
    """One combination that cannot work."""

    #: dotted path of the field to change, below the section that is checked
    field: str
    #: the given value, what was expected and what to do
    message: str
    #: the other fields of the combination
    others: tuple[str, ...] = ()


class Clashes(ValueError):
    """All clashes of a section, raised by its validator so that all of them are reported at once."""

    def __init__(self, clashes: Sequence[Clash]) -> None:
        self.clashes = tuple(clashes)
        super().__init__("\n".join(f"{clash.field} {clash.message}" for clash in clashes))


def find(search: SearchSpace, *, epochs: Epochs, sampler: strategies.Sampler, pruner: strategies.Pruner, exported: bool) -> list[Clash]:
    """Return every clash of a study.

    A file that `tuner export` wrote gives every hyperparameter, even those that do not act in its trial. In an exported file, a field
    without effect is therefore no clash.
    """
    clashes = [*_rates_without_optimizer(search), *_not_enumerable(search, epochs, sampler), *_never_pruning(epochs, pruner)]
    return clashes if exported else clashes + list(_without_effect(search, epochs))


def _rates_without_optimizer(search: SearchSpace) -> Iterator[Clash]:
    for name in ("learning_rate", "probe_learning_rate"):
        for optimizer in getattr(search, name):
            if optimizer not in search.optimizers:
                message = f"is given, but search.optimizer does not list {optimizer.value}; add it there, or remove this rate"
                yield Clash(field=f"search.{name}.{optimizer.value}", message=message, others=("search.optimizer",))


def _without_effect(search: SearchSpace, epochs: Epochs) -> Iterator[Clash]:
    scope = Scope(space=search, fine_tunes=epochs != 0)
    for name, domain in conditions.domains_by_name(search).items():
        if not _is_given(name, domain):
            continue
        hint = "; the probe has its own rate, probe_learning_rate" if name.startswith("learning_rate") and epochs == 0 else ""
        for condition in conditions.BY_NAME[name].acts_when:
            if not condition.can_hold(scope):
                for reason in condition.reasons(scope):
                    yield Clash(field=f"search.{name}", message=f"{reason.message}, or remove this{hint}", others=(reason.field,))


def _is_given(name: str, domain: Domain) -> bool:
    """Return whether a domain differs from the default, and from the value of a trial in which it does not act."""
    section, _, key = name.partition(".")
    if section in ("learning_rate", "probe_learning_rate"):
        low, high = LEARNING_RATES[Optimizer(key)]
        return section == "learning_rate" and domain != Range(low=low, high=high, log=True)
    return domain not in _usual()[name]


@functools.cache
def _usual() -> dict[str, tuple[Domain, ...]]:
    """Return for each hyperparameter the default domain, and the value of a trial in which it does not act."""
    defaults = wording.flatten(Hyperparameters().model_dump())
    found: dict[str, tuple[Domain, ...]] = {}
    for name, domain in conditions.domains_by_name(SearchSpace.model_validate({})).items():
        otherwise = conditions.BY_NAME[name].otherwise
        found[name] = (domain, Fixed(value=defaults.get(name) if otherwise is None else otherwise))
    # earlier versions accepted it in a study of probes
    found["unfreeze"] += (Fixed(value=defaults["unfreeze"]),)
    return found


def _not_enumerable(search: SearchSpace, epochs: Epochs, sampler: strategies.Sampler) -> Iterator[Clash]:
    if not isinstance(sampler, strategies.Grid | strategies.BruteForce):
        return
    endless = [
        f"search.{name}"
        for name, domain in conditions.domains_by_name(search).items()
        if isinstance(domain, Range)
        and not (domain.integer and isinstance(sampler, strategies.BruteForce))
        and conditions.BY_NAME[name].can_act(Scope(space=search, fine_tunes=epochs != 0))
    ]
    if endless:
        message = f"is {sampler.name}, which tries every combination, but these are ranges: {', '.join(endless)}; "
        cure = "give each a value or {choices: [a, b]}, or choose another sampler such as tpe"
        yield Clash(field="sampler", message=message + cure, others=tuple(endless))


def _never_pruning(epochs: Epochs, pruner: strategies.Pruner) -> Iterator[Clash]:
    if isinstance(pruner, strategies.Median | strategies.Percentile) and pruner.warmup == 1:
        yield Clash(field="pruner.warmup", message="is 1, so no epoch can be pruned; lower it, or write pruner: none")
    if epochs == "auto" or epochs == 0:
        return
    if isinstance(pruner, strategies.TopK) and pruner.epochs >= epochs:
        yield _too_high("epochs", pruner.epochs, epochs)
    if isinstance(pruner, strategies.Patient) and pruner.patience >= epochs:
        yield _too_high("patience", pruner.patience, epochs)
    if isinstance(pruner, strategies.Hyperband | strategies.SuccessiveHalving) and pruner.reduction_factor > epochs:
        yield _too_high("reduction_factor", pruner.reduction_factor, epochs)


def _too_high(option: str, value: int, epochs: int) -> Clash:
    available = f"fine-tuning has only {wording.count(epochs, 'epoch')} (training.epochs)"
    message = f"is {value}, but {available}; lower it, or write pruner: none"
    return Clash(field=f"pruner.{option}", message=message, others=("training.epochs",))
