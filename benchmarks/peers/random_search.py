"""Run a random search: each trial is drawn independently and trained to its end."""

import optuna

from benchmarks.peers import space
from benchmarks.peers.task import Task
from benchmarks.peers.training import RunData


def search(task: Task) -> None:
    """Train one trial after another until the process ends."""
    shared = RunData(task=task)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=task.seed))

    def objective(trial: optuna.Trial) -> float:
        recipe = space.recipe(space.suggest(trial, shared.study), shared.study)
        return max(shared.train(recipe, epochs=task.epochs))

    study.optimize(objective)
