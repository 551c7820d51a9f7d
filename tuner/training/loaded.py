"""A written model into something that predicts, loaded as its users do, without the rest of tuner."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner import errors
from tuner.errands import Format

#: images (n, size, size, 3) uint8 to probabilities (n, classes)
Model = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def load(form: Format, path: Path, *, threads: int) -> Model:
    """The model of a file or folder. `threads`: of onnxruntime and LiteRT, 0 all cores; TensorFlow's are the process's.

    Raises:
        DataError: it cannot be loaded.
        MissingPackage: what loads it is not installed.
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
    """A Keras model as its `predict` calls it: one graph for all numbers of images, in half the time of layer by layer."""
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
