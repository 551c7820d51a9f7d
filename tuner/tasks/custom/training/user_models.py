"""User models: builds the model of a trial, splits its steps into parts, keeps and restores its state, and scores its predictions."""

import functools
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner import wording
from tuner.errors import DataError, RequestError, TrainingError
from tuner.kernels import keras_private
from tuner.spec import objective as objectives
from tuner.tasks.custom.running.values import HyperParameters, Interrupted
from tuner.tasks.custom.spec.custom_study import CustomStudySpec
from tuner.tasks.custom.training import inputs
from tuner.tasks.custom.training.inputs import LoadedData
from tuner.trust import user_code

Weights = tuple[NDArray[Any], ...]
#: where a word of a class's name begins: `MeanSquaredError`, `TopKCategoricalAccuracy`, but not within `AUC`
_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
#: predictions that are scored at once
_SCORED = 256
#: calls of a model that are timed, and calls before them
_TIMED, _WARM_UP = 30, 5


class Code:
    """The user functions that a study names."""

    def __init__(self, study: CustomStudySpec) -> None:
        self.files = user_code.read([name for _, name in study.named_code()], study.folder)
        build = user_code.load(study.model.build, study.folder, field="model.build")
        # a class of KerasTuner's form: its objects have the methods build and fit
        self.hypermodel = user_code.called(build, doing=f"making a {study.model.build}") if isinstance(build, type) else None
        found = build if self.hypermodel is None else getattr(self.hypermodel, "build", None)
        if found is None:
            raise DataError(f"model.build is {study.model.build}, a class without a method build; expected a method build(self, hp)")
        self.build: Callable[..., Any] = found
        self.load = user_code.load(study.data.load, study.folder, field="data.load")
        user_code.require_arguments(self.build, study.model.build, field="model.build", form="build(hp)")
        user_code.require_arguments(self.load, study.data.load, field="data.load", form="load() or load(hp)", least=0)
        metric = study.objective.metric
        self.metric = user_code.load(metric, study.folder, field="objective.metric") if ":" in metric else None

    @property
    def fit(self) -> Callable[..., Any] | None:
        """The method `fit` of a class of KerasTuner's form; None if the class has none of its own."""
        if self.hypermodel is None:
            return None
        own = getattr(type(self.hypermodel), "fit", None)
        is_inherited = own is None or getattr(own, "__module__", "").startswith(("keras_tuner", "kerastuner"))
        return None if is_inherited else self.hypermodel.fit


def build(study: CustomStudySpec, code: Code, hp: HyperParameters) -> keras.Model:
    """Return the compiled model of a trial.

    Raises:
        TrainingError: `build` returns something else, or an uncompiled model for which the study file gives no loss.
        UserCodeError: it raises an exception.
    """
    model = user_code.called(lambda: code.build(hp), doing="building the model", passes=(Interrupted, TrainingError))
    if not isinstance(model, keras.Model):
        what = "None; did it forget to return the model?" if model is None else f"a {type(model).__name__}"
        raise TrainingError(
            f"{study.model.build} returned {what}; expected a keras.Model".replace("?; expected", "? Expected"), kind="NotAModel"
        )
    if not model.compiled:
        _compile(study, model, hp)
    return model


def _compile(study: CustomStudySpec, model: keras.Model, hp: HyperParameters) -> None:
    training = study.training
    if training.loss is None:
        raise RequestError(
            f"{study.model.build} returned a model that is not compiled, and the study file gives no loss; "
            "call model.compile in it, or add for example `training: {loss: mse}`"
        )
    name = hp["optimizer"] if "optimizer" in hp else training.optimizer  # noqa: SIM401 -- hp is no dict
    try:
        optimizer = keras.optimizers.get(name)
        for key in ("learning_rate", "momentum", "weight_decay"):
            if key in hp and hasattr(optimizer, key):
                setattr(optimizer, key, hp[key])
        model.compile(optimizer=optimizer, loss=training.loss, metrics=list(training.metrics or ()))
    except (ValueError, TypeError) as error:
        message = f"the model cannot be compiled with optimizer {wording.show(name)} and loss {wording.show(training.loss)}: {error}"
        if "optimizer" in hp:  # another trial may have another one
            raise TrainingError(message, kind="NotCompiled") from error
        raise RequestError(message) from error


def plain_names(reported: Iterable[str]) -> dict[str, str]:
    """Return the name of each reported metric without the number that Keras appends to a name of its own that it gives again.

    `val_auc_2` becomes `val_auc`; `recall_at_5`, which the user has named, stays, as do `auc` and `auc_1` beside each other.
    """
    names = list(reported)
    own = {name: objectives.plain_name(name) for name in names}
    alike = Counter(own.values())
    return {name: plain if alike[plain] == 1 and _is_of_keras(plain) else name for name, plain in own.items()}


def _is_of_keras(name: str) -> bool:
    """Return whether a name ends like one that Keras gives to a metric: behind the name of an output, or behind `val`."""
    return any(name == known or name.endswith(f"_{known}") for known in _names_of_metrics())


@functools.cache
def _names_of_metrics() -> frozenset[str]:
    """Return the names that Keras gives to its metrics: `mean_squared_error`, `auc`."""
    kinds = [kind for kind in vars(keras.metrics).values() if isinstance(kind, type) and issubclass(kind, keras.metrics.Metric)]
    return frozenset(_CAPITAL.sub("_", kind.__name__).lower() for kind in kinds)


def optimizers(model: keras.Model) -> list[Any]:
    """Return the optimizers of a model: that of `compile`, and those that a user's `train_step` has."""
    found = [model.optimizer, *vars(model).values()]
    return list({id(each): each for each in found if isinstance(each, keras.optimizers.Optimizer)}.values())


def build_layers(model: keras.Model, data: LoadedData) -> None:
    """Make the variables of a model of its own class, as the first batch would; a user's `train_step` may need no `call`."""
    if all(layer.built for layer in keras_private.inner_layers(model)):
        return
    user_code.called(lambda: model(inputs.batch_of(data.train, 1)[0]), doing="building the layers of the model")


def why_whole(model: keras.Model, code: Code) -> str:
    """Return why a step cannot be split into parts with the same result; "" if it can."""
    if code.fit is not None:
        return "your class has its own fit"
    if type(model).train_step is not keras.Model.train_step:
        return "the model has its own train_step"
    losses = [loss for loss in tf.nest.flatten(model.loss) if loss is not None]
    is_other = any(getattr(loss, "reduction", "mean") not in ("sum_over_batch_size", "mean") for loss in losses)
    own = [loss for loss in losses if callable(loss) and not isinstance(loss, keras.losses.Loss)]
    if is_other or any(_is_total(loss, model) for loss in own):
        return "its loss is no mean over the examples"
    return ""


def _is_total(loss: Callable[..., Any], model: keras.Model) -> bool:
    """Return whether a loss function returns one number for a batch, of which nobody knows how it depends on the examples."""
    shape = tf.nest.flatten(model.output_shape)[0] if getattr(model, "output_shape", None) else (None, 1)
    two = tf.ones([2, *(1 if size is None else int(size) for size in tuple(shape)[1:])])
    try:
        return len(user_code.called(lambda: tf.convert_to_tensor(loss(two, two)), doing="trying the loss").shape) == 0
    except user_code.UserCodeError:
        return True


def split_steps(model: keras.Model, data: LoadedData, part_size: int) -> None:
    """Make each step of `fit` process its batch in parts, one after another; weights change once, by the mean gradient of the batch.

    Each part is a `train_step` of Keras, whose optimizer hands over the gradients. Their sum, weighted by the sizes of the parts, is exact
    for losses that are means over the examples, for an incomplete last batch, too. `gradient_accumulation_steps` of the optimizer is not:
    it joins the end of an epoch with the beginning of the next one, and changes what the optimizer stores in checkpoints.
    """
    build_layers(model, data)
    one = inputs.batch_of(data.train, 1)
    user_code.called(lambda: keras_private.build_metrics(model, one), doing="splitting a step that needs too much memory")
    optimizer, variables = model.optimizer, model.trainable_variables
    if not optimizer.built:
        optimizer.build(variables)
    whole_step = model.train_step
    found: list[Any] = []

    def train_step(batch: Any) -> Any:
        count = tf.shape(tf.nest.flatten(batch)[0])[0]
        unused: set[int] = set()

        def add(start: Any, *sums: Any) -> tuple[Any, ...]:
            end = tf.minimum(start + part_size, count)
            found.clear()
            whole_step(tf.nest.map_structure(lambda array: array[start:end], batch))
            unused.update(index for index, gradient in enumerate(found) if gradient is None)
            share = tf.cast(end - start, tf.float32) / tf.cast(count, tf.float32)
            added = [0.0 if gradient is None else tf.cast(share, gradient.dtype) * tf.convert_to_tensor(gradient) for gradient in found]
            found.clear()
            return end, *(total + tf.cast(more, total.dtype) for total, more in zip(sums, added, strict=True))

        zeros = [tf.zeros(variable.shape, variable.dtype) for variable in variables]
        _, *sums = tf.while_loop(lambda start, *_: start < count, add, (tf.constant(0), *zeros), parallel_iterations=1)
        optimizer.apply([None if index in unused else total for index, total in enumerate(sums)], variables)
        return model.get_metrics_result()

    optimizer.apply_gradients = lambda pairs, **_: found.extend(gradient for gradient, _ in pairs)
    model.train_step = train_step
    model.jit_compile = False  # the number of parts is known at run time


def state_of(model: keras.Model, *, in_epoch: bool = False) -> Weights:
    """Return the values of all variables of a model and its optimizers, with the states of its random generators.

    The first array holds their numbers: of the model, then of each optimizer, then of the metrics if this is in the middle of an epoch.
    """
    groups = [model.variables, *(optimizer.variables for optimizer in optimizers(model)), *([model.metrics_variables] if in_epoch else [])]
    counts = np.array([len(group) for group in groups])
    return (counts, *(np.asarray(variable) for group in groups for variable in group))


def restore(model: keras.Model, state: Weights) -> None:
    """Give a built model and its optimizers their earlier values.

    An optimizer of a user's `train_step` begins anew: only that code knows which variables it has.

    Raises:
        TrainingError: the code builds another model than before.
    """
    counts, values = [int(count) for count in state[0]], list(state[1:])
    if model.optimizer is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    groups = [model.variables, *(optimizer.variables for optimizer in optimizers(model))]
    if len(counts) == len(groups) + 1:
        groups.append(model.metrics_variables)
    if len(groups) != len(counts) or counts[0] != len(groups[0]):
        raise _changed_model()
    for group, count in zip(groups, counts, strict=True):
        own, values = values[:count], values[count:]
        if len(group) != count:
            continue
        if [tuple(variable.shape) for variable in group] != [each.shape for each in own]:
            raise _changed_model()
        for variable, value in zip(group, own, strict=True):
            variable.assign(value)


def _changed_model() -> TrainingError:
    return TrainingError("the checkpoint does not fit the model: the code builds another one than before", kind="ChangedModel")


def outputs(model: keras.Model, part: inputs.Part, batch_size: int) -> tuple[Any, Any]:
    """Return the true values of a split (n, …) and what a model predicts for it (n, …)."""
    if part.arrays is not None:
        true = part.arrays[1] if len(part.arrays) > 1 else part.arrays[0]
        return true, model.predict(part.arrays[0], batch_size=batch_size, verbose=0)
    batches = part.dataset if not isinstance(part.dataset, keras.utils.PyDataset) else (part.dataset[i] for i in range(len(part.dataset)))
    trues, predicted = [], []
    for batch in batches:
        trues.append(tf.nest.map_structure(np.asarray, batch[1]))
        predicted.append(tf.nest.map_structure(np.asarray, model.predict_on_batch(batch[0])))
    joined = [tf.nest.map_structure(lambda *each: np.concatenate(each), *many) for many in (trues, predicted)]
    return joined[0], joined[1]


class _Given(keras.Model):  # type: ignore[misc]
    """A model that predicts what it is given."""

    def call(self, predicted: Any) -> Any:
        """Return the predictions."""
        return predicted


def _of_one_output(given: Any) -> Any:
    """Return what a model with one output was compiled with, without the name of this output."""
    return next(iter(given.values())) if isinstance(given, Mapping) and len(given) == 1 else given


def logs_of(model: keras.Model, part: inputs.Part, true: Any, predicted: NDArray[Any]) -> dict[str, float]:
    """Return what the loss and the metrics that a model was compiled with say of predictions (n, …)."""
    known = keras_private.compile_arguments(model)
    given = _Given(name="given")
    named = {name: _of_one_output(known.get(name)) for name in ("loss", "metrics", "weighted_metrics")}
    given.compile(**named, run_eagerly=known.get("run_eagerly", False))
    weights = part.arrays[2] if part.arrays is not None and len(part.arrays) > 2 else None
    found = given.evaluate(predicted, true, sample_weight=weights, batch_size=_SCORED, verbose=0, return_dict=True)
    return {name: float(value) for name, value in found.items()}


def costs(model: keras.Model, part: inputs.Part) -> dict[str, float]:
    """Return the median time of one example in milliseconds, after a warm-up, and the size of the weights in megabytes.

    Raises:
        DataError: the split is a generator, which has no example to try.
        UserCodeError: the code raises an exception.
    """
    return user_code.called(lambda: _costs(model, part), doing="measuring the time of one example", passes=(RequestError,))


def _costs(model: keras.Model, part: inputs.Part) -> dict[str, float]:
    x = inputs.batch_of(part, 1)[0]
    one = tf.nest.map_structure(lambda array: tf.convert_to_tensor(np.asarray(array)[:1]), x)
    call = tf.function(lambda given: model(given, training=False))
    times = []
    for _ in range(_WARM_UP + _TIMED):
        start = time.perf_counter()
        tf.nest.map_structure(np.asarray, call(one))
        times.append(time.perf_counter() - start)
    num_bytes = sum(weight.nbytes for weight in model.get_weights())
    return {"latency_ms": 1000 * statistics.median(times[_WARM_UP:]), "size_mb": num_bytes / 1e6}
