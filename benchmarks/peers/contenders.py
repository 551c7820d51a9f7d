"""The contenders by name, each the module whose `search` runs it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Contender:
    """What a user would pick."""

    #: below benchmarks.peers
    module: str
    #: in tables
    title: str
    #: of `model.compile`. On a CPU Keras' default, "auto", compiles each trial anew with XLA, for longer than several epochs take
    jit_compile: bool | Literal["auto"] = False


CONTENDERS: Mapping[str, Contender] = {
    "tuner": Contender(module="ours", title="tuner"),
    "optuna": Contender(module="plain_optuna", title="Optuna, TPE and median pruner, XLA switched off"),
    "optuna-as-is": Contender(module="plain_optuna", title="Optuna, TPE and median pruner, Keras' defaults", jit_compile="auto"),
    "kerastuner-hyperband": Contender(module="keras_tuner_search", title="KerasTuner Hyperband"),
    "kerastuner-bayesian": Contender(module="keras_tuner_search", title="KerasTuner BayesianOptimization"),
    "ray": Contender(module="ray_tune", title="Ray Tune, OptunaSearch and ASHA"),
    "random": Contender(module="random_search", title="random search"),
    "hyperrule": Contender(module="hyperrule", title="BiT-HyperRule, no search"),
}
OURS = "tuner"


def title(name: str) -> str:
    """How a contender is called in tables."""
    return CONTENDERS[name].title
