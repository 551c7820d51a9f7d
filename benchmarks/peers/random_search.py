"""Random search: each trial drawn on its own and trained to its end."""

import optuna

from benchmarks.peers import space
from benchmarks.peers.task import Task
from benchmarks.peers.training import Bench


def search(task: Task) -> None:
    """Train one trial after another until the process is ended."""
    bench = Bench(task=task)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=task.seed))

    def objective(trial: optuna.Trial) -> float:
        recipe = space.recipe(space.suggest(trial, bench.study.search), bench.study.search)
        return max(bench.train(recipe, epochs=task.epochs))

    study.optimize(objective)
