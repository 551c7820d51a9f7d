"""The shared search space and model as a KerasTuner HyperModel.

Conditions are `conditional_scope`s (https://keras.io/keras_tuner/api/hyperparameters/). `declare_hyperparameters` declares all of them, so
that KerasTuner does not have to build a model for each condition first.
"""

from contextlib import ExitStack
from typing import Any

import keras
import keras_tuner

from benchmarks.peers import space
from benchmarks.peers.space import Condition, Parameter, Recipe
from benchmarks.peers.training import RunData
from tuner.spec.domains import Choice, Range


class Network(keras_tuner.HyperModel):
    """The model of a trial, whose epochs are written to the journal."""

    def __init__(self, shared: RunData) -> None:
        super().__init__()
        self._shared = shared

    def declare_hyperparameters(self, hp: keras_tuner.HyperParameters) -> None:
        """Declare the whole search space at once."""
        _declare(hp, space.parameters(self._shared.study))

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Return a compiled model with a schedule for the epochs of this trial."""
        first, last = self._span(hp)
        return self._shared.build(self._recipe(hp), epochs=last - first)

    def fit(self, hp: keras_tuner.HyperParameters, model: keras.Model, *args: Any, **options: Any) -> dict[str, float]:
        """Train the model; the best epoch counts, and KerasTuner keeps its weights."""
        first, last = self._span(hp)
        accuracies = self._shared.fit(model, self._recipe(hp), first=first, last=last, callbacks=options["callbacks"])
        return {"val_accuracy": max(accuracies)}

    def _span(self, hp: keras_tuner.HyperParameters) -> tuple[int, int]:
        """Return the first and the last epoch; Hyperband gives its own."""
        return hp.values.get("tuner/initial_epoch", 0), hp.values.get("tuner/epochs", self._shared.task.epochs)

    def _recipe(self, hp: keras_tuner.HyperParameters) -> Recipe:
        study, values = self._shared.study, dict[str, Any]()
        for parameter in space.parameters(study):
            if parameter.acts(values):
                values[parameter.name] = hp.get(parameter.name)
        return space.recipe(values, study)


def _declare(hp: keras_tuner.HyperParameters, parameters: list[Parameter]) -> None:
    scopes: dict[str, Condition] = {}
    for parameter in parameters:
        entered: Condition = ()
        with ExitStack() as conditions:
            for name, wanted in parameter.when:
                # a scope needs its parent to be active, so only one of two independent parents is possible
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
