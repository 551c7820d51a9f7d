"""A search space into the hyperparameters of one trial, asked of whoever chooses: a sampler, a rule, an enumeration."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tuner import wording
from tuner.spec import domains
from tuner.spec.domains import Choice, Domain, Fixed, Range
from tuner.spec.hyperparameters import Augmentation, Hyperparameters, Loss, Optimizer
from tuner.spec.search import DRAWN, MIXED, HeadSpace, SearchSpace
from tuner.spec.study import StudySpec

_ALWAYS = "always"
_FINE_TUNED = "unfreeze > 0"
_VIEWED = "augmentation.views > 0"


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
    """The hyperparameters that `chooser` makes of a space; it is asked only for what acts, given what it chose before."""
    optimizer = choose(chooser, "optimizer", space.optimizer)
    unfreeze = choose(chooser, "unfreeze", space.unfreeze) if fine_tunes else 0.0
    chosen: dict[str, Any] = {
        "optimizer": optimizer,
        "unfreeze": unfreeze,
        "probe_learning_rate": choose(chooser, f"probe_learning_rate.{optimizer}", space.probe_learning_rate[optimizer]),
    }
    for name in ("features", "weight_decay", "dropout", "class_weights", "batch_size", "loss"):
        chosen[name] = choose(chooser, name, getattr(space, name))
    if Optimizer(optimizer).has_momentum:
        chosen["momentum"] = choose(chooser, "momentum", space.momentum)
    if optimizer == Optimizer.SGD:
        chosen["nesterov"] = choose(chooser, "nesterov", space.nesterov)
    regulator = "focal_gamma" if chosen["loss"] == Loss.FOCAL else "label_smoothing"
    chosen[regulator] = choose(chooser, regulator, getattr(space, regulator))
    chosen |= _head(chooser, space)
    if unfreeze > 0:
        chosen["learning_rate"] = choose(chooser, f"learning_rate.{optimizer}", space.learning_rate[optimizer])
        for name in ("layer_decay", "warmup", "ema"):
            chosen[name] = choose(chooser, name, getattr(space, name))
    chosen["augmentation"] = _augmentation(chooser, space, fine_tunes=unfreeze > 0)
    return Hyperparameters(**chosen)


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
    """What a study searches and what it holds fixed, where it can act at all."""
    space = spec.search
    fields = [*_rows_of_optimizer(space), ("features", space.features, _ALWAYS), *_rows_of_head(space), *_rows_of_loss(space)]
    fields += [("class_weights", space.class_weights, _ALWAYS), ("batch_size", space.batch_size, _ALWAYS)]
    tuned = _when_fine_tuned(space) if fine_tunes(spec) else None
    fields += [*_rows_of_fine_tuning(space, tuned), *_rows_of_augmentation(space, tuned)]
    return [SpaceRow(name=name, what=what(domain), when=when, is_searched=not isinstance(domain, Fixed)) for name, domain, when in fields]


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


def _head(chooser: Chooser, space: SearchSpace) -> dict[str, Any]:
    if isinstance(space.head_units, HeadSpace):
        num_layers = choose(chooser, "head_layers", space.head_units.layers)
        units = tuple(choose(chooser, f"head_units.{layer}", space.head_units.units) for layer in range(1, num_layers + 1))
    else:
        units = space.head_units
    return {"head_units": units} | ({"activation": choose(chooser, "activation", space.activation)} if units else {})


def _augmentation(chooser: Chooser, space: SearchSpace, *, fine_tunes: bool) -> Augmentation:
    """Mirror images and views act in the probe too, and so does, where views are drawn, what changes one image at a time."""
    chosen: dict[str, Any] = {}
    for name in ("flip", "views", *DRAWN, *MIXED):
        if name in ("flip", "views") or fine_tunes or (name in DRAWN and chosen["views"] > 0):
            chosen[name] = choose(chooser, f"augmentation.{name}", getattr(space.augmentation, name))
    return Augmentation(**chosen)


_Field = tuple[str, Domain, str]


def _rows_of_optimizer(space: SearchSpace) -> Iterator[_Field]:
    yield "optimizer", space.optimizer, _ALWAYS
    for optimizer in space.optimizers:
        yield f"probe_learning_rate.{optimizer}", space.probe_learning_rate[optimizer], _chosen(space, optimizer)
    with_momentum = [optimizer for optimizer in space.optimizers if Optimizer(optimizer).has_momentum]
    if with_momentum:
        yield "momentum", space.momentum, _chosen(space, *with_momentum)
    if Optimizer.SGD in space.optimizers:
        yield "nesterov", space.nesterov, _chosen(space, Optimizer.SGD)
    yield "weight_decay", space.weight_decay, _ALWAYS
    yield "dropout", space.dropout, _ALWAYS


def _chosen(space: SearchSpace, *optimizers: Optimizer) -> str:
    if set(space.optimizers) <= set(optimizers):
        return _ALWAYS
    return f"optimizer is {' or '.join(optimizer.value for optimizer in optimizers)}"


def _rows_of_head(space: SearchSpace) -> Iterator[_Field]:
    if not isinstance(space.head_units, HeadSpace):
        yield "head_units", Fixed(value=space.head_units), _ALWAYS
        if space.head_units:
            yield "activation", space.activation, _ALWAYS
        return
    layers = space.head_units.layers
    yield "head_units.layers", layers, _ALWAYS
    if layers != Fixed(value=0):
        yield "head_units.units", space.head_units.units, "each hidden layer of the head"
        yield "activation", space.activation, "the head has hidden layers"


def _rows_of_loss(space: SearchSpace) -> Iterator[_Field]:
    losses = set(space.loss.values) if isinstance(space.loss, Choice) else {getattr(space.loss, "value", None)}
    yield "loss", space.loss, _ALWAYS
    if losses != {Loss.FOCAL}:
        yield "label_smoothing", space.label_smoothing, "loss is not focal" if Loss.FOCAL in losses else _ALWAYS
    if Loss.FOCAL in losses:
        yield "focal_gamma", space.focal_gamma, "loss is focal" if len(losses) > 1 else _ALWAYS


def _when_fine_tuned(space: SearchSpace) -> str | None:
    """When a trial is fine-tuned, given that the study does that; None: never."""
    if space.unfreeze == Fixed(value=0.0):
        return None
    return _FINE_TUNED if _may_be_zero(space.unfreeze) else _ALWAYS


def _may_be_zero(domain: Domain) -> bool:
    return 0 in domains.values(domain) or (isinstance(domain, Range) and domain.off)


def _rows_of_fine_tuning(space: SearchSpace, when: str | None) -> Iterator[_Field]:
    if when is None:
        return
    yield "unfreeze", space.unfreeze, _ALWAYS
    for optimizer in space.optimizers:
        chosen = _chosen(space, optimizer)
        both = " and ".join(condition for condition in (chosen, when) if condition != _ALWAYS)
        yield f"learning_rate.{optimizer}", space.learning_rate[optimizer], both or _ALWAYS
    for name in ("layer_decay", "warmup", "ema"):
        yield name, getattr(space, name), when


def _rows_of_augmentation(space: SearchSpace, when: str | None) -> Iterator[_Field]:
    views = space.augmentation.views
    viewed = None if views == Fixed(value=0) else _VIEWED if _may_be_zero(views) else _ALWAYS
    drawn = _ALWAYS if _ALWAYS in (when, viewed) else " or ".join(condition for condition in (when, viewed) if condition) or None
    moments = {"flip": _ALWAYS, "views": _ALWAYS} | dict.fromkeys(DRAWN, drawn) | dict.fromkeys(MIXED, when)
    for name, moment in moments.items():
        if moment is not None:
            yield f"augmentation.{name}", getattr(space.augmentation, name), moment


def _shown(value: Any) -> str:
    plain = getattr(value, "value", value)
    return plain if isinstance(plain, str) else wording.show(plain)
