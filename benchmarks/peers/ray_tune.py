"""Ray Tune with OptunaSearch and ASHA.

The search space is define-by-run (https://docs.ray.io/en/latest/tune/examples/optuna_example.html). As in Ray's Keras example
(https://docs.ray.io/en/latest/tune/examples/includes/tune_mnist_keras.html) a trial has two cores, here all of them, so that one is
trained at a time, and reports by a callback. `reuse_actors` spares the import of TensorFlow in every trial. ASHA first looks after a
third of the epochs: with the cosine earlier epochs rank learning rates. Ray gives its workers a lower priority (nice 15), which on a
machine that does anything else would be a handicap; here they have that of every other contender. An actor whose training that ASHA ended
takes more than two seconds to leave `fit` is not used again by Ray, which then waits for its trial for good; it may take a minute here.
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
#: trials that nobody waits for
_MANY = 10_000


def search(task: Task) -> None:
    """Train one trial after another until the process is ended."""
    import optuna

    search_space = task.study().search
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(
        num_cpus=task.threads,
        include_dashboard=False,
        object_store_memory=200_000_000,
        runtime_env={"env_vars": {STARTED: os.environ[STARTED], "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60"}},
    )
    sampler = optuna.samplers.TPESampler(seed=task.seed, multivariate=True, group=True)
    algorithm = OptunaSearch(functools.partial(_suggest, search_space=search_space), metric=_METRIC, mode="max", sampler=sampler)
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


def _suggest(trial: Any, search_space: Any) -> None:
    space.suggest(trial, search_space)


@functools.cache
def _bench(task: Task) -> Any:
    """The images, read once an actor; actors are reused."""
    from benchmarks.peers.training import Bench

    return Bench(task=task)


def _train(config: dict[str, Any], task: Task) -> None:
    import keras

    class Reporting(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            assert logs is not None, "Keras gives the metrics of an epoch"
            tune.report({_METRIC: float(logs[_METRIC])})

    bench = _bench(task)
    bench.train(space.recipe(config, bench.study.search), epochs=task.epochs, callbacks=[Reporting()])
