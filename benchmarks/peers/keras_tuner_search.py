"""Run KerasTuner's own search methods (https://keras.io/keras_tuner/api/tuners/)."""

from collections.abc import Callable, Mapping
from typing import Any

import keras_tuner

from benchmarks.peers.hypermodel import Network
from benchmarks.peers.task import Task
from benchmarks.peers.training import RunData

#: contender -> its tuner, and its extra options
_TUNERS: Mapping[str, tuple[Callable[..., keras_tuner.Tuner], Callable[[Task], Mapping[str, Any]]]] = {
    # repeat the brackets until the time is over
    "kerastuner-hyperband": (
        keras_tuner.Hyperband,
        lambda task: {"max_epochs": task.epochs, "factor": 3, "hyperband_iterations": 1_000},
    ),
    # the default of three random trials per parameter exceeds the time; with five trials, the model is used
    "kerastuner-bayesian": (
        keras_tuner.BayesianOptimization,
        lambda task: {"max_trials": 10_000, "num_initial_points": 5},
    ),
}


def search(task: Task) -> None:
    """Train one trial after another until the process ends."""
    make, settings = _TUNERS[task.contender]
    tuner = make(
        Network(RunData(task=task)),
        objective=keras_tuner.Objective("val_accuracy", "max"),
        seed=task.seed,
        directory=task.folder,
        project_name="search",
        max_consecutive_failed_trials=1,
        **settings(task),
    )
    tuner.search(verbose=0)
