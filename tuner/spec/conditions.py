"""Conditions: the table of all hyperparameters, and when each of them acts.

`space.suggest` asks a chooser only for hyperparameters that act in the trial, `space.rows` lists those that act in some
trial of a study, and `clashes` refuses those that are given and act in none. All three use `TABLE`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tuner.spec import domains
from tuner.spec.domains import Domain, Fixed, Range
from tuner.spec.hyperparameters import LOSSES, Loss, Optimizer, ProbeSolver, TargetKind
from tuner.spec.search import DRAWN, MIXED, HeadSpace, SearchSpace, StudySpace

ALWAYS = "always"
#: in `Chosen`: whether trials of the study go beyond their probe
FINE_TUNES = "fine_tunes"
#: hyperparameters that stand below `model` in a study file, as lists
MODEL_NAMES = ("backbone", "image_size")
#: the values that a trial has chosen so far, by the names of `TABLE`
Chosen = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Scope:
    """A search space, and whether its trials are fine-tuned."""

    space: SearchSpace
    #: whether trials go beyond their probe
    fine_tunes: bool

    def values(self, name: str) -> tuple[Any, ...]:
        """Return every choice of a hyperparameter, or both ends of its range, and 0 if it may be switched off."""
        if name == FINE_TUNES:
            return (self.fine_tunes,)
        if name == "unfreeze" and not self.fine_tunes:
            return (0.0,)
        if name == "head_units.layers" and not isinstance(self.space.head_units, HeadSpace):
            return (len(self.space.head_units),)
        if name == "probe_solver":
            layers = self.values("head_units.layers")
            solvers = domains.values(self.space.probe_solver) if min(layers) == 0 else ()
            return tuple(dict.fromkeys([*solvers, *([ProbeSolver.SGD] if max(layers) > 0 else [])]))
        domain = BY_NAME[name].domain(self.space)
        assert domain is not None, f"a condition depends on {name}, which some search spaces lack"
        off = (0,) if isinstance(domain, Range) and domain.off else ()
        return domains.values(domain) + off


class Reason(NamedTuple):
    """Reason why a condition never holds."""

    #: the reason and the cure
    message: str
    #: the field of the study file that decides
    field: str


@dataclass(frozen=True, kw_only=True)
class When:
    """A condition: another hyperparameter has a certain value."""

    #: name of the other hyperparameter, or `FINE_TUNES`
    name: str
    #: whether the condition holds with a value of the other hyperparameter
    accepts: Callable[[SearchSpace, Any], bool]
    #: the condition in words, given all accepted values
    in_words: Callable[[tuple[Any, ...]], str]
    #: why the condition holds in no trial; None: another check reports it
    reason: Callable[[Scope], Reason] | None = None
    #: whether a condition that holds in every trial has words of its own, not `ALWAYS`
    is_always_named: bool = False

    def holds(self, space: SearchSpace, chosen: Chosen) -> bool:
        """Return whether the condition holds in the trial that chose these values."""
        return self.accepts(space, chosen[self.name])

    def can_hold(self, scope: Scope) -> bool:
        """Return whether the condition holds in some trial."""
        return any(self.accepts(scope.space, value) for value in scope.values(self.name))

    def words(self, scope: Scope) -> str:
        """Return the condition in words, `ALWAYS` if it holds in every trial."""
        values = scope.values(self.name)
        accepted = tuple(value for value in values if self.accepts(scope.space, value))
        return ALWAYS if len(accepted) == len(values) and not self.is_always_named else self.in_words(accepted)

    def reasons(self, scope: Scope) -> list[Reason]:
        """Return why the condition never holds, or None if this check finds no reason."""
        return [] if self.reason is None else [self.reason(scope)]


@dataclass(frozen=True, kw_only=True)
class AnyOf:
    """A condition: at least one of several holds."""

    conditions: tuple[When, ...]

    def holds(self, space: SearchSpace, chosen: Chosen) -> bool:
        """Return whether the condition holds in the trial that chose these values."""
        return any(condition.holds(space, chosen) for condition in self.conditions)

    def can_hold(self, scope: Scope) -> bool:
        """Return whether the condition holds in some trial."""
        return any(condition.can_hold(scope) for condition in self.conditions)

    def words(self, scope: Scope) -> str:
        """Return the condition in words, `ALWAYS` if it holds in every trial."""
        words = [condition.words(scope) for condition in self.conditions if condition.can_hold(scope)]
        return ALWAYS if ALWAYS in words else " or ".join(words)

    def reasons(self, scope: Scope) -> list[Reason]:
        """Return why no condition holds: the reason of the first one, with the cures of the others."""
        first, *others = [reason for condition in self.conditions for reason in condition.reasons(scope)]
        return [Reason(", or ".join([first.message, *(other.message for other in others)]), first.field)]


Condition = When | AnyOf


@dataclass(frozen=True, kw_only=True)
class Hyperparameter:
    """A hyperparameter as a study file names it."""

    #: dotted, below `search`; a learning rate has one entry for each optimizer
    name: str
    #: the values that trials may take; None: the search space has no such hyperparameter
    domain: Callable[[SearchSpace], Domain | None]
    #: all of them must hold
    acts_when: tuple[Condition, ...] = ()
    #: its value in a trial in which it does not act; None: the default of `Hyperparameters`
    otherwise: Any = None
    #: names of its parameters in the storage, in a trial that chose these values; None: one parameter of the same name
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


def domains_by_name(space: SearchSpace) -> dict[str, Domain]:
    """Return the domain of every hyperparameter by its name; a head that is given as a list of widths has none."""
    found = {each.name: each.domain(space) for each in TABLE}
    return {name: domain for name, domain in found.items() if domain is not None}


def _because(message: str, field: str) -> Callable[[Scope], Reason]:
    return lambda scope: Reason(message, field)


def _no_fine_tuning(scope: Scope) -> Reason:
    if scope.fine_tunes:
        return Reason("acts only during fine-tuning, but search.unfreeze is 0; set that above 0", "search.unfreeze")
    return Reason("acts only during fine-tuning, but training.epochs is 0; set that above 0", "training.epochs")


_STUDY_FINE_TUNES = When(
    name=FINE_TUNES, accepts=lambda space, value: bool(value), in_words=lambda accepted: "trials are fine-tuned", reason=_no_fine_tuning
)
_FINE_TUNED = When(
    name="unfreeze", accepts=lambda space, value: value > 0, in_words=lambda accepted: "unfreeze > 0", reason=_no_fine_tuning
)


def _optimizer_is(*optimizers: Optimizer, reason: str | None = None) -> When:
    return _optimizer(lambda space, value: value in optimizers, reason)


def _optimizer(accepts: Callable[[SearchSpace, Any], bool], reason: str | None) -> When:
    return When(
        name="optimizer",
        accepts=accepts,
        in_words=lambda accepted: f"optimizer is {' or '.join(Optimizer(value).value for value in accepted)}",
        reason=None if reason is None else _because(reason, "search.optimizer"),
    )


_HAS_MOMENTUM = _optimizer_is(
    *(optimizer for optimizer in Optimizer if optimizer.has_momentum),
    reason="acts only on sgd and rmsprop, but search.optimizer lists neither; add one of them there",
)
_IS_SGD = _optimizer_is(Optimizer.SGD, reason="acts only on sgd, but search.optimizer does not list it; add it there")
#: `adam` has no weight decay of its own; `SearchSpace.decays_adam` says where it has
_DECAYS = _optimizer(
    lambda space, value: value != Optimizer.ADAM or space.decays_adam,
    reason="does not act on adam, and search.optimizer lists no other optimizer; use adamw, which is adam with weight decay",
)
_IS_FOCAL = When(
    name="loss",
    accepts=lambda space, value: value == Loss.FOCAL,
    in_words=lambda accepted: "loss is focal",
    reason=_because("acts only on the focal loss, but search.loss does not list it; add focal there", "search.loss"),
)


def _no_smoothing(scope: Scope) -> Reason:
    if Loss.FOCAL in scope.values("loss"):
        return Reason("does not act on the focal loss, and search.loss lists no other loss; add cross_entropy there", "search.loss")
    return Reason("acts on the probabilities of classes, but this study predicts a number; remove data.target", "search.loss")


_SMOOTHS = When(
    name="loss",
    accepts=lambda space, value: value != Loss.FOCAL and value not in LOSSES[TargetKind.NUMBER],
    in_words=lambda accepted: "loss is not focal",
    reason=_no_smoothing,
)


def _has_hidden_layers(words: str, *, is_always_named: bool = False) -> When:
    return When(
        name="head_units.layers",
        accepts=lambda space, value: value > 0,
        in_words=lambda accepted: words,
        reason=_because("acts only on hidden layers, but search.head_units has none; add some there", "search.head_units"),
        is_always_named=is_always_named,
    )


_HEAD_IS_LINEAR = When(
    name="head_units.layers",
    accepts=lambda space, value: value == 0,
    in_words=lambda accepted: "the head has no hidden layers",
    reason=_because(
        "acts only on a head without hidden layers, but search.head_units always has some; add 0 layers there", "search.head_units"
    ),
)
_PROBE_IS_SGD = When(
    name="probe_solver",
    accepts=lambda space, value: value == ProbeSolver.SGD,
    in_words=lambda accepted: "the probe uses sgd",
    reason=_because("acts only in a probe by sgd, but search.probe_solver does not list it; add sgd there", "search.probe_solver"),
)
#: the optimizer trains something; where every probe uses sgd, the second condition is never asked
_TRAINED = AnyOf(conditions=(_PROBE_IS_SGD, _FINE_TUNED))
_HAS_VIEWS = When(
    name="augmentation.views",
    accepts=lambda space, value: value > 0,
    in_words=lambda accepted: "augmentation.views > 0",
    reason=_because("set search.augmentation.views above 0, so that it acts in the probe too", "search.augmentation.views"),
)


def _of_model(name: str) -> Callable[[SearchSpace], Domain | None]:
    return lambda space: getattr(space, name) if isinstance(space, StudySpace) else None


def _field(name: str) -> Callable[[SearchSpace], Domain | None]:
    return lambda space: getattr(space, name)


def _rate(name: str, optimizer: Optimizer) -> Callable[[SearchSpace], Domain | None]:
    return lambda space: getattr(space, name).get(optimizer)


def _head(name: str) -> Callable[[SearchSpace], Domain | None]:
    return lambda space: getattr(space.head_units, name) if isinstance(space.head_units, HeadSpace) else None


def _augmentation(name: str) -> Callable[[SearchSpace], Domain | None]:
    return lambda space: getattr(space.augmentation, name)


def _plain(name: str, *acts_when: Condition, otherwise: Any = None) -> Hyperparameter:
    return Hyperparameter(name=name, domain=_field(name), acts_when=acts_when, otherwise=otherwise)


#: all hyperparameters; `in_order` has the order in which a trial chooses them
TABLE: tuple[Hyperparameter, ...] = (
    *(Hyperparameter(name=name, domain=_of_model(name)) for name in MODEL_NAMES),
    _plain("optimizer", _TRAINED, otherwise=Optimizer.ADAMW),
    _plain("unfreeze", _STUDY_FINE_TUNES, otherwise=0.0),
    _plain("probe_solver", _HEAD_IS_LINEAR, otherwise=ProbeSolver.SGD),
    *(
        Hyperparameter(
            name=f"probe_learning_rate.{optimizer}",
            domain=_rate("probe_learning_rate", optimizer),
            acts_when=(_optimizer_is(optimizer), _PROBE_IS_SGD),
        )
        for optimizer in Optimizer
    ),
    _plain("features"),
    _plain("feature_floor"),
    _plain("weight_decay", _DECAYS, _TRAINED, otherwise=0.0),
    _plain("dropout", _TRAINED),
    _plain("class_weights"),
    _plain("batch_size", _TRAINED),
    _plain("loss"),
    _plain("momentum", _HAS_MOMENTUM, _TRAINED),
    _plain("nesterov", _IS_SGD, _TRAINED),
    _plain("label_smoothing", _SMOOTHS, _TRAINED),
    Hyperparameter(name="focal_gamma", domain=_field("focal_gamma"), acts_when=(_IS_FOCAL,)),
    Hyperparameter(name="head_units.layers", domain=_head("layers"), parameters=lambda chosen: ["head_layers"]),
    Hyperparameter(
        name="head_units.units",
        domain=_head("units"),
        acts_when=(_has_hidden_layers("each hidden layer of the head", is_always_named=True),),
        parameters=lambda chosen: [f"head_units.{layer}" for layer in range(1, chosen["head_units.layers"] + 1)],
    ),
    Hyperparameter(name="activation", domain=_field("activation"), acts_when=(_has_hidden_layers("the head has hidden layers"),)),
    *(
        Hyperparameter(
            name=f"learning_rate.{optimizer}", domain=_rate("learning_rate", optimizer), acts_when=(_optimizer_is(optimizer), _FINE_TUNED)
        )
        for optimizer in Optimizer
    ),
    *(Hyperparameter(name=name, domain=_field(name), acts_when=(_FINE_TUNED,)) for name in ("layer_decay", "warmup", "ema")),
    *(Hyperparameter(name=f"augmentation.{name}", domain=_augmentation(name)) for name in ("flip", "views")),
    *(
        Hyperparameter(name=f"augmentation.{name}", domain=_augmentation(name), acts_when=(AnyOf(conditions=(_FINE_TUNED, _HAS_VIEWS)),))
        for name in DRAWN
    ),
    *(Hyperparameter(name=f"augmentation.{name}", domain=_augmentation(name), acts_when=(_FINE_TUNED,)) for name in MIXED),
)
BY_NAME: Mapping[str, Hyperparameter] = {each.name: each for each in TABLE}
#: they decide together whether the optimizer trains anything
_FIRST = ("unfreeze", "head_units.layers", "probe_solver")


def in_order(space: SearchSpace) -> tuple[Hyperparameter, ...]:
    """Return the table in the order in which a trial chooses; a condition comes after the hyperparameters that it depends on.

    Spaces without another solver than `sgd` keep the order that they had before there was a choice: an exhaustive sampler numbers its
    combinations by this order, and a stored study counts on the numbers.
    """
    if space.probe_solver == Fixed(value=ProbeSolver.SGD):
        last = ("probe_solver",)
        return (*(each for each in TABLE if each.name not in last), *(BY_NAME[name] for name in last))
    return (*(BY_NAME[name] for name in _FIRST), *(each for each in TABLE if each.name not in _FIRST))
