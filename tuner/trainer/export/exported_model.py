"""An exported model: loaded as its users load it, without the rest of tuner, compared with the original, and run on images or arrays."""

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner import errors
from tuner.kernels import targets
from tuner.protocol import errands
from tuner.protocol.errands import Format
from tuner.tasks.images.data import image_file, resized
from tuner.trust import keras_file

#: probabilities of the classes of one image
Row = tuple[float, ...]
#: images (n, size, size, 3) uint8 to probabilities (n, classes)
Model = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

#: an array for each input of a user model, to an array for each output; the first axis is the examples
ArrayModel = Callable[[Sequence[NDArray[Any]]], list[NDArray[Any]]]

_BATCH = 64
#: number of images that are timed one by one, and of images before them that warm the model up
_NUM_TIMED, _NUM_WARMING = 10, 2


def load(form: Format, path: Path, *, threads: int) -> Model:
    """Load a model from a file or folder; `threads` applies to onnxruntime and LiteRT, and 0 means all cores.

    Raises:
        DataError: the model cannot be loaded.
        MissingPackage: the package that loads this format is not installed.
    """
    with _loading(path):
        return _LOADERS[form](path, threads)


@contextmanager
def _loading(path: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise errors.DataError(f"{path} cannot be loaded: {reason}") from error


def _keras(path: Path, _: int) -> Model:
    import keras

    return as_graph(keras.saving.load_model(path, compile=False, safe_mode=True))


def as_graph(model: Any) -> Model:
    """Trace a Keras model as one graph for any number of images, which takes half the time of calling its layers."""
    import tensorflow as tf

    traced = tf.function(lambda images: model(images, training=False), input_signature=[tf.TensorSpec(model.inputs[0].shape, tf.float32)])
    return lambda images: np.asarray(traced(tf.constant(images, tf.float32)))


def _saved_model(path: Path, _: int) -> Model:
    import tensorflow as tf

    model = tf.saved_model.load(str(path))
    return lambda images: np.asarray(model.serve(tf.constant(images, tf.float32)))


def _onnx(path: Path, threads: int) -> Model:
    session = _onnx_session(path, threads)
    name = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {name: images.astype(np.float32)})[0])


def _onnx_session(path: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise errors.MissingPackage("onnxruntime", extra="onnx", needed_for="--format onnx") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _litert(path: Path, threads: int) -> Model:
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_path=str(path), num_threads=threads or None)
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if tuple(interpreter.get_input_details()[0]["shape"]) != images.shape:
            interpreter.resize_tensor_input(given["index"], images.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], images.astype(given["dtype"]))
        interpreter.invoke()
        return np.array(interpreter.get_tensor(found["index"]))

    interpreter.allocate_tensors()
    return predict


_LOADERS: dict[Format, Callable[[Path, int], Model]] = {
    Format.KERAS: _keras,
    Format.SAVED_MODEL: _saved_model,
    Format.ONNX: _onnx,
    Format.LITERT: _litert,
    Format.INT8: _litert,
}


def compare(order: errands.Compare, *, threads: int) -> errands.Compared:
    """Compare a model with the predictions of the original, and time it.

    Raises:
        RequestError: the model cannot be loaded.
    """
    if order.outputs:
        return _compare_arrays(order, threads=threads)
    with np.load(order.answers, allow_pickle=False) as arrays:
        images, wanted = arrays["images"], arrays["probabilities"]
    start = time.perf_counter()
    model = load(order.format, Path(order.path), threads=threads)
    load_seconds = time.perf_counter() - start
    timed = milliseconds(model, images)
    found = np.concatenate([model(images[first : first + _BATCH]) for first in range(0, len(images), _BATCH)])
    return errands.Compared(
        num_images=len(images),
        max_difference=targets.difference(order.answers_mean.kind, found, wanted),
        agreement=float(targets.agreeing(order.answers_mean.kind, found, wanted, order.answers_mean.thresholds).mean()),
        milliseconds=timed,
        load_seconds=load_seconds,
    )


def milliseconds(model: Model, images: NDArray[np.uint8]) -> float:
    """Return the median time for one image, over several images one at a time."""
    found = []
    for number in range(_NUM_WARMING + _NUM_TIMED):
        image = images[number % len(images)][None]
        start = time.perf_counter()
        model(image)
        found.append(time.perf_counter() - start)
    return 1000 * statistics.median(found[_NUM_WARMING:])


def predict_images(order: errands.PredictImages, *, threads: int) -> errands.ImagePredictions:
    """Predict the probabilities of image files; a file that cannot be read gets a reason instead.

    Raises:
        RequestError: the model cannot be loaded, or could run code.
    """
    keras_file.require_safe(Path(order.path))
    model = load(Format.KERAS, Path(order.path), threads=threads)
    found: list[tuple[Row | None, str]] = []
    for start in range(0, len(order.images), _BATCH):
        found += _predict_batch(model, order.images[start : start + _BATCH], order)
    return errands.ImagePredictions(probabilities=tuple(row for row, _ in found), troubles=tuple(trouble for _, trouble in found))


def _predict_batch(model: Model, paths: Sequence[str], order: errands.PredictImages) -> list[tuple[Row | None, str]]:
    read = [_read_image(path, order) for path in paths]
    images = [image for image, _ in read if image is not None]
    rows = iter(model(np.stack(images)).tolist() if images else [])
    return [(None if image is None else tuple(next(rows)), trouble) for image, trouble in read]


def _read_image(path: str, order: errands.PredictImages) -> tuple[Any, str]:
    """Return the image at the size of the model, or the reason why it cannot be read."""
    try:
        return resized.fit(image_file.read(path, value_range=order.value_range), order.size, order.resize), ""
    except errors.DataError as error:
        return None, str(error)


def load_arrays(form: Format, path: Path, *, inputs: Sequence[str], threads: int) -> ArrayModel:
    """Load a user model, with the names of its inputs.

    Raises:
        DataError: the model cannot be loaded.
        MissingPackage: the package that loads this format is not installed.
    """
    with _loading(path):
        return _ARRAY_LOADERS[form](path, inputs, threads)


def _keras_arrays(path: Path, inputs: Sequence[str], threads: int) -> ArrayModel:
    import keras
    import tensorflow as tf

    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    specs = [tf.TensorSpec([None, *given.shape[1:]], given.dtype) for given in tf.nest.flatten(structure)]

    def predict(*given: Any) -> Any:
        return tf.nest.flatten(model(tf.nest.pack_sequence_as(structure, given), training=False))

    traced = tf.function(predict, input_signature=specs)
    return lambda arrays: [np.asarray(found) for found in traced(*map(tf.constant, arrays))]


def _saved_model_arrays(path: Path, inputs: Sequence[str], threads: int) -> ArrayModel:
    import tensorflow as tf

    model = tf.saved_model.load(str(path))

    def predict(arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        given = [tf.constant(array) for array in arrays]
        return [np.asarray(found) for found in tf.nest.flatten(model.serve(given if len(given) > 1 else given[0]))]

    return predict


def _onnx_arrays(path: Path, inputs: Sequence[str], threads: int) -> ArrayModel:
    session = _onnx_session(path, threads)
    names = _matched([given.name for given in session.get_inputs()], inputs)
    return lambda arrays: [np.asarray(found) for found in session.run(None, dict(zip(names, arrays, strict=True)))]


def _litert_arrays(path: Path, inputs: Sequence[str], threads: int) -> ArrayModel:
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_path=str(path), num_threads=threads or None)
    ((_, signature),) = interpreter.get_signature_list().items()
    run = interpreter.get_signature_runner()
    names = _matched(signature["inputs"], inputs)
    order = sorted(signature["outputs"], key=lambda name: (len(name), name))  # output_0, output_1, …, output_10

    def predict(arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        found = run(**dict(zip(names, arrays, strict=True)))
        return [np.array(found[name]) for name in order]

    return predict


def _matched(known: Sequence[str], inputs: Sequence[str]) -> list[str]:
    """Return the names that a format has for some inputs: the same names, or others in the same order."""
    return list(inputs) if set(known) == set(inputs) else list(known)


_ARRAY_LOADERS: dict[Format, Callable[[Path, Sequence[str], int], ArrayModel]] = {
    Format.KERAS: _keras_arrays,
    Format.SAVED_MODEL: _saved_model_arrays,
    Format.ONNX: _onnx_arrays,
    Format.LITERT: _litert_arrays,
}


def _in_batches(model: ArrayModel, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    parts = [model([array[start : start + _BATCH] for array in arrays]) for start in range(0, len(arrays[0]), _BATCH)]
    return [np.concatenate(each) for each in zip(*parts, strict=True)]


def _compare_arrays(order: errands.Compare, *, threads: int) -> errands.Compared:
    with np.load(order.answers, allow_pickle=False) as arrays:
        given = [arrays[f"in_{number}"] for number in range(len(order.inputs))]
        wanted = [arrays[f"out_{number}"] for number in range(len(order.outputs))]
    start = time.perf_counter()
    model = load_arrays(order.format, Path(order.path), inputs=order.inputs, threads=threads)
    load_seconds = time.perf_counter() - start
    timed = []
    for number in range(_NUM_WARMING + _NUM_TIMED):
        row = number % len(given[0])
        start = time.perf_counter()
        model([array[row : row + 1] for array in given])
        timed.append(time.perf_counter() - start)
    found = _in_batches(model, given)
    agreements = [share for each in zip(found, wanted, order.outputs, strict=True) if (share := _agreement(*each)) is not None]
    return errands.Compared(
        num_images=len(given[0]),
        max_difference=max(difference(*each) for each in zip(found, wanted, order.outputs, strict=True)),
        agreement=min(agreements, default=1.0),
        milliseconds=1000 * statistics.median(timed[_NUM_WARMING:]),
        load_seconds=load_seconds,
    )


def difference(found: NDArray[Any], wanted: NDArray[Any], meaning: errands.Meaning) -> float:
    """Return the largest difference between two outputs; of numbers, as a fraction of the largest one."""
    if found.shape != wanted.shape:
        raise errors.DataError(f"the model returns {found.shape}; expected {wanted.shape}, as the original does")
    scale = 1.0 if meaning != "numbers" else float(np.abs(wanted).max(initial=0.0)) or 1.0
    return float(np.abs(found.astype(np.float64) - wanted).max(initial=0.0)) / scale


def _agreement(found: NDArray[Any], wanted: NDArray[Any], meaning: errands.Meaning) -> float | None:
    """Return the share of equal classes of two outputs; None if they are no probabilities."""
    if meaning == "probabilities":
        return float((found.argmax(-1) == wanted.argmax(-1)).mean())
    return float(((found >= 0.5) == (wanted >= 0.5)).mean()) if meaning == "probability" else None


def predict_arrays(order: errands.PredictArrays, *, threads: int) -> errands.ArrayPredictions:
    """Predict arrays, and write the predictions.

    Raises:
        RequestError: the model cannot be loaded, or could run code, or the arrays do not fit it.
    """
    path = Path(order.path)
    if order.format is Format.KERAS:
        keras_file.require_safe(path)
    model = load_arrays(order.format, path, inputs=[given.name for given in order.inputs], threads=threads)
    with np.load(order.arrays, allow_pickle=False) as arrays:
        given = [arrays[one.name] for one in order.inputs]
    try:
        found = _in_batches(model, given)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise errors.DataError(f"the model cannot predict these arrays: {reason}") from error
    np.savez(order.to, **dict(zip(order.outputs, found, strict=True)))  # type: ignore[arg-type]
    return errands.ArrayPredictions(num_examples=len(given[0]))
