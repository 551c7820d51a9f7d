"""The shared search space and model as a KerasTuner HyperModel.

Conditions are `conditional_scope`s (https://keras.io/keras_tuner/api/hyperparameters/), all declared in `declare_hyperparameters`, so that
KerasTuner need not build a model for each condition before it begins.
"""

from contextlib import ExitStack
from typing import Any

import keras
import keras_tuner

from benchmarks.peers import space
from benchmarks.peers.space import Condition, Parameter, Recipe
from benchmarks.peers.training import Bench
from tuner.spec.domains import Choice, Range


class Network(keras_tuner.HyperModel):
    """The model of a trial; its epochs go to the journal."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self._bench = bench

    def declare_hyperparameters(self, hp: keras_tuner.HyperParameters) -> None:
        """The whole search space at once."""
        _declare(hp, space.parameters(self._bench.study.search))

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """A compiled model; its schedule is as long as this trial trains."""
        first, last = self._span(hp)
        return self._bench.build(self._recipe(hp), epochs=last - first)

    def fit(self, hp: keras_tuner.HyperParameters, model: keras.Model, *args: Any, **options: Any) -> dict[str, float]:
        """Train; the best epoch counts, whose weights KerasTuner keeps."""
        first, last = self._span(hp)
        accuracies = self._bench.fit(model, self._recipe(hp), first=first, last=last, callbacks=options["callbacks"])
        return {"val_accuracy": max(accuracies)}

    def _span(self, hp: keras_tuner.HyperParameters) -> tuple[int, int]:
        """First and last epoch; Hyperband gives its own."""
        return hp.values.get("tuner/initial_epoch", 0), hp.values.get("tuner/epochs", self._bench.task.epochs)

    def _recipe(self, hp: keras_tuner.HyperParameters) -> Recipe:
        search, values = self._bench.study.search, dict[str, Any]()
        for parameter in space.parameters(search):
            if parameter.acts(values):
                values[parameter.name] = hp.get(parameter.name)
        return space.recipe(values, search)


def _declare(hp: keras_tuner.HyperParameters, parameters: list[Parameter]) -> None:
    scopes: dict[str, Condition] = {}
    for parameter in parameters:
        entered: Condition = ()
        with ExitStack() as conditions:
            for name, wanted in parameter.when:
                # a scope can only be opened where its parent is: of two parents that do not depend on each other, one
                if scopes[name] == entered:
                    conditions.enter_context(hp.conditional_scope(name, list(wanted)))
                    entered = (*entered, (name, wanted))
            _register(hp, parameter)
        scopes[parameter.name] = entered


def _register(hp: keras_tuner.HyperParameters, parameter: Parameter) -> None:
    match parameter.domain:
        case Choice(values=(True, False)):
            hp.Boolean(parameter.name, default=True)
        case Choice(values=values):
            hp.Choice(parameter.name, list(values))
        case Range(low=low, high=high, log=log, integer=True):
            hp.Int(parameter.name, int(low), int(high), sampling="log" if log else "linear")
        case Range(low=low, high=high, log=log):
            hp.Float(parameter.name, low, high, sampling="log" if log else "linear")
