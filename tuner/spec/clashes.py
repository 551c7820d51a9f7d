"""What a study file asks for that cannot work together, or that could never have an effect."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tuner import wording
from tuner.spec import conditions, domains, strategies
from tuner.spec.conditions import Scope
from tuner.spec.domains import Domain, Fixed, Range
from tuner.spec.hyperparameters import Augmentation, Hyperparameters, Optimizer
from tuner.spec.search import LEARNING_RATES, SearchSpace

Epochs = int | Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class Clash:
    """One combination that cannot work."""

    #: dotted path of the field that is to change, from the section that is checked
    field: str
    #: what was given and what was expected, with the cure
    message: str
    #: the other fields that take part in it
    others: tuple[str, ...] = ()


class Clashes(ValueError):
    """Raised inside a validator of a section, so that all its clashes are reported at once."""

    def __init__(self, clashes: Sequence[Clash]) -> None:
        self.clashes = tuple(clashes)
        super().__init__("\n".join(f"{clash.field} {clash.message}" for clash in clashes))


def find(search: SearchSpace, *, epochs: Epochs, sampler: strategies.Sampler, pruner: strategies.Pruner, exported: bool) -> list[Clash]:
    """Every clash of a study.

    A file that `tuner export` wrote names every hyperparameter, also those that did not act in its trial: there, no effect is no mistake.
    """
    clashes = [*_rates_without_optimizer(search), *_not_enumerable(search, epochs, sampler), *_never_pruning(epochs, pruner)]
    return clashes if exported else clashes + list(_without_effect(search, epochs))


def _rates_without_optimizer(search: SearchSpace) -> Iterator[Clash]:
    for name in ("learning_rate", "probe_learning_rate"):
        for optimizer in getattr(search, name):
            if optimizer not in search.optimizers:
                message = f"is given, but search.optimizer does not name {optimizer.value}; add it there, or remove this rate"
                yield Clash(field=f"search.{name}.{optimizer.value}", message=message, others=("search.optimizer",))


def _without_effect(search: SearchSpace, epochs: Epochs) -> Iterator[Clash]:
    scope = Scope(space=search, fine_tunes=epochs != 0)
    for name, domain in conditions.flat(search).items():
        if not _is_given(name, domain) or (name == "unfreeze" and not max(domains.values(domain)) > 0):
            continue
        for condition in conditions.BY_NAME[name].acts_when:
            if not condition.can_hold(scope):
                reason, field = condition.reason(scope)
                is_probe = name.startswith("learning_rate") and epochs == 0
                hint = "; the probe has a rate of its own, probe_learning_rate" if is_probe else ""
                if reason:
                    yield Clash(field=f"search.{name}", message=f"{reason}, or remove this{hint}", others=(field,))


def _is_given(name: str, domain: Domain) -> bool:
    """Whether a domain says more than the default, or than the value that a trial takes without it."""
    section, _, key = name.partition(".")
    if section in ("learning_rate", "probe_learning_rate"):
        low, high = LEARNING_RATES[Optimizer(key)]
        return section == "learning_rate" and domain != Range(low=low, high=high, log=True)
    return domain not in _usual()[name]


@functools.cache
def _usual() -> dict[str, tuple[Domain, Domain]]:
    """For each hyperparameter the default domain, and the value of a trial that nothing was said to."""
    plain = Hyperparameters().model_dump() | {f"augmentation.{name}": value for name, value in Augmentation().model_dump().items()}
    return {name: (domain, Fixed(value=plain.get(name))) for name, domain in conditions.flat(SearchSpace.model_validate({})).items()}


def _not_enumerable(search: SearchSpace, epochs: Epochs, sampler: strategies.Sampler) -> Iterator[Clash]:
    if not isinstance(sampler, strategies.Grid | strategies.BruteForce):
        return
    endless = [
        f"search.{name}"
        for name, domain in conditions.flat(search).items()
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
        yield Clash(field="pruner.warmup", message="is 1, so that no epoch can be pruned; lower it, or write pruner: none")
    if epochs == "auto" or epochs == 0:
        return
    if isinstance(pruner, strategies.TopK) and pruner.epochs >= epochs:
        message = f"is {pruner.epochs}, but trials end after {epochs} epochs (training.epochs); lower it, or write pruner: none"
        yield Clash(field="pruner.epochs", message=message, others=("training.epochs",))
    if isinstance(pruner, strategies.Patient) and pruner.patience >= epochs:
        message = f"is {pruner.patience}, but there are only {epochs} epochs to wait (training.epochs); lower it, or write pruner: none"
        yield Clash(field="pruner.patience", message=message, others=("training.epochs",))
    if isinstance(pruner, strategies.Hyperband | strategies.SuccessiveHalving) and pruner.reduction_factor > epochs:
        factor = wording.number(pruner.reduction_factor)
        message = f"is {factor}, but {epochs} epochs (training.epochs) cannot be parted by {factor}; lower it, or write pruner: none"
        yield Clash(field="pruner.reduction_factor", message=message, others=("training.epochs",))
