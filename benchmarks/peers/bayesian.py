"""KerasTuner's BayesianOptimization (https://keras.io/keras_tuner/api/tuners/bayesian/).

Its default begins with three random trials for each parameter, more than fit into the time; it gets five instead, so that its model is
used.
"""

import keras_tuner

from benchmarks.peers.hypermodel import Network
from benchmarks.peers.task import Task
from benchmarks.peers.training import Bench


def search(task: Task) -> None:
    """Train one trial after another until the process is ended."""
    tuner = keras_tuner.BayesianOptimization(
        Network(Bench(task=task)),
        objective=keras_tuner.Objective("val_accuracy", "max"),
        max_trials=10_000,
        num_initial_points=5,
        seed=task.seed,
        directory=task.folder,
        project_name="bayesian",
        max_consecutive_failed_trials=1,
    )
    tuner.search(verbose=0)
