"""BiT-HyperRule (arXiv 1912.11370, section 3.3), which searches nothing.

SGD with momentum 0.9 and learning rate 0.003, divided by ten at 30, 60 and 90 % of the steps. A short warm-up, no weight decay, no MixUp
below 20,000 images, mirror images and random crops (here: equivalent shifts), and a head that starts at zero. The paper trains 500 steps
of 512 images, which is 128 epochs of 2,000 images; no budget here allows that, so the schedule is scaled to the epochs. The learning rate
is not scaled with the batch size as in the paper's notebook, because with so few steps the result would be worse. If time is left after
a schedule, another one of twice the length starts.
"""

from dataclasses import replace

import keras

from benchmarks.peers import network
from benchmarks.peers.space import Recipe
from benchmarks.peers.task import Task
from benchmarks.peers.training import RunData

_DECAYS = (0.3, 0.6, 0.9)
_WARMUP = 0.1

_RECIPE = Recipe(
    backbone="efficientnet_lite0",
    image_size=96,
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
    """A linear warm-up, then a division by ten at each of `_DECAYS`."""

    def __init__(self, peak: float, steps: int) -> None:
        self.peak, self.steps = peak, steps

    def __call__(self, step: int) -> keras.KerasTensor:
        """Return the learning rate of a step."""
        progress = keras.ops.cast(step, "float32") / self.steps
        decays = sum(keras.ops.cast(progress >= decay, "float32") for decay in _DECAYS)
        return self.peak * keras.ops.minimum(1.0, (progress + 1 / self.steps) / _WARMUP) * 0.1**decays

    def get_config(self) -> dict[str, float]:
        """Return the arguments of the schedule."""
        return {"peak": self.peak, "steps": self.steps}


def search(task: Task) -> None:
    """Train by the rule, then again for twice as long, until the process ends."""
    shared, epochs = RunData(task=task), task.epochs
    model = shared.study.model.of_trial()
    recipe = replace(_RECIPE, backbone=model.backbone, image_size=model.image_size)
    while True:
        keras.backend.clear_session()
        keras.utils.set_random_seed(task.seed)
        trained = shared.build(recipe, epochs=epochs)
        head = trained.layers[-1]
        head.kernel.assign(keras.ops.zeros_like(head.kernel))
        trained.optimizer.learning_rate = Schedule(recipe.learning_rate, network.num_steps(recipe, shared.num_train, epochs))
        shared.fit(trained, recipe, last=epochs)
        epochs *= 2
