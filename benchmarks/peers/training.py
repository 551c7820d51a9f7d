"""Train one trial of a peer: `model.fit` with a recipe; epochs go to the journal, and the best weights are saved."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import keras

from benchmarks.peers import contenders, network
from benchmarks.peers import journal as journals
from benchmarks.peers.space import Recipe
from benchmarks.peers.task import Task, started
from tuner.spec import study as spec_study
from tuner.tasks.images.training import training_data


@dataclass(kw_only=True)
class RunData:
    """The data that all trials of a run in one process share."""

    task: Task
    journal: journals.Journal = field(init=False)
    _data: dict[int, training_data.TrainingData] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.journal = journals.Journal(self.task.folder)

    @cached_property
    def study(self) -> spec_study.StudySpec:
        """Return the study with the search space."""
        return self.task.study()

    def data(self, image_size: int) -> training_data.TrainingData:
        """Return images of a size, with the splits of tuner; each size is resized once, when it is first needed."""
        if image_size not in self._data:
            self._data[image_size] = sized(self.study, image_size, self.task.cache)
        return self._data[image_size]

    @cached_property
    def _smallest(self) -> training_data.TrainingData:
        return self.data(min(self.study.model.sizes))

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""
        return len(self._smallest.classes)

    @property
    def num_train(self) -> int:
        """Return the number of training images."""
        return len(self._smallest.train.labels)

    def build(self, recipe: Recipe, *, epochs: int) -> keras.Model:
        """Return the model of a trial with the given epochs."""
        steps = network.num_steps(recipe, self.num_train, epochs)
        jit_compile = contenders.CONTENDERS[self.task.contender].jit_compile
        return network.build(recipe, self.num_classes, steps=steps, jit_compile=jit_compile)

    def fit(
        self, model: keras.Model, recipe: Recipe, *, last: int, first: int = 0, callbacks: Sequence[keras.callbacks.Callback] = ()
    ) -> list[float]:
        """Train from one epoch to another; return the validation accuracy of each epoch."""
        trial, data = self.journal.begin_trial(), self.data(recipe.image_size)
        history = model.fit(
            network.train_set(data.train, recipe, self.num_classes, seed=self.task.seed * 1000 + trial),
            validation_data=network.evaluation_set(data.validation, self.num_classes),
            initial_epoch=first,
            epochs=last,
            verbose=0,
            callbacks=[Keeping(self.journal, trial, recipe), *callbacks],
        )
        return [float(accuracy) for accuracy in history.history["val_accuracy"]]

    def train(self, recipe: Recipe, *, epochs: int, callbacks: Sequence[keras.callbacks.Callback] = ()) -> list[float]:
        """Train a trial from beginning to end."""
        keras.backend.clear_session()
        keras.utils.set_random_seed(self.task.seed * 1000 + len(journals.read(self.task.folder)))
        return self.fit(self.build(recipe, epochs=epochs), recipe, last=epochs, callbacks=callbacks)


class Keeping(keras.callbacks.Callback):
    """Writes each epoch, and saves the weights if it is the best of the run."""

    def __init__(self, written: journals.Journal, trial: int, recipe: Recipe) -> None:
        super().__init__()
        self._journal, self._trial, self._recipe = written, trial, recipe

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        seconds = time.time() - started()
        assert logs is not None, "Keras gives the metrics of an epoch"
        if self._journal.add(self._trial, epoch + 1, float(logs["val_accuracy"]), seconds=seconds):
            self._journal.keep(self.model.get_weights(), self._recipe.plain())


def sized(study: spec_study.StudySpec, image_size: int, cache: Path) -> training_data.TrainingData:
    """Return the images of a study in one of its sizes."""
    model = study.model.fixed(study.model.backbones[0], image_size)
    return training_data.load(study.model_copy(update={"model": model}), cache=cache)


def best_model(task: Task) -> keras.Model | None:
    """Return the best saved model of a run, which predicts logits; None if it saved none."""
    saved = journals.read_best(task.folder)
    if saved is None:
        return None
    weights, plain = saved
    shared = RunData(task=task)
    model = shared.build(Recipe.of(plain), epochs=1)
    model.set_weights(weights)
    return model
