"""Custom model: the trained model of a trial of user code, with its inputs and outputs, written in several formats."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner.errors import DataError
from tuner.machine import TrainerShare
from tuner.protocol import errands, messages
from tuner.protocol.errands import Format
from tuner.spec import tasks
from tuner.spec.hyperparameters import ChosenValues
from tuner.tasks.custom.spec.custom_study import CustomStudySpec
from tuner.tasks.custom.training import custom, user_models
from tuner.tasks.custom.training.inputs import LoadedData, Part
from tuner.trainer.export import formats
from tuner.trust import keras_file, user_code

_BATCH = 64
#: largest distance of the sum of probabilities from 1
_ROUNDING = 1e-3
#: names that Keras gives to inputs without one
_UNNAMED = re.compile(r"(keras_tensor|input_layer|input)(_\d+)?")


@dataclass(frozen=True, kw_only=True)
class CallInterface:
    """The inputs of a model."""

    #: nested structure that the model is called with; its leaves have no meaning
    structure: Any
    #: in the order of the leaves
    inputs: tuple[errands.ModelInput, ...]
    #: examples for each input
    arrays: tuple[NDArray[Any], ...]

    def call(self, model: keras.Model, leaves: Any) -> Any:
        """Call the model with a value for each input."""
        return model(tf.nest.pack_sequence_as(self.structure, list(leaves)), training=False)


def export(order: errands.ExportCode, share: TrainerShare) -> errands.ExportedCode:
    """Build the model of a trial, give it its weights, and write it.

    Raises:
        RequestError: the code, the data or the weights cannot be used.
        UserCodeError: the code raises an exception.
    """
    study = tasks.parse(json.loads(order.spec))
    assert isinstance(study, CustomStudySpec), "only a study of a user model is exported like this"
    # formats expect float32, whatever it was trained in
    study = study.model_copy(update={"training": study.training.model_copy(update={"precision": "float32"})})
    prepared = custom.prepare(study, cache=Path(order.cache), share=share)
    members = (errands.TrainedCode(trial=order.trial, values=order.values, weights=order.weights), *order.others)
    found = [_trained(prepared, member) for member in members]
    (model, data), models = found[0], [one for one, _ in found]
    if order.others:
        known = interface(model, examples(data.validation, order.num_compared))
        model = user_code.called(lambda: mean_of(models, known), doing="joining the models of the ensemble")
    return write(model, data.validation, order)


def _trained(prepared: custom.PreparedCode, member: errands.TrainedCode) -> tuple[keras.Model, LoadedData]:
    values = ChosenValues(values=member.values)
    order = messages.Evaluate(trial=member.trial, hyperparameters=values, weights=member.weights)
    model, data, _ = prepared.trained(order, member.weights)
    return model, data


def mean_of(models: Sequence[keras.Model], known: CallInterface) -> keras.Model:
    """Return one model that predicts the mean of what models with equal inputs and one output predict."""
    given = [keras.Input(one.shape, dtype=one.dtype, name=one.name) for one in known.inputs]
    packed = tf.nest.pack_sequence_as(known.structure, given)
    found = []
    for number, model in enumerate(models):
        model.name = f"member_{number}"  # the names of layers in a model differ
        model.compiled = False  # the user's losses and metrics are not needed to predict
        found.append(tf.nest.flatten(model(packed, training=False))[0])
    mean = keras.Model(packed, keras.layers.Average(name="mean")(found))
    mean.loss = getattr(models[0], "loss", None)  # it says what the output means
    return mean


def measure_means(order: errands.MeanOfCode, share: TrainerShare) -> errands.MeansMeasured:
    """Score the means of what the first, the first two, … of some trials predict for a split.

    Raises:
        RequestError: the code, the data or the weights cannot be used.
        UserCodeError: the code raises an exception.
    """
    study = tasks.parse(json.loads(order.spec))
    assert isinstance(study, CustomStudySpec), "only user models have a mean like this"
    prepared = custom.prepare(study, cache=Path(order.cache), share=share)
    if prepared.loads_for_each_trial:
        return _no_mean("each trial loads its own data, so the models do not predict the same examples")
    predicted: list[NDArray[Any]] = []
    inputs: list[list[errands.ModelInput]] = []
    scores: list[float] = []
    labels: list[NDArray[Any]] = []
    for member in order.members:
        model, data = _trained(prepared, member)
        part = data.validation if order.split == "validation" else data.test
        if part is None:
            return _no_mean("the data function returns no test split")
        true, found = user_models.outputs(model, part, study.training.batch_size)
        given = [np.asarray(leaf) for leaf in tf.nest.flatten(true)]
        if labels and not all(map(np.array_equal, labels, given)):
            return _no_mean(f"the {order.split} data come in another order each time, so their predictions do not belong together")
        labels = given
        inputs.append(list(interface(model, examples(data.validation, 1)).inputs))
        leaves = [np.asarray(leaf) for leaf in tf.nest.flatten(found)]
        why = _differs(leaves, inputs, predicted, trials=(order.members[0].trial, member.trial))
        if why:
            return _no_mean(why)
        predicted.append(leaves[0])
        scores.append(prepared.score(model, part, true, np.mean(predicted, axis=0)))
    return errands.MeansMeasured(values=tuple(scores), num_examples=len(predicted[0]))


def _no_mean(why: str) -> errands.MeansMeasured:
    return errands.MeansMeasured(values=(), num_examples=0, refused=why)


def _differs(
    leaves: list[NDArray[Any]], inputs: list[list[errands.ModelInput]], before: list[NDArray[Any]], *, trials: tuple[int, int]
) -> str:
    """Say why the predictions of a model have no mean with those of the first one; "" if they have."""
    first, trial = trials
    if len(leaves) != 1:
        return f"the model of trial {trial} has {len(leaves)} outputs; only models with one output have a mean"
    if leaves[0].dtype.kind not in "fiub":
        return f"the output of the model of trial {trial} is {leaves[0].dtype}; only numbers have a mean"
    if before and leaves[0].shape != before[0].shape:
        shapes = f"{before[0].shape[1:]} and {leaves[0].shape[1:]}"
        return f"the outputs of the models of trials {first} and {trial} have different shapes: {shapes}"
    if inputs[-1] != inputs[0]:
        return f"the models of trials {first} and {trial} have different inputs: {_named(inputs[0])} and {_named(inputs[-1])}"
    return ""


def _named(inputs: list[errands.ModelInput]) -> str:
    return ", ".join(f"{one.name} {one.shape}" for one in inputs)


def write(model: keras.Model, validation: Part, order: errands.ExportCode) -> errands.ExportedCode:
    """Write a model in each format that is possible, its weights, and what it predicts for examples of the validation data."""
    known = interface(model, examples(validation, order.num_compared))
    names, found = _predictions(model, known)
    folder = Path(order.folder)
    model.save_weights(folder / errands.WEIGHTS_FILE)
    refused = _write_keras(model, folder) if Format.KERAS in order.formats else {}
    others = tuple(form for form in order.formats if form is not Format.KERAS)
    refused |= _write_others(model, known, others, folder)
    _write_arrays(order, known, dict(zip(names, found, strict=True)))
    return errands.ExportedCode(
        model=type(model).__name__,
        num_parameters=model.count_params(),
        inputs=known.inputs,
        outputs=tuple(errands.ModelOutput(name=name, meaning=_meaning(model, values)) for name, values in zip(names, found, strict=True)),
        num_compared=len(known.arrays[0]),
        written=tuple(form for form in order.formats if form not in refused),
        refused=refused,
        packages={each.name: each.version for each in sorted(metadata.distributions(), key=lambda each: each.name.lower())},
        versions=custom.versions(),
    )


def examples(part: Part, most: int) -> Any:
    """Return the inputs of at most `most` examples of a split: of arrays, spread evenly over it; of batches, the first ones."""
    if part.arrays is not None:
        rows = np.unique(np.linspace(0, part.num_examples - 1, min(part.num_examples, most)).round().astype(np.int64))
        return tf.nest.map_structure(lambda array: np.asarray(array)[rows], part.arrays[0])
    taken: list[Any] = []
    count = 0
    for batch in _batches(part.dataset):
        given = tf.nest.map_structure(np.asarray, batch[0] if isinstance(batch, tuple) else batch)
        if count >= most or (taken and _shapes(given) != _shapes(taken[0])):
            break
        taken.append(given)
        count += len(tf.nest.flatten(given)[0])
    if not taken:
        raise DataError("the data function returns validation data without a batch, so the model cannot be tried")
    return tf.nest.map_structure(lambda *arrays: np.concatenate(arrays)[:most], *taken)


def _batches(dataset: Any) -> Iterator[Any]:
    yield from (dataset[number] for number in range(len(dataset))) if isinstance(dataset, keras.utils.PyDataset) else dataset


def _shapes(given: Any) -> list[tuple[int, ...]]:
    return [array.shape[1:] for array in tf.nest.flatten(given)]


def interface(model: keras.Model, x: Any) -> CallInterface:
    """Return the inputs of a model with examples from `x`, which the data function returned for them.

    Raises:
        DataError: the data have no array for an input.
    """
    tensors = getattr(model, "inputs", None)  # a model of its own class has none
    if not tensors:
        leaves = [np.asarray(array) for array in tf.nest.flatten(x)]
        inputs = [_input(name, array.shape[1:], array.dtype) for name, array in zip(_names(x, len(leaves)), leaves, strict=True)]
        return CallInterface(structure=x, inputs=tuple(inputs), arrays=_cast(leaves, inputs))
    structure = tensors[0] if isinstance(model, keras.Sequential) else model.input
    flat = tf.nest.flatten(structure)
    keys = sorted(structure) if isinstance(structure, Mapping) and len(structure) == len(flat) else [tensor.name for tensor in flat]
    names = _names(None, len(keys)) if all(_UNNAMED.fullmatch(key) for key in keys) else keys
    if isinstance(x, Mapping) and names is keys:
        missing = [key for key in keys if key not in x]
        if missing:
            raise DataError(f"the data have no array for the input {missing[0]} of the model; they have {', '.join(map(str, x))}")
        leaves = [np.asarray(x[key]) for key in keys]
    else:
        leaves = [np.asarray(array) for array in tf.nest.flatten(x)]
    if len(leaves) != len(keys):
        raise DataError(f"the data have {len(leaves)} arrays, but the model has {len(keys)} inputs: {', '.join(keys)}")
    inputs = [_input(name, tensor.shape[1:], tensor.dtype) for name, tensor in zip(names, flat, strict=True)]
    return CallInterface(structure=structure, inputs=tuple(inputs), arrays=_cast(leaves, inputs))


def _names(x: Any, count: int) -> list[str]:
    if isinstance(x, Mapping) and len(x) == count:
        return sorted(map(str, x))
    return ["x"] if count == 1 else [f"x_{number}" for number in range(count)]


def _input(name: str, shape: Any, dtype: Any) -> errands.ModelInput:
    kind = "string" if np.dtype(dtype if dtype != "string" else object).kind in "OUS" else np.dtype(dtype).name
    plain = keras.config.floatx() if kind == "float64" else kind
    return errands.ModelInput(name=_plain(name), shape=tuple(shape), dtype=plain)


def _plain(name: str) -> str:
    """Return a name as every format and `numpy.savez` can have it."""
    plain = re.sub(r"[^\w.-]", "_", name)
    return f"{plain}_" if plain in ("file", "args", "allow_pickle") else plain


def _cast(arrays: list[NDArray[Any]], inputs: list[errands.ModelInput]) -> tuple[NDArray[Any], ...]:
    """Return arrays of the types of some inputs; an example of one number gets the axis that the model expects."""
    found = []
    for array, given in zip(arrays, inputs, strict=True):
        one = array.astype(str if given.dtype == "string" else given.dtype)
        found.append(one[:, None] if one.ndim == 1 and given.shape == (1,) else one)
    return tuple(found)


def _predictions(model: keras.Model, known: CallInterface) -> tuple[list[str], list[NDArray[Any]]]:
    """Return the names of the outputs, and what the model predicts."""
    parts: list[list[NDArray[Any]]] = []
    structure: Any = None
    for start in range(0, len(known.arrays[0]), _BATCH):
        given = [array[start : start + _BATCH] for array in known.arrays]
        structure = user_code.called(lambda given=given: known.call(model, given), doing="calling the model")  # type: ignore[misc]
        parts.append([np.asarray(leaf) for leaf in tf.nest.flatten(structure)])
    found = [np.concatenate(each) for each in zip(*parts, strict=True)]
    return _output_names(model, structure, len(found)), found


def _output_names(model: keras.Model, structure: Any, count: int) -> list[str]:
    if isinstance(structure, Mapping) and len(structure) == count:
        return [_plain(str(key)) for key in sorted(structure)]
    if count == 1:
        return ["output"]
    known = [_plain(name) for name in getattr(model, "output_names", None) or []]
    return known if len(set(known)) == count == len(known) else [f"output_{number}" for number in range(count)]


def _meaning(model: keras.Model, found: NDArray[Any]) -> errands.Meaning:
    """Return what an output means: rows that sum to 1 are probabilities; one column is a probability if the loss says so."""
    if found.ndim >= 2 and found.shape[-1] > 1 and found.min(initial=0) >= 0 and np.allclose(found.sum(-1), 1, atol=_ROUNDING):
        return "probabilities"
    loss = getattr(model, "loss", None)
    name = loss if isinstance(loss, str) else getattr(loss, "name", None) or getattr(loss, "__name__", "")
    is_binary = "binary" in str(name) or name == "bce"
    return "probability" if is_binary and found.min(initial=0) >= 0 and found.max(initial=1) <= 1 else "numbers"


def _write_keras(model: keras.Model, folder: Path) -> dict[Format, str]:
    """Write the Keras model, unless it would need the user's code; return the reason if so."""
    if not type(model).__module__.startswith("keras."):
        return {Format.KERAS: f"it would load only with your code, which has its class {type(model).__name__}"}
    model.compiled = False  # the user's losses and metrics are not needed to predict
    refused = formats.write_possible(model, (Format.KERAS,), folder)
    path = folder / errands.BUNDLE_PATHS[Format.KERAS]
    problems = [] if refused else keras_file.problems(path)
    if problems:
        path.unlink()
        refused = {Format.KERAS: f"it would load only with your code: {'; '.join(problems[:3])}"}
    return refused


def _write_others(model: keras.Model, known: CallInterface, forms: tuple[Format, ...], folder: Path) -> dict[Format, str]:
    """Write the other formats from a model whose inputs and outputs are plain lists."""
    if not forms:
        return {}
    try:
        flat = user_code.called(lambda: _flat(model, known), doing="tracing the model")
    except user_code.UserCodeError as error:
        cause = error.__cause__ or error
        return dict.fromkeys(forms, f"the model cannot be traced: {(str(cause).splitlines() or [''])[0][:300]}")
    return formats.write_possible(flat, forms, folder)


def _flat(model: keras.Model, known: CallInterface) -> keras.Model:
    given = [keras.Input(one.shape, dtype=one.dtype, name=one.name) for one in known.inputs]
    found = tf.nest.flatten(model(tf.nest.pack_sequence_as(known.structure, given)))
    flat = keras.Model(given if len(given) > 1 else given[0], found if len(found) > 1 else found[0])
    first = [array[:1] for array in known.arrays]
    flat(first if len(first) > 1 else first[0])  # the writer of ONNX needs a model that was called
    return flat


def _write_arrays(order: errands.ExportCode, known: CallInterface, found: Mapping[str, NDArray[Any]]) -> None:
    rows = slice(order.num_examples)
    given = {one.name: array for one, array in zip(known.inputs, known.arrays, strict=True)}
    np.savez(order.examples, **{name: array[rows] for name, array in given.items()})  # type: ignore[arg-type]
    np.savez(order.predictions, **{name: array[rows] for name, array in found.items()})  # type: ignore[arg-type]
    numbered = {f"in_{number}": array for number, array in enumerate(known.arrays)}
    np.savez(order.answers, **numbered, **{f"out_{number}": array for number, array in enumerate(found.values())})  # type: ignore[arg-type]
