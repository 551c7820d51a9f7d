"""Matching: which parameters of a study give known hyperparameters, or why none do."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tuner import wording
from tuner.spec import conditions, space
from tuner.spec.domains import Domain, Fixed
from tuner.spec.hyperparameters import Hyperparameters, Optimizer
from tuner.spec.model import Model
from tuner.spec.search import HeadSpace, SearchSpace
from tuner.spec.study import StudySpec

#: they decide which others act: if one of them does not match, the mismatches of the others are not reported
_DECISIVE = ("optimizer", "loss", "unfreeze", "head_units", "probe_solver")


@dataclass(frozen=True, kw_only=True)
class MatchedParameters:
    """The parameters that give some hyperparameters in a study."""

    #: by parameter name
    values: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]


def match(known: Hyperparameters, spec: StudySpec) -> MatchedParameters | list[str]:
    """Return the parameters of a study that give these hyperparameters, or the reasons why none do.

    A backbone or an image size does not count if the study has only one.
    """
    known = without_model(known, spec)
    chooser = _NearestChooser(known)
    reached = space.suggest(chooser, spec.space, fine_tunes=space.fine_tunes(spec))
    if reached == known:
        return MatchedParameters(values=chooser.values, distributions=chooser.distributions)
    mismatches = dict(_mismatches(known, reached, spec))
    decisive = [reason for name, reason in mismatches.items() if name in _DECISIVE]
    return decisive or list(mismatches.values())


def with_probe_of(known: Hyperparameters, spec: StudySpec) -> Hyperparameters:
    """Return hyperparameters with the solver, its learning rate, and the floor of features with which a study trains such a head."""
    reached = space.suggest(_NearestChooser(known), spec.space, fine_tunes=space.fine_tunes(spec))
    known = known.model_copy(update={"feature_floor": reached.feature_floor})
    if reached.probe_solver is known.probe_solver:
        return known
    return known.model_copy(update={"probe_solver": reached.probe_solver, "probe_learning_rate": reached.probe_learning_rate})


def fixed_hyperparameters(spec: StudySpec) -> Hyperparameters | list[str]:
    """Return the hyperparameters of a study that searches nothing; otherwise the names of the searched hyperparameters."""
    searched = [row.name for row in space.rows(spec) if row.is_searched]
    return searched or space.suggest(_NearestChooser(Hyperparameters()), spec.space, fine_tunes=space.fine_tunes(spec))


def with_model(known: Hyperparameters, model: Model) -> Hyperparameters:
    """Return hyperparameters with the backbone and the image size of their study, so that a study that searches these can use them."""
    backbone, size = (values[0] if len(values) == 1 else None for values in (model.backbones, model.sizes))
    return known.model_copy(update={"backbone": known.backbone or backbone, "image_size": known.image_size or size})


def without_model(known: Hyperparameters, spec: StudySpec) -> Hyperparameters:
    """Return hyperparameters as those of a study: without a backbone or an image size of which the study has only one."""
    only = {"backbone": len(spec.model.backbones) == 1, "image_size": len(spec.model.sizes) == 1}
    return known.model_copy(update={name: None for name, is_only in only.items() if is_only})


class _NearestChooser:
    """A chooser that takes the values of known hyperparameters, or else the nearest possible values."""

    def __init__(self, known: Hyperparameters) -> None:
        self._known = known
        self.values: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None) -> float:
        return float(self._take(name, min(high, max(low, float(self._known_value(name)))), FloatDistribution(low, high, log=log)))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
        return int(self._take(name, min(high, max(low, int(self._known_value(name)))), IntDistribution(low, high, log=log)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        wanted = self._known_value(name)
        taken = choices[list(choices).index(wanted)] if wanted in choices else choices[0]
        return self._take(name, taken, CategoricalDistribution(choices))

    def _known_value(self, name: str) -> Any:
        if name.endswith(".on"):
            return bool(self._known_value(name.removesuffix(".on")))
        if name == "head_layers":
            return len(self._known.head_units)
        section, _, inner = name.partition(".")
        if section == "head_units":
            layer = int(inner) - 1
            return self._known.head_units[layer] if layer < len(self._known.head_units) else 0
        if section == "augmentation":
            return _plain(getattr(self._known.augmentation, inner))
        return _plain(getattr(self._known, section))

    def _take(self, name: str, value: Any, distribution: BaseDistribution) -> Any:
        self.values[name], self.distributions[name] = value, distribution
        return value


def _mismatches(known: Hyperparameters, reached: Hyperparameters, spec: StudySpec) -> Iterator[tuple[str, str]]:
    """Yield each hyperparameter that the study cannot match, with the given value and what the study expects."""
    nearest, given = (wording.flatten(each.model_dump(mode="json")) for each in (reached, known))
    for name, value in nearest.items():
        if name not in given:
            yield name, f"{name} is unknown; expected {_expected(name, known, spec)}"
        elif given[name] != value:
            yield name, f"{name} is {wording.show(given[name])}; expected {_expected(name, known, spec)}"


def _expected(name: str, known: Hyperparameters, spec: StudySpec) -> str:
    """Return in words which values of a hyperparameter the study's trials have."""
    if name == "unfreeze" and not space.fine_tunes(spec):
        return "0, because that study does no fine-tuning"
    if name == "weight_decay" and known.optimizer == Optimizer.ADAM and not spec.search.decays_adam:
        return "0, because weight_decay does not act on adam in that study"
    if name == "head_units":
        return _expected_head(spec.search)
    if name in conditions.MODEL_NAMES:
        return _describe(conditions.BY_NAME[name].domain(spec.space))
    section, _, inner = name.partition(".")
    owner: Any = spec.search.augmentation if section == "augmentation" else spec.search
    domain = getattr(owner, inner or section)
    if isinstance(domain, Mapping):
        domain = domain.get(known.optimizer)
    return _describe(domain)


def _expected_head(search: SearchSpace) -> str:
    if isinstance(search.head_units, HeadSpace):
        return f"layers {_describe(search.head_units.layers)}; units {_describe(search.head_units.units)}"
    return wording.show(list(search.head_units))


def _describe(domain: Domain | None) -> str:
    if domain is None:
        return "another optimizer"
    return f"{space.describe(domain)}, which is fixed in that study" if isinstance(domain, Fixed) else space.describe(domain)


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)
