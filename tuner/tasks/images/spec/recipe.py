"""The number of training images into a recipe that needs no search: trial 0 of every study."""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

from tuner.spec import space as spaces
from tuner.spec.hyperparameters import Hyperparameters, Optimizer
from tuner.spec.search import LEARNING_RATES, PROBE_LEARNING_RATES, SearchSpace

T = TypeVar("T")

#: optimizers, the one that the recipe is measured with first, then those that it carries over to best
_PREFERRED = ("adamw", "adam", "nadam", "lion", "sgd", "rmsprop", "adamax", "adagrad", "adadelta")
#: measured on CIFAR-10 photographs and silhouettes: 15 epochs over all layers from a probed head
_RATES = {Optimizer.ADAMW: 3e-4, Optimizer.ADAM: 3e-4, Optimizer.NADAM: 3e-4, Optimizer.SGD: 5e-3, Optimizer.LION: 5e-5}
#: below this many images a class the lower layers are left as they are
_FEW_IMAGES_A_CLASS = 10
#: from this many on mixing images helps (BiT-HyperRule, arXiv 1912.11370)
_MANY_IMAGES = 20_000


class _Recipe:
    """A chooser that takes from each parameter's values the nearest to a wish."""

    def __init__(self, wishes: dict[str, Any]) -> None:
        self._wishes = wishes
        self.parameters: dict[str, Any] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        middle = math.sqrt(low * high) if log else (low + high) / 2
        return self._keep(name, min(high, max(low, float(self._wish(name, middle)))))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        middle = math.sqrt(low * high) if log else (low + high) / 2
        return self._keep(name, min(high, max(low, round(float(self._wish(name, middle))))))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._keep(name, self._nearest(self._wish(name, choices[0]), choices))

    def _wish(self, name: str, default: Any) -> Any:
        if name == "optimizer":
            return _PREFERRED
        if name.endswith(".on"):
            return bool(self._wishes.get(name.removesuffix(".on"), 0))
        return self._wishes.get(name, default)

    @staticmethod
    def _nearest(wish: Any, choices: Sequence[Any]) -> Any:
        if isinstance(wish, tuple):
            return next(choice for choice in wish if choice in choices)
        if wish in choices or isinstance(wish, str | bool):
            return wish if wish in choices else choices[0]
        return min(choices, key=lambda choice: abs(choice - wish))

    def _keep(self, name: str, value: T) -> T:
        self.parameters[name] = value
        return value


def rule(num_train: int, num_classes: int, space: SearchSpace, *, fine_tunes: bool = True) -> Hyperparameters:
    """The hyperparameters of trial 0: the recipe, as near as the space comes to it."""
    return spaces.suggest(_Recipe(_wishes(num_train, num_classes)), space, fine_tunes=fine_tunes)


def parameters(num_train: int, num_classes: int, space: SearchSpace, *, fine_tunes: bool = True) -> dict[str, Any]:
    """The same as values of the parameters that are searched, so that the sampler learns from trial 0 as from any other."""
    recipe = _Recipe(_wishes(num_train, num_classes))
    spaces.suggest(recipe, space, fine_tunes=fine_tunes)
    return recipe.parameters


def _wishes(num_train: int, num_classes: int) -> dict[str, Any]:
    """What the recipe would take if the space allowed everything; docs/benchmarks-search.md has the measurements."""
    has_few = num_train < _FEW_IMAGES_A_CLASS * num_classes
    return {
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
