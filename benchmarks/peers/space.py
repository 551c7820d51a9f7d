"""The search space of the study as a list of parameters, and the recipe of one plain Keras model from their values.

The ranges are those of the study file. It leaves out what a plain Keras script does not have: features of several depths, a probe before
the fine-tuning, and learning rates that decrease from layer to layer. Instead, the backbone may stay frozen; the range of the learning
rate is then that of the probe.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tuner.spec import space as spaces
from tuner.spec.domains import Choice, Domain, Fixed, Range
from tuner.spec.search import AugmentationSpace, HeadSpace, SearchSpace
from tuner.spec.study import StudySpec

#: other parameters, each with the values that let this one act
Condition = tuple[tuple[str, tuple[Any, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter, searched or fixed."""

    name: str
    domain: Domain
    when: Condition = ()

    def acts(self, values: Mapping[str, Any]) -> bool:
        """Return whether a parameter acts, given the values of earlier parameters."""
        return all(values.get(name) in wanted for name, wanted in self.when)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of one plain Keras model and its training."""

    backbone: str
    #: side of the images
    image_size: int
    optimizer: str
    learning_rate: float
    weight_decay: float
    dropout: float
    label_smoothing: float
    head_units: tuple[int, ...]
    activation: str
    #: fraction of the backbone's blocks, from the top, that is trained; 0: frozen
    unfreeze: float
    batch_size: int = 32
    momentum: float = 0.9
    nesterov: bool = True
    #: fraction of the steps in which the learning rate rises from zero
    warmup: float = 0.125
    #: strengths, by their names in the study file
    augmentation: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return the recipe as values for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Recipe":
        """Return the recipe that `plain` turned into these values."""
        return cls(**dict(plain) | {"head_units": tuple(plain["head_units"])})


def parameters(study: StudySpec) -> list[Parameter]:
    """Return the searched parameters, each after those that it depends on."""
    return [parameter for parameter in _all(study) if not isinstance(parameter.domain, Fixed)]


def suggest(chooser: spaces.Chooser, study: StudySpec) -> dict[str, Any]:
    """Return values for the parameters that act."""
    values: dict[str, Any] = {}
    for parameter in parameters(study):
        if parameter.acts(values):
            values[parameter.name] = spaces.choose(chooser, parameter.name, parameter.domain)
    return values


def recipe(values: Mapping[str, Any], study: StudySpec) -> Recipe:
    """Return the recipe for these values; a parameter that does not act is off."""
    taken = {parameter.name: parameter.domain.value for parameter in _all(study) if isinstance(parameter.domain, Fixed)}
    taken |= values
    optimizer = str(taken["optimizer"])
    unfreezes = bool(taken["unfreeze.on"])
    rate = f"{'learning_rate' if unfreezes else 'probe_learning_rate'}.{optimizer}"
    has_layer = taken.get("head_layers", 0) > 0
    return Recipe(
        backbone=str(taken["backbone"]),
        image_size=int(taken["image_size"]),
        optimizer=optimizer,
        learning_rate=taken[rate],
        unfreeze=taken["unfreeze"] if unfreezes else 0.0,
        head_units=(int(taken["head_units"]),) if has_layer else (),
        activation=str(taken["activation"]) if has_layer else "relu",
        augmentation={name: _plain(taken.get(f"augmentation.{name}", 0.0)) for name in _AUGMENTATIONS},
        **{name: taken.get(name, 0.0) for name in ("weight_decay", "dropout", "label_smoothing")},
        **{name: taken[name] for name in ("batch_size", "momentum", "nesterov", "warmup")},
    )


_AUGMENTATIONS = tuple(name for name in AugmentationSpace.model_fields if name != "views")


def _all(study: StudySpec) -> Iterator[Parameter]:
    search = study.search
    yield _one_of("backbone", study.model.backbones)
    yield _one_of("image_size", study.model.sizes)
    yield _parameter("optimizer", search.optimizer)
    yield Parameter(name="unfreeze.on", domain=Choice(values=(True, False)))
    yield from _switched("unfreeze", search.unfreeze, (("unfreeze.on", (True,)),))
    for optimizer in search.optimizers:
        chosen = (("optimizer", (optimizer.value,)),) if len(search.optimizers) > 1 else ()
        for name, is_on in (("learning_rate", True), ("probe_learning_rate", False)):
            rates = getattr(search, name)
            yield from _switched(f"{name}.{optimizer.value}", rates[optimizer], (*chosen, ("unfreeze.on", (is_on,))))
    for name in ("weight_decay", "dropout", "label_smoothing", "batch_size", "momentum", "nesterov", "warmup"):
        yield from _switched(name, getattr(search, name))
    yield from _head(search)
    for name in _AUGMENTATIONS:
        yield from _switched(f"augmentation.{name}", getattr(search.augmentation, name))


def _head(search: SearchSpace) -> Iterator[Parameter]:
    if not isinstance(search.head_units, HeadSpace):
        yield Parameter(name="head_layers", domain=Fixed(value=min(1, len(search.head_units))))
        yield Parameter(name="head_units", domain=Fixed(value=search.head_units[0] if search.head_units else 0))
        yield Parameter(name="activation", domain=search.activation)
        return
    layers = search.head_units.layers
    # at most one hidden layer, as in the study file
    yield Parameter(name="head_layers", domain=layers if isinstance(layers, Fixed) else Choice(values=(0, 1)))
    yield from _switched("head_units", search.head_units.units, (("head_layers", (1,)),))
    yield from _switched("activation", search.activation, (("head_layers", (1,)),))


def _one_of(name: str, values: Sequence[Any]) -> Parameter:
    return Parameter(name=name, domain=Choice(values=tuple(values)) if len(values) > 1 else Fixed(value=values[0]))


def _switched(name: str, domain: Domain, when: Condition = ()) -> Iterator[Parameter]:
    """Yield a parameter, and before it a switch if it may be off."""
    if isinstance(domain, Range) and domain.off:
        yield Parameter(name=f"{name}.on", domain=Choice(values=(True, False)), when=when)
        when = (*when, (f"{name}.on", (True,)))
        domain = replace(domain, off=False)
    yield _parameter(name, domain, when)


def _parameter(name: str, domain: Domain, when: Condition = ()) -> Parameter:
    if isinstance(domain, Choice):
        domain = Choice(values=tuple(_plain(value) for value in domain.values))
    return Parameter(name=name, domain=domain, when=when)


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)
