"""Contenders: the tools that are compared, by name, each with the module whose `search` runs it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A tool that a user could choose."""

    #: module in benchmarks.peers
    module: str
    #: name in tables
    title: str
    #: option of `model.compile`. On a CPU, Keras' default "auto" compiles each trial with XLA, which takes longer than several epochs
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
    """Return the name of a contender in tables."""
    return CONTENDERS[name].title
