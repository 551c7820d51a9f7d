"""The contenders by name, each the module whose `search` runs it."""

from collections.abc import Mapping

#: name -> module below benchmarks.peers, and how it is called in tables
CONTENDERS: Mapping[str, tuple[str, str]] = {
    "tuner": ("ours", "tuner"),
    "optuna": ("plain_optuna", "Optuna, TPE and median pruner"),
    "kerastuner-hyperband": ("hyperband", "KerasTuner Hyperband"),
    "kerastuner-bayesian": ("bayesian", "KerasTuner BayesianOptimization"),
    "ray": ("ray_tune", "Ray Tune, OptunaSearch and ASHA"),
    "random": ("random_search", "random search"),
    "hyperrule": ("hyperrule", "BiT-HyperRule, no search"),
}
OURS = "tuner"


def title(name: str) -> str:
    """How a contender is called in tables."""
    return CONTENDERS[name][1]
