"""BiT-HyperRule (arXiv 1912.11370, section 3.3), which searches nothing.

SGD with momentum 0.9 at 0.003, steps down by ten at 30, 60 and 90 %, a short warm-up, no weight decay, no MixUp below 20,000 images, mirror
images and random crops (here: shifts of as much as a crop of 128 pixels out of 160 gives), a head that begins at zero. The paper trains 500
steps of 512 images, 128 epochs of 2,000 images, which no budget here allows; the schedule is scaled to the epochs. The rate is not scaled
down with the batch as in the paper's notebook: with so few steps that would only be worse. When a schedule is done and time is left,
one of twice its length begins, so that the whole budget is used.
"""

import keras

from benchmarks.peers import network
from benchmarks.peers.space import Recipe
from benchmarks.peers.task import Task
from benchmarks.peers.training import Bench

_DECAYS = (0.3, 0.6, 0.9)
_WARMUP = 0.1

RECIPE = Recipe(
    optimizer="sgd",
    learning_rate=0.003,
    weight_decay=0.0,
    dropout=0.0,
    label_smoothing=0.0,
    head_units=(),
    activation="relu",
    unfreeze=1.0,
    nesterov=False,
    warmup=_WARMUP,
    augmentation={"flip": "horizontal", "translation": 0.1},
)


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Up in a line, then down by ten at each of `_DECAYS`."""

    def __init__(self, peak: float, steps: int) -> None:
        self.peak, self.steps = peak, steps

    def __call__(self, step: int) -> keras.KerasTensor:
        """The rate of a step."""
        progress = keras.ops.cast(step, "float32") / self.steps
        decays = sum(keras.ops.cast(progress >= decay, "float32") for decay in _DECAYS)
        return self.peak * keras.ops.minimum(1.0, (progress + 1 / self.steps) / _WARMUP) * 0.1**decays

    def get_config(self) -> dict[str, float]:
        """Its arguments."""
        return {"peak": self.peak, "steps": self.steps}


def search(task: Task) -> None:
    """Train by the rule, then again for twice as long, until the process is ended."""
    bench, epochs = Bench(task=task), task.epochs
    while True:
        keras.backend.clear_session()
        keras.utils.set_random_seed(task.seed)
        model = bench.build(RECIPE, epochs=epochs)
        head = model.layers[-1]
        head.kernel.assign(keras.ops.zeros_like(head.kernel))
        model.optimizer.learning_rate = Schedule(RECIPE.learning_rate, network.num_steps(RECIPE, len(bench.data.train.labels), epochs))
        bench.fit(model, RECIPE, last=epochs)
        epochs *= 2
