"""Contenders: the tools that are compared, by name, each with the module whose `search` runs it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

#: sides of the images of the contenders without a search, one contender each
SIZES = (96, 128, 160)


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A tool that a user could choose."""

    #: module in benchmarks.peers
    module: str
    #: name in tables
    title: str
    #: option of `model.compile`. On a CPU, Keras' default "auto" compiles each trial with XLA, which takes longer than several epochs
    jit_compile: bool | Literal["auto"] = False
    #: side of the images, if the contender does not search it
    image_size: int | None = None
    #: whether it trains the recipe of trial 0 again and again, each time with another seed
    is_recipe: bool = False


CONTENDERS: Mapping[str, Contender] = {
    "tuner": Contender(module="ours", title="tuner"),
    "optuna": Contender(module="plain_optuna", title="Optuna, TPE and median pruner, XLA switched off"),
    "optuna-as-is": Contender(module="plain_optuna", title="Optuna, TPE and median pruner, Keras' defaults", jit_compile="auto"),
    "kerastuner-hyperband": Contender(module="keras_tuner_search", title="KerasTuner Hyperband"),
    "kerastuner-bayesian": Contender(module="keras_tuner_search", title="KerasTuner BayesianOptimization"),
    "ray": Contender(module="ray_tune", title="Ray Tune, OptunaSearch and ASHA"),
    "random": Contender(module="random_search", title="random search"),
    **{
        f"hyperrule-{size}": Contender(module="hyperrule", title=f"BiT-HyperRule at {size} pixels, no search", image_size=size)
        for size in SIZES
    },
    **{
        f"recipe-{size}": Contender(module="ours", title=f"mean of the recipe's seeds at {size} pixels", image_size=size, is_recipe=True)
        for size in SIZES
    },
}
OURS = "tuner"


def is_tuner(name: str) -> bool:
    """Return whether a contender is a study of tuner."""
    return CONTENDERS[name].module == CONTENDERS[OURS].module


def title(name: str) -> str:
    """Return the name of a contender in tables."""
    return CONTENDERS[name].title
