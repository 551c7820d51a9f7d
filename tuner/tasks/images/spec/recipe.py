"""The recipe: hyperparameters that need no search, by the number of training images; trial 0 of every study."""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

from tuner.spec import space as spaces
from tuner.spec.hyperparameters import Optimizer
from tuner.spec.model import TrialModel
from tuner.spec.search import LEARNING_RATES, PROBE_LEARNING_RATES, SearchSpace
from tuner.spec.study import StudySpec
from tuner.tasks.images.spec import cost

T = TypeVar("T")

#: optimizers in order of preference: first the one that the recipe was measured with, then those that it suits best
_PREFERRED = ("adamw", "adam", "nadam", "lion", "sgd", "rmsprop", "adamax", "adagrad", "adadelta")
#: learning rates measured on CIFAR-10 photographs and silhouettes: 15 epochs over all layers, starting with a probed head
_RATES = {Optimizer.ADAMW: 3e-4, Optimizer.ADAM: 3e-4, Optimizer.NADAM: 3e-4, Optimizer.SGD: 5e-3, Optimizer.LION: 5e-5}
#: nearest to the largest image size of a list
_LARGEST = 1_000_000
#: with fewer images per class, the lower layers stay frozen
_FEW_IMAGES_A_CLASS = 10
#: minimum number of images for which mixing images helps (BiT-HyperRule, arXiv 1912.11370)
_MANY_IMAGES = 20_000


class _Recipe:
    """A chooser that takes, for each parameter, the value nearest to a preferred one."""

    def __init__(self, preferred: dict[str, Any]) -> None:
        self._preferred = preferred
        self.parameters: dict[str, Any] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None) -> float:
        middle = math.sqrt(low * high) if log else (low + high) / 2
        return self._record(name, min(high, max(low, float(self._preference(name, middle)))))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
        middle = math.sqrt(low * high) if log else (low + high) / 2
        return self._record(name, min(high, max(low, round(float(self._preference(name, middle))))))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._record(name, self._nearest(self._preference(name, choices[0]), choices))

    def _preference(self, name: str, default: Any) -> Any:
        if name == "optimizer":
            return _PREFERRED
        if name.endswith(".on"):
            return bool(self._preferred.get(name.removesuffix(".on"), 0))
        return self._preferred.get(name, default)

    @staticmethod
    def _nearest(preferred: Any, choices: Sequence[Any]) -> Any:
        if isinstance(preferred, tuple):
            return next(choice for choice in preferred if choice in choices)
        if preferred in choices or isinstance(preferred, str | bool):
            return preferred if preferred in choices else choices[0]
        return min(choices, key=lambda choice: abs(choice - preferred))

    def _record(self, name: str, value: T) -> T:
        self.parameters[name] = value
        return value


def parameters(num_train: int, num_classes: int, space: SearchSpace, *, fine_tunes: bool = True) -> dict[str, Any]:
    """Return the recipe as values of the searched parameters, as near as the space allows, so that the sampler learns from trial 0."""
    recipe = _Recipe(_preferences(num_train, num_classes))
    spaces.suggest(recipe, space, fine_tunes=fine_tunes)
    return recipe.parameters


def chosen_model(spec: StudySpec) -> TrialModel:
    """Return the model of trial 0: of several backbones the one that the file lists first, of several sizes the largest.

    Larger images are worth their time (docs/search-space.md has the measurements).
    """
    return spec.model.fixed(spec.model.backbones[0], max(spec.model.sizes)).of_trial()


def relative_cost(model: TrialModel) -> float:
    """Return the billions of multiply-adds of a model for one image."""
    return cost.relative(model)


def _preferences(num_train: int, num_classes: int) -> dict[str, Any]:
    """Return the preferred value of every parameter; docs/benchmarks-search.md has the measurements."""
    has_few = num_train < _FEW_IMAGES_A_CLASS * num_classes
    return {
        "image_size": _LARGEST,
        "weight_decay": 1e-4,
        "momentum": 0.9,
        "nesterov": True,
        "dropout": 0.3,
        "loss": "cross_entropy",
        "label_smoothing": 0.1,
        "focal_gamma": 2.0,
        "class_weights": "none",
        "batch_size": 32 if num_train < _MANY_IMAGES else 64,
        "features": "several",
        "feature_floor": 0.3,
        "head_layers": 0,
        "activation": "relu",
        "unfreeze": 0.5 if has_few else 1.0,
        "layer_decay": 0.94,
        "warmup": 0.125,
        "ema": 0.99,
        "augmentation.flip": "horizontal",
        "augmentation.translation": 0.1,
        "augmentation.zoom": 0.1,
        "augmentation.brightness": 0.1,
        "augmentation.contrast": 0.1,
        "augmentation.mixup": 0.1 if num_train >= _MANY_IMAGES else 0.0,
        **{f"augmentation.{name}": 0.0 for name in ("rotation", "shear", "rand_augment", "erasing", "cutmix", "views")},
        **{f"learning_rate.{optimizer}": _RATES.get(optimizer, _middle(LEARNING_RATES[optimizer])) for optimizer in Optimizer},
        **{f"probe_learning_rate.{optimizer}": _middle(PROBE_LEARNING_RATES[optimizer]) for optimizer in Optimizer},
    }


def _middle(ends: tuple[float, float]) -> float:
    return math.sqrt(ends[0] * ends[1])
