"""An exported model: loaded as its users load it, without the rest of tuner, compared with the original and run on image files."""

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner import errors
from tuner.protocol import errands
from tuner.protocol.errands import Format
from tuner.tasks.images.data import image_file, resized
from tuner.trust import keras_file

#: probabilities of the classes of one image
Row = tuple[float, ...]
#: images (n, size, size, 3) uint8 to probabilities (n, classes)
Model = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

_BATCH = 64
#: number of images that are timed one by one, and of images before them that warm the model up
_NUM_TIMED, _NUM_WARMING = 10, 2


def load(form: Format, path: Path, *, threads: int) -> Model:
    """Load a model from a file or folder; `threads` applies to onnxruntime and LiteRT, and 0 means all cores.

    Raises:
        DataError: the model cannot be loaded.
        MissingPackage: the package that loads this format is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _LOADERS[form](path, threads)
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
    try:
        import onnxruntime
    except ImportError as error:
        raise errors.MissingPackage("onnxruntime", extra="onnx", needed_for="--format onnx") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {name: images.astype(np.float32)})[0])


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
    with np.load(order.answers, allow_pickle=False) as arrays:
        images, wanted = arrays["images"], arrays["probabilities"]
    start = time.perf_counter()
    model = load(order.format, Path(order.path), threads=threads)
    load_seconds = time.perf_counter() - start
    timed = milliseconds(model, images)
    found = np.concatenate([model(images[first : first + _BATCH]) for first in range(0, len(images), _BATCH)])
    return errands.Compared(
        num_images=len(images),
        max_difference=float(np.abs(found - wanted).max()),
        agreement=float((found.argmax(1) == wanted.argmax(1)).mean()),
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
