"""A Keras model into LiteRT in 8 bits, its features corrected for what rounding does to them on average.

Source: Nagel and others, Data-Free Quantization Through Weight Equalization and Bias Correction (arXiv 1906.04721), section 4.2; here the
means are measured on images, and it is the standardized features that are corrected, where the errors of all layers come together.

A Keras model into the file or folder of each format.
"""

import contextlib
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework import convert_to_constants  # it has no public name, and TensorFlow's own guides import it

from tuner import errors
from tuner.protocol import errands
from tuner.protocol.errands import Format
from tuner.trainer.export import standalone

Images = NDArray[np.uint8]
_BATCH = 50
#: images that ranges are measured on, one by one and slowly; more of them have not given better models
_NUM_RANGED = 50


def convert(model: keras.Model, calibration: Images, scratch: Path) -> bytes:
    """A model of `standalone.build_for_int8` with weights and activations in 8 bits.

    Colours go in as the bytes that they are, probabilities come out as float32. `calibration` are images (n, size, size, 3) of the kind
    that it will see; the model is changed.
    """
    correct(model, calibration)
    path = scratch / "for_int8"
    model.export(path, format="tf_saved_model", verbose=False)
    return _quantized(tf.lite.TFLiteConverter.from_saved_model(str(path)), calibration)


def correct(model: keras.Model, images: Images) -> None:
    """Take from the standardized features what 8 bits add to each of them, on average over images."""
    added = (features(model, images) - _run_float(_below(model), images)).mean(0)
    first, number = 0, 0
    names = {layer.name for layer in model.layers}
    while (name := standalone.STANDARDIZED.format(number)) in names:
        kernel, bias = model.get_layer(name).get_weights()
        model.get_layer(name).set_weights([kernel, bias - added[first : first + len(bias)]])
        first, number = first + len(bias), number + 1


def features(model: keras.Model, images: Images) -> NDArray[np.float32]:
    """The standardized features (n, d) of images in 8 bits."""
    return _run(_quantized(_frozen(_below(model)), images), images)


def _below(model: keras.Model) -> keras.Model:
    """The model up to its standardized features."""
    return keras.Model(model.inputs[0], model.get_layer(standalone.FIRST_DENSE).input)


def _frozen(model: keras.Model) -> Any:
    """A converter of a graph with its weights as constants, in a quarter of the time: what is made of it is not kept."""
    given = tf.TensorSpec([None, *model.inputs[0].shape[1:]], tf.float32)
    traced = tf.function(lambda images: model(images, training=False), input_signature=[given]).get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([convert_to_constants.convert_variables_to_constants_v2(traced)])


def _quantized(converter: Any, calibration: Images) -> bytes:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: _calibrating(calibration)
    # what has no form in 8 bits stays in float32
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.inference_input_type = tf.uint8
    converter.inference_output_type = tf.float32
    content: bytes = converter.convert()
    return content


def _calibrating(images: Images) -> Iterator[list[NDArray[np.float32]]]:
    """Some of the images one by one, as a model is given them; black and white are among them, so that a byte stands for itself."""
    for number, image in enumerate(images[:: max(1, len(images) // _NUM_RANGED)]):
        given = image[None].astype(np.float32)
        if number == 0:
            given[0, 0, 0], given[0, 0, 1] = 0, 255
        yield [given]


def _run(content: bytes, images: Images) -> NDArray[np.float32]:
    """What a model in 8 bits makes of images: (n, d)."""
    interpreter = tf.lite.Interpreter(model_content=content)
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()
    parts = []
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        interpreter.resize_tensor_input(given["index"], batch.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], batch)
        interpreter.invoke()
        parts.append(interpreter.get_tensor(found["index"]).reshape(len(batch), -1))
    return np.concatenate(parts)


def _run_float(model: keras.Model, images: Images) -> NDArray[np.float32]:
    parts = [images[start : start + _BATCH].astype(np.float32) for start in range(0, len(images), _BATCH)]
    return np.concatenate([np.asarray(model(part, training=False)).reshape(len(part), -1) for part in parts])


#: of ONNX; tf2onnx writes it, and every onnxruntime since 2022 reads it
_OPSET = 17


@dataclass(frozen=True, kw_only=True)
class _Source:
    """What the writers of all formats start from."""

    model: keras.Model
    #: the same model in the form that int8 is made of
    for_int8: Callable[[], keras.Model]
    #: images (n, size, size, 3) uint8 by which int8 is calibrated
    calibration: NDArray[np.uint8]
    #: for what is needed only on the way
    scratch: Path

    @cached_property
    def saved(self) -> Path:
        """The model as a SavedModel, which TensorFlow's converter starts from."""
        path = self.scratch / "saved_model"
        self.model.export(path, format="tf_saved_model", verbose=False)
        return path


def write(
    model: keras.Model, forms: Sequence[Format], folder: Path, *, for_int8: Callable[[], keras.Model], calibration: NDArray[np.uint8]
) -> dict[Format, float]:
    """Write a model of one input and one output in each format; the seconds of each.

    `for_int8` gives the model in a form that bears 8 bits, `calibration` are images (n, size, size, 3) of the kind that it will see.

    Raises:
        DataError: a layer of the model has no counterpart in a format.
    """
    seconds = {}
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        source = _Source(model=model, for_int8=for_int8, calibration=calibration, scratch=Path(scratch))
        for form in sorted(forms, key=list(Format).index, reverse=True):
            start = time.perf_counter()
            try:
                with _quietly():
                    _WRITERS[form](source, folder / errands.PLACES[form])
            except (ValueError, TypeError, NotImplementedError, RuntimeError, KeyError) as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise errors.DataError(f"the model cannot be written as {form.value}: {reason}; leave {form.value} out") from error
            seconds[form] = time.perf_counter() - start
    return seconds


def _keras(source: _Source, path: Path) -> None:
    source.model.save(path)


def _saved_model(source: _Source, path: Path) -> None:
    source.saved.rename(path)


def _onnx(source: _Source, path: Path) -> None:
    source.model.export(path, format="onnx", verbose=False, opset_version=_OPSET)


def _litert(source: _Source, path: Path) -> None:
    path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(source.saved)).convert())


def _int8(source: _Source, path: Path) -> None:
    path.write_bytes(convert(source.for_int8(), source.calibration, source.scratch))


_WRITERS: dict[Format, Callable[[_Source, Path], Any]] = {
    Format.KERAS: _keras,
    Format.SAVED_MODEL: _saved_model,
    Format.ONNX: _onnx,
    Format.LITERT: _litert,
    Format.INT8: _int8,
}


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what the converters print and warn of; they do so from C++, past Python's own streams."""
    sys.stdout.flush()
    kept = os.dup(1)
    with tempfile.TemporaryFile() as nowhere, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(kept, 1)
            os.close(kept)
