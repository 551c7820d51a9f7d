"""Run Optuna with Keras, as https://github.com/optuna/optuna-examples/blob/main/keras/keras_integration.py does.

TPE, MedianPruner() and KerasPruningCallback on the validation accuracy, `clear_session` before each trial. Optuna's docs
recommend `group` for a space with conditions (https://optuna.readthedocs.io/en/stable/reference/samplers/generated/optuna.samplers.TPESampler.html).
"""

import optuna
from optuna_integration import KerasPruningCallback

from benchmarks.peers import space
from benchmarks.peers.task import Task
from benchmarks.peers.training import RunData


def search(task: Task) -> None:
    """Train one trial after another until the process ends."""
    shared = RunData(task=task)

    def objective(trial: optuna.Trial) -> float:
        recipe = space.recipe(space.suggest(trial, shared.study), shared.study)
        return max(shared.train(recipe, epochs=task.epochs, callbacks=[KerasPruningCallback(trial, "val_accuracy")]))

    sampler = optuna.samplers.TPESampler(seed=task.seed, multivariate=True, group=True)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=optuna.pruners.MedianPruner())
    study.optimize(objective)
