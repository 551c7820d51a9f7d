"""KerasTuner's Hyperband (https://keras.io/keras_tuner/api/tuners/hyperband/), brackets repeated until the time is up."""

import keras_tuner

from benchmarks.peers.hypermodel import Network
from benchmarks.peers.task import Task
from benchmarks.peers.training import Bench


def search(task: Task) -> None:
    """Train one trial after another until the process is ended."""
    tuner = keras_tuner.Hyperband(
        Network(Bench(task=task)),
        objective=keras_tuner.Objective("val_accuracy", "max"),
        max_epochs=task.epochs,
        factor=3,
        hyperband_iterations=1_000,
        seed=task.seed,
        directory=task.folder,
        project_name="hyperband",
        max_consecutive_failed_trials=1,
    )
    tuner.search(verbose=0)
