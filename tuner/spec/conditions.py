"""Conditions: the table of all hyperparameters, and when each of them acts.

`space.suggest` asks a chooser only for hyperparameters that act in the trial, `space.rows` lists those that act in some
trial of a study, and `clashes` refuses those that are given and act in none. All three go by `TABLE`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tuner.spec import domains
from tuner.spec.domains import Domain, Range
from tuner.spec.hyperparameters import Loss, Optimizer
from tuner.spec.search import DRAWN, MIXED, HeadSpace, SearchSpace

ALWAYS = "always"
#: in `Chosen`: whether trials of the study go beyond their probe
FINE_TUNES = "fine_tunes"
#: what a trial has chosen so far, by the names of `TABLE`
Chosen = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Scope:
    """A search space, and how far its trials go."""

    space: SearchSpace
    #: whether trials go beyond their probe
    fine_tunes: bool

    def values(self, name: str) -> tuple[Any, ...]:
        """Return every choice of a hyperparameter, or the ends of its range, and 0 where it may be switched off."""
        if name == "unfreeze" and not self.fine_tunes:
            return (0.0,)
        domain = BY_NAME[name].domain(self.space)
        if domain is None:
            return (len(self.space.head_units),) if name == "head_units.layers" else ()  # type: ignore[arg-type]
        off = (0,) if isinstance(domain, Range) and domain.off else ()
        return domains.values(domain) + off


class Condition(Protocol):
    """When a hyperparameter acts."""

    def holds(self, space: SearchSpace, chosen: Chosen) -> bool:
        """Return whether it holds in the trial that chose these values."""
        ...

    def can_hold(self, scope: Scope) -> bool:
        """Return whether it holds in some trial."""
        ...

    def words(self, scope: Scope) -> str:
        """Return the condition in words, `ALWAYS` if it holds in every trial."""
        ...

    def reason(self, scope: Scope) -> tuple[str, str]:
        """Return why it holds in no trial, with the cure, and the field that decides."""
        ...


@dataclass(frozen=True, kw_only=True)
class When:
    """Another hyperparameter has a certain value."""

    #: name of the other hyperparameter
    name: str
    accepts: Callable[[SearchSpace, Any], bool]
    in_words: Callable[[tuple[Any, ...]], str]
    #: why it holds in no trial, and the cure
    why: str = ""
    #: the field that decides
    field: str = ""
    #: whether the words stay where the condition holds in every trial
    is_named_always: bool = False

    def holds(self, space: SearchSpace, chosen: Chosen) -> bool:
        """See `Condition`."""
        return self.accepts(space, chosen[self.name])

    def can_hold(self, scope: Scope) -> bool:
        """See `Condition`."""
        return any(self.accepts(scope.space, value) for value in scope.values(self.name))

    def words(self, scope: Scope) -> str:
        """See `Condition`."""
        values = scope.values(self.name)
        accepted = tuple(value for value in values if self.accepts(scope.space, value))
        is_named = self.is_named_always and isinstance(scope.space.head_units, HeadSpace)
        return ALWAYS if len(accepted) == len(values) and not is_named else self.in_words(accepted)

    def reason(self, scope: Scope) -> tuple[str, str]:
        """See `Condition`."""
        return self.why, self.field


@dataclass(frozen=True, kw_only=True)
class AnyOf:
    """At least one of several conditions holds."""

    conditions: tuple[Condition, ...]

    def holds(self, space: SearchSpace, chosen: Chosen) -> bool:
        """See `Condition`."""
        return any(condition.holds(space, chosen) for condition in self.conditions)

    def can_hold(self, scope: Scope) -> bool:
        """See `Condition`."""
        return any(condition.can_hold(scope) for condition in self.conditions)

    def words(self, scope: Scope) -> str:
        """See `Condition`."""
        words = [condition.words(scope) for condition in self.conditions if condition.can_hold(scope)]
        return ALWAYS if ALWAYS in words else " or ".join(words)

    def reason(self, scope: Scope) -> tuple[str, str]:
        """See `Condition`: the reason of the first condition, with the cure of the others."""
        why, field = self.conditions[0].reason(scope)
        return f"{why}{''.join(f', or {condition.reason(scope)[0]}' for condition in self.conditions[1:])}", field


@dataclass(frozen=True, kw_only=True)
class FineTuned:
    """The trial goes beyond its probe, and trains a part of the backbone."""

    def holds(self, space: SearchSpace, chosen: Chosen) -> bool:
        """See `Condition`."""
        return bool(chosen["unfreeze"] > 0)

    def can_hold(self, scope: Scope) -> bool:
        """See `Condition`."""
        return bool(max(scope.values("unfreeze")) > 0)

    def words(self, scope: Scope) -> str:
        """See `Condition`."""
        return "unfreeze > 0" if 0 in scope.values("unfreeze") else ALWAYS

    def reason(self, scope: Scope) -> tuple[str, str]:
        """See `Condition`."""
        if not scope.fine_tunes:
            return "acts only while fine-tuning, and training.epochs is 0; give that some epochs", "training.epochs"
        return "acts only while fine-tuning, and search.unfreeze is 0; unfreeze a part of the backbone", "search.unfreeze"


@dataclass(frozen=True, kw_only=True)
class StudyFineTunes:
    """The trials of the study go beyond their probe."""

    def holds(self, space: SearchSpace, chosen: Chosen) -> bool:
        """See `Condition`."""
        return bool(chosen[FINE_TUNES])

    def can_hold(self, scope: Scope) -> bool:
        """See `Condition`."""
        return scope.fine_tunes

    def words(self, scope: Scope) -> str:
        """See `Condition`."""
        return ALWAYS

    def reason(self, scope: Scope) -> tuple[str, str]:
        """See `Condition`."""
        return FineTuned().reason(scope)


@dataclass(frozen=True, kw_only=True)
class Hyperparameter:
    """A hyperparameter as a study file names it."""

    #: dotted, below `search`; a rate has one entry for each optimizer
    name: str
    #: the values that trials may take; None: the space has none
    domain: Callable[[SearchSpace], Domain | None]
    #: all of them must hold
    acts_when: tuple[Condition, ...] = ()
    #: its value in a trial in which it does not act; None: the default of `Hyperparameters`
    otherwise: Any = None
    #: the parameters of the storage that hold it, in a trial that chose these values; None: one of the same name
    parameters: Callable[[Chosen], list[str]] | None = None

    def acts(self, space: SearchSpace, chosen: Chosen) -> bool:
        """Return whether it acts in the trial that chose these values."""
        return all(condition.holds(space, chosen) for condition in self.acts_when)

    def can_act(self, scope: Scope) -> bool:
        """Return whether it acts in some trial."""
        return all(condition.can_hold(scope) for condition in self.acts_when)

    def words(self, scope: Scope) -> str:
        """Return when it acts, in words."""
        words = [condition.words(scope) for condition in self.acts_when]
        return " and ".join(each for each in words if each != ALWAYS) or ALWAYS


def flat(space: SearchSpace) -> dict[str, Domain]:
    """Return the domain of every hyperparameter by its name; a head that is given as a list of widths has none."""
    found = {each.name: each.domain(space) for each in TABLE}
    return {name: domain for name, domain in found.items() if domain is not None}


def _optimizer_is(*optimizers: Optimizer, why: str = "") -> When:
    return When(
        name="optimizer",
        accepts=lambda space, value: value in optimizers,
        in_words=lambda accepted: f"optimizer is {' or '.join(Optimizer(value).value for value in accepted)}",
        why=why,
        field="search.optimizer",
    )


#: `adam` has no weight decay of its own; `SearchSpace.decays_adam` says where it has
_DECAYS = When(
    name="optimizer",
    accepts=lambda space, value: value != Optimizer.ADAM or space.decays_adam,
    in_words=lambda accepted: f"optimizer is {' or '.join(Optimizer(value).value for value in accepted)}",
    why="does not act on adam, and search.optimizer names no other; write adamw, which is adam with weight decay",
    field="search.optimizer",
)
_IS_FOCAL = When(
    name="loss",
    accepts=lambda space, value: value == Loss.FOCAL,
    in_words=lambda accepted: "loss is focal",
    why="acts only on the focal loss, and search.loss does not name it; add focal there",
    field="search.loss",
)
_IS_NOT_FOCAL = When(
    name="loss",
    accepts=lambda space, value: value != Loss.FOCAL,
    in_words=lambda accepted: "loss is not focal",
    why="does not act on the focal loss, and search.loss names no other; add cross_entropy there",
    field="search.loss",
)


def _has_hidden_layers(words: str) -> When:
    return When(
        name="head_units.layers",
        accepts=lambda space, value: value > 0,
        in_words=lambda accepted: words,
        why="acts only on hidden layers, and search.head_units has none; give it some",
        field="search.head_units",
        is_named_always=True,
    )


_HAS_VIEWS = When(
    name="augmentation.views",
    accepts=lambda space, value: value > 0,
    in_words=lambda accepted: "augmentation.views > 0",
    why="give search.augmentation.views some, so that the probe sees it too",
    field="search.augmentation.views",
)


def _field(name: str) -> Callable[[SearchSpace], Domain | None]:
    return lambda space: getattr(space, name)


def _rate(name: str, optimizer: Optimizer) -> Callable[[SearchSpace], Domain | None]:
    return lambda space: getattr(space, name).get(optimizer)


def _head(name: str) -> Callable[[SearchSpace], Domain | None]:
    return lambda space: getattr(space.head_units, name) if isinstance(space.head_units, HeadSpace) else None


def _augmentation(name: str) -> Callable[[SearchSpace], Domain | None]:
    return lambda space: getattr(space.augmentation, name)


def _plain(*names: str) -> tuple[Hyperparameter, ...]:
    return tuple(Hyperparameter(name=name, domain=_field(name)) for name in names)


#: in the order in which a trial chooses them; a condition comes after what it asks about
TABLE: tuple[Hyperparameter, ...] = (
    Hyperparameter(name="optimizer", domain=_field("optimizer")),
    Hyperparameter(name="unfreeze", domain=_field("unfreeze"), acts_when=(StudyFineTunes(),), otherwise=0.0),
    *(
        Hyperparameter(
            name=f"probe_learning_rate.{optimizer}", domain=_rate("probe_learning_rate", optimizer), acts_when=(_optimizer_is(optimizer),)
        )
        for optimizer in Optimizer
    ),
    *_plain("features"),
    Hyperparameter(name="weight_decay", domain=_field("weight_decay"), acts_when=(_DECAYS,), otherwise=0.0),
    *_plain("dropout", "class_weights", "batch_size", "loss"),
    Hyperparameter(
        name="momentum",
        domain=_field("momentum"),
        acts_when=(
            _optimizer_is(
                *(optimizer for optimizer in Optimizer if optimizer.has_momentum),
                why="acts only on sgd and rmsprop, and search.optimizer names neither; add one of them there",
            ),
        ),
    ),
    Hyperparameter(
        name="nesterov",
        domain=_field("nesterov"),
        acts_when=(_optimizer_is(Optimizer.SGD, why="acts only on sgd, and search.optimizer does not name it; add it there"),),
    ),
    Hyperparameter(name="label_smoothing", domain=_field("label_smoothing"), acts_when=(_IS_NOT_FOCAL,)),
    Hyperparameter(name="focal_gamma", domain=_field("focal_gamma"), acts_when=(_IS_FOCAL,)),
    Hyperparameter(name="head_units.layers", domain=_head("layers"), parameters=lambda chosen: ["head_layers"]),
    Hyperparameter(
        name="head_units.units",
        domain=_head("units"),
        acts_when=(_has_hidden_layers("each hidden layer of the head"),),
        parameters=lambda chosen: [f"head_units.{layer}" for layer in range(1, chosen["head_units.layers"] + 1)],
    ),
    Hyperparameter(name="activation", domain=_field("activation"), acts_when=(_has_hidden_layers("the head has hidden layers"),)),
    *(
        Hyperparameter(
            name=f"learning_rate.{optimizer}", domain=_rate("learning_rate", optimizer), acts_when=(_optimizer_is(optimizer), FineTuned())
        )
        for optimizer in Optimizer
    ),
    *(Hyperparameter(name=name, domain=_field(name), acts_when=(FineTuned(),)) for name in ("layer_decay", "warmup", "ema")),
    *(Hyperparameter(name=f"augmentation.{name}", domain=_augmentation(name)) for name in ("flip", "views")),
    *(
        Hyperparameter(name=f"augmentation.{name}", domain=_augmentation(name), acts_when=(AnyOf(conditions=(FineTuned(), _HAS_VIEWS)),))
        for name in DRAWN
    ),
    *(Hyperparameter(name=f"augmentation.{name}", domain=_augmentation(name), acts_when=(FineTuned(),)) for name in MIXED),
)
BY_NAME: Mapping[str, Hyperparameter] = {each.name: each for each in TABLE}
