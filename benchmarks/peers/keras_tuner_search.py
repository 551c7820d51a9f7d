"""KerasTuner's own search methods (https://keras.io/keras_tuner/api/tuners/)."""

from collections.abc import Callable, Mapping
from typing import Any

import keras_tuner

from benchmarks.peers.hypermodel import Network
from benchmarks.peers.task import Task
from benchmarks.peers.training import Bench

#: contender -> its tuner, and what is set beside what both share
_TUNERS: Mapping[str, tuple[Callable[..., keras_tuner.Tuner], Callable[[Task], Mapping[str, Any]]]] = {
    # brackets repeated until the time is up
    "kerastuner-hyperband": (
        keras_tuner.Hyperband,
        lambda task: {"max_epochs": task.epochs, "factor": 3, "hyperband_iterations": 1_000},
    ),
    # its default begins with three random trials for each parameter, more than fit into the time; with five its model is used
    "kerastuner-bayesian": (
        keras_tuner.BayesianOptimization,
        lambda task: {"max_trials": 10_000, "num_initial_points": 5},
    ),
}


def search(task: Task) -> None:
    """Train one trial after another until the process is ended."""
    make, settings = _TUNERS[task.contender]
    tuner = make(
        Network(Bench(task=task)),
        objective=keras_tuner.Objective("val_accuracy", "max"),
        seed=task.seed,
        directory=task.folder,
        project_name="search",
        max_consecutive_failed_trials=1,
        **settings(task),
    )
    tuner.search(verbose=0)
