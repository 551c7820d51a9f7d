"""What a study file asks for that cannot work together, or that could never have an effect."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tuner import wording
from tuner.spec import domains, strategies
from tuner.spec.domains import Domain, Fixed, Range
from tuner.spec.hyperparameters import Augmentation, Hyperparameters, Loss, Optimizer
from tuner.spec.search import DRAWN, LEARNING_RATES, MIXED, AugmentationSpace, HeadSpace, SearchSpace

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


@dataclass(frozen=True, kw_only=True)
class _Condition:
    """When some hyperparameters act at all."""

    names: tuple[str, ...]
    holds: Callable[[SearchSpace], bool]
    #: why they do not act where the condition does not hold
    reason: str
    #: the field that decides
    cause: str


def has_hidden_layers(search: SearchSpace) -> bool:
    """Whether some trial's head can have hidden layers."""
    return max(domains.values(search.head_units.layers)) > 0 if isinstance(search.head_units, HeadSpace) else bool(search.head_units)


_CONDITIONS = (
    _Condition(
        names=("momentum",),
        holds=lambda search: any(optimizer.has_momentum for optimizer in search.optimizers),
        reason="acts only on sgd and rmsprop, and search.optimizer names neither; add one of them there",
        cause="search.optimizer",
    ),
    _Condition(
        names=("nesterov",),
        holds=lambda search: Optimizer.SGD in search.optimizers,
        reason="acts only on sgd, and search.optimizer does not name it; add it there",
        cause="search.optimizer",
    ),
    _Condition(
        names=("focal_gamma",),
        holds=lambda search: Loss.FOCAL in domains.values(search.loss),
        reason="acts only on the focal loss, and search.loss does not name it; add focal there",
        cause="search.loss",
    ),
    _Condition(
        names=("label_smoothing",),
        holds=lambda search: any(loss is not Loss.FOCAL for loss in domains.values(search.loss)),
        reason="does not act on the focal loss, and search.loss names no other; add cross_entropy there",
        cause="search.loss",
    ),
    _Condition(
        names=("activation", "head_units.units"),
        holds=has_hidden_layers,
        reason="acts only on hidden layers, and search.head_units has none; give it some",
        cause="search.head_units",
    ),
)
_DRAWN = tuple(f"augmentation.{name}" for name in DRAWN)
_MIXED = tuple(f"augmentation.{name}" for name in MIXED)
#: what acts in the probe only on views that are drawn once, or not at all
_FINE_TUNING = ("learning_rate.", "unfreeze", "layer_decay", "warmup", "ema", *_MIXED, *_DRAWN)


def find(search: SearchSpace, *, epochs: Epochs, sampler: strategies.Sampler, pruner: strategies.Pruner, exported: bool) -> list[Clash]:
    """Every clash of a study.

    A file that `tuner export` wrote names every hyperparameter, also those that did not act in its trial: there, no effect is no mistake.
    """
    clashes = [*_rates_without_optimizer(search), *_not_enumerable(search, epochs, sampler), *_never_pruning(epochs, pruner)]
    return clashes if exported else clashes + list(_without_effect(search, epochs))


def flat(search: SearchSpace) -> dict[str, Domain]:
    """The domain of every hyperparameter by its dotted name; a head that is given as a list of widths has none."""
    found: dict[str, Domain] = {}
    for name in SearchSpace.model_fields:
        part = getattr(search, name)
        if isinstance(part, Mapping):
            found |= {f"{name}.{key.value}": domain for key, domain in part.items()}
        elif isinstance(part, HeadSpace | AugmentationSpace):
            found |= {f"{name}.{key}": getattr(part, key) for key in type(part).model_fields}
        elif not isinstance(part, tuple):
            found[name] = part
    return found


def can_unfreeze(search: SearchSpace) -> bool:
    """Whether some trial can train a part of the backbone."""
    return bool(max(domains.values(search.unfreeze)) > 0)


def can_draw_views(search: SearchSpace) -> bool:
    """Whether some trial, its probe included, can train on versions of the images that are drawn once."""
    return bool(max(domains.values(search.augmentation.views)) > 0)


def _rates_without_optimizer(search: SearchSpace) -> Iterator[Clash]:
    for name in ("learning_rate", "probe_learning_rate"):
        for optimizer in getattr(search, name):
            if optimizer not in search.optimizers:
                message = f"is given, but search.optimizer does not name {optimizer.value}; add it there, or remove this rate"
                yield Clash(field=f"search.{name}.{optimizer.value}", message=message, others=("search.optimizer",))


def _without_effect(search: SearchSpace, epochs: Epochs) -> Iterator[Clash]:
    for name, domain in flat(search).items():
        if not _is_given(name, domain) or (name == "unfreeze" and not can_unfreeze(search)):
            continue
        if not _is_reached(name, search, epochs):
            yield _only_fine_tuned(name, epochs)
        for condition in _CONDITIONS:
            if name in condition.names and not condition.holds(search):
                yield Clash(field=f"search.{name}", message=f"{condition.reason}, or remove this", others=(condition.cause,))


def _is_reached(name: str, search: SearchSpace, epochs: Epochs) -> bool:
    """Whether a trial comes to the stage in which a hyperparameter acts."""
    if not name.startswith(_FINE_TUNING) or (epochs != 0 and can_unfreeze(search)):
        return True
    return name in _DRAWN and can_draw_views(search)


def _only_fine_tuned(name: str, epochs: Epochs) -> Clash:
    where, cure = "search.unfreeze", "unfreeze a part of the backbone"
    if epochs == 0:
        where, cure = "training.epochs", "give that some epochs"
    views = ", and in the probe on images that are drawn once" if name in _DRAWN else ""
    draw = ", give search.augmentation.views some" if name in _DRAWN else ""
    hint = "; the probe has a rate of its own, probe_learning_rate" if name.startswith("learning_rate") and epochs == 0 else ""
    message = f"acts only while fine-tuning{views}, and {where} is 0; {cure}{draw}, or remove this{hint}"
    return Clash(field=f"search.{name}", message=message, others=(where,))


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
    return {name: (domain, Fixed(value=plain.get(name))) for name, domain in flat(SearchSpace.model_validate({})).items()}


def _not_enumerable(search: SearchSpace, epochs: Epochs, sampler: strategies.Sampler) -> Iterator[Clash]:
    if not isinstance(sampler, strategies.Grid | strategies.BruteForce):
        return
    endless = [
        f"search.{name}"
        for name, domain in flat(search).items()
        if isinstance(domain, Range) and not (domain.integer and isinstance(sampler, strategies.BruteForce)) and _acts(name, search, epochs)
    ]
    if endless:
        message = f"is {sampler.name}, which tries every combination, but these are ranges: {', '.join(endless)}; "
        cure = "give each a value or {choices: [a, b]}, or choose another sampler such as tpe"
        yield Clash(field="sampler", message=message + cure, others=tuple(endless))


def _acts(name: str, search: SearchSpace, epochs: Epochs) -> bool:
    return _is_reached(name, search, epochs) and all(condition.holds(search) for condition in _CONDITIONS if name in condition.names)


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
