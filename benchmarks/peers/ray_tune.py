"""Run Ray Tune with OptunaSearch and ASHA.

The search space is define-by-run (https://docs.ray.io/en/latest/tune/examples/optuna_example.html). As in Ray's Keras example
(https://docs.ray.io/en/latest/tune/examples/includes/tune_mnist_keras.html), a trial reports through a callback. It uses all cores, so
one trial trains at a time. `reuse_actors` avoids an import of TensorFlow for every trial. ASHA decides for the first time after a third
of the epochs, because earlier epochs of a cosine schedule rank learning rates. Ray lowers the priority of its workers (nice 15), which is
a disadvantage on a busy machine; here they have the same priority as all contenders. If ASHA ends a training and the actor needs more
than two seconds to leave `fit`, Ray does not use the actor again and waits for its trial forever; here the actor has a minute.
"""

import functools
import os
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

from benchmarks.peers import space
from benchmarks.peers.task import STARTED, Task

_METRIC = "val_accuracy"
#: more trials than the time allows
_MANY = 10_000


def search(task: Task) -> None:
    """Train one trial after another until the process ends."""
    import optuna

    study = task.study()
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(
        num_cpus=task.threads,
        include_dashboard=False,
        object_store_memory=200_000_000,
        runtime_env={"env_vars": {STARTED: os.environ[STARTED], "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60"}},
    )
    sampler = optuna.samplers.TPESampler(seed=task.seed, multivariate=True, group=True)
    algorithm = OptunaSearch(functools.partial(_suggest, study=study), metric=_METRIC, mode="max", sampler=sampler)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(_train, task=task), {"cpu": task.threads}),
        tune_config=tune.TuneConfig(
            search_alg=ConcurrencyLimiter(algorithm, max_concurrent=1),
            scheduler=ASHAScheduler(
                metric=_METRIC, mode="max", max_t=task.epochs, grace_period=max(1, task.epochs // 3), reduction_factor=3
            ),
            num_samples=_MANY,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(storage_path=str(task.folder / "ray"), verbose=0),
    )
    tuner.fit()


def _suggest(trial: Any, study: Any) -> None:
    space.suggest(trial, study)


@functools.cache
def _shared(task: Task) -> Any:
    """Return the images, read once per actor; actors are reused."""
    from benchmarks.peers.training import RunData

    return RunData(task=task)


def _train(config: dict[str, Any], task: Task) -> None:
    import keras

    class Reporting(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            assert logs is not None, "Keras gives the metrics of an epoch"
            tune.report({_METRIC: float(logs[_METRIC])})

    shared = _shared(task)
    shared.train(space.recipe(config, shared.study), epochs=task.epochs, callbacks=[Reporting()])
