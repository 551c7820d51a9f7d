"""Export formats: a Keras model written to the file or folder of each.

The 8-bit model is corrected for the mean error that rounding adds to its features. Source: Nagel and others, Data-Free Quantization Through
Weight Equalization and Bias Correction (arXiv 1906.04721), section 4.2. Here the means are measured on images, and the correction is made
to the standardized features, where the errors of all layers add up.
"""

import contextlib
import os
import re
import shutil
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

from tuner import errors, wording
from tuner.kernels import keras_private
from tuner.protocol import errands
from tuner.protocol.errands import Format
from tuner.tasks.images.training import standalone
from tuner.trust import user_code

Images = NDArray[np.uint8]
_BATCH = 50
#: number of images that ranges are measured on, slowly and one by one; more images gave no better models
_NUM_RANGED = 50
#: ONNX operator set; tf2onnx writes it, and every onnxruntime since 2022 reads it
_OPSET = 17
#: how the converter to LiteRT names an operation that it cannot convert
_LACKING = re.compile(r"error: ('[\w.]+' op [^\n]*)")


@dataclass(frozen=True, kw_only=True)
class _Source:
    """The input of the writers of all formats."""

    model: keras.Model
    #: builds the same model in the form that int8 needs
    for_int8: Callable[[], keras.Model]
    #: images (n, size, size, 3) uint8 that calibrate int8
    calibration: NDArray[np.uint8]
    #: folder for intermediate files
    scratch: Path

    @cached_property
    def saved(self) -> Path:
        """The model as a SavedModel, from which TensorFlow's converter starts."""
        path = self.scratch / "saved_model"
        self.model.export(path, format="tf_saved_model", verbose=False)
        return path


def write(
    model: keras.Model, forms: Sequence[Format], folder: Path, *, for_int8: Callable[[], keras.Model], calibration: NDArray[np.uint8]
) -> dict[Format, float]:
    """Write a model with one input and one output in each format, and return the seconds of each.

    `for_int8` builds the model in a form that suits 8 bits. `calibration` are images (n, size, size, 3) like those in production.

    Raises:
        DataError: a format has no counterpart for a layer of the model.
    """
    seconds = {}
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        source = _Source(model=model, for_int8=for_int8, calibration=calibration, scratch=Path(scratch))
        for form in _last_first(forms):
            start = time.perf_counter()
            try:
                with _quietly():
                    _WRITERS[form](source, folder / errands.BUNDLE_PATHS[form])
            except (ValueError, TypeError, NotImplementedError, RuntimeError, KeyError) as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise errors.DataError(f"the model cannot be written as {form.value}: {reason}; leave {form.value} out") from error
            seconds[form] = time.perf_counter() - start
    return seconds


def _last_first(forms: Sequence[Format]) -> list[Format]:
    """Return formats in the order in which they are written: the SavedModel is moved after others were made of it."""
    return sorted(forms, key=list(Format).index, reverse=True)


def write_possible(model: keras.Model, forms: Sequence[Format], folder: Path) -> dict[Format, str]:
    """Write a user model in each format that is possible, and return the reasons against the others."""
    refused: dict[Format, str] = {}
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        source = _Source(model=model, for_int8=lambda: model, calibration=np.zeros(0, np.uint8), scratch=Path(scratch))
        for form in _last_first(forms):
            path = folder / errands.BUNDLE_PATHS[form]
            try:
                _write_user_model(source, form, path)
            except user_code.UserCodeError as error:
                refused[form] = _reason(error.__cause__ or error)
                if path.is_dir():
                    shutil.rmtree(path)
                path.unlink(missing_ok=True)
    return refused


def _reason(error: BaseException) -> str:
    """Return what a converter complains about: the operation that the format lacks, or the first line of its message."""
    lacking = _LACKING.search(str(error))
    text = lacking[1] if lacking else (str(error).strip().splitlines() or [type(error).__name__])[0]
    return wording.cut(text, 300)


def _write_user_model(source: _Source, form: Format, path: Path) -> None:
    """Write a model; whatever a converter, or user code that it calls, raises is a `UserCodeError`."""
    with _quietly():
        user_code.called(lambda: _WRITERS[form](source, path), doing=f"writing {form.value}")


def _keras(source: _Source, path: Path) -> None:
    source.model.save(path)


def _saved_model(source: _Source, path: Path) -> None:
    source.saved.rename(path)


def _onnx(source: _Source, path: Path) -> None:
    source.model.export(path, format="onnx", verbose=False, opset_version=_OPSET)
    _replace_erfc(path)


def _replace_erfc(path: Path) -> None:
    """Compute 1 - erf(x) in place of erfc(x): TensorFlow uses it for GELU, and tf2onnx copies it, but ONNX has no such operator."""
    import onnx  # a dependency of tf2onnx

    model = onnx.load(path)
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Erfc":
            one, erf = f"{node.output[0]}_one", f"{node.output[0]}_erf"
            value = onnx.helper.make_tensor(one, onnx.TensorProto.FLOAT, [], [1.0])
            nodes.append(onnx.helper.make_node("Constant", [], [one], value=value))
            nodes.append(onnx.helper.make_node("Erf", list(node.input), [erf]))
            nodes.append(onnx.helper.make_node("Sub", [one, erf], list(node.output)))
        else:
            nodes.append(node)
    if len(nodes) > len(model.graph.node):
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        onnx.save(model, path)


def _litert(source: _Source, path: Path) -> None:
    path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(source.saved)).convert())


def _int8(source: _Source, path: Path) -> None:
    path.write_bytes(to_int8(source.for_int8(), source.calibration, source.scratch))


_WRITERS: dict[Format, Callable[[_Source, Path], Any]] = {
    Format.KERAS: _keras,
    Format.SAVED_MODEL: _saved_model,
    Format.ONNX: _onnx,
    Format.LITERT: _litert,
    Format.INT8: _int8,
}


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Suppress output and warnings of the converters, which write from C++ past Python's own streams."""
    sys.stdout.flush()
    stdout = os.dup(1)
    with tempfile.TemporaryFile() as nowhere, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(stdout, 1)
            os.close(stdout)


def to_int8(model: keras.Model, calibration: Images, scratch: Path) -> bytes:
    """Convert a model of `standalone.build_for_int8` to 8-bit weights and activations.

    The input is colors as bytes, and the output is probabilities as float32. `calibration` are images (n, size, size, 3) like those in
    production. The model is changed.
    """
    correct(model, calibration)
    path = scratch / "for_int8"
    model.export(path, format="tf_saved_model", verbose=False)
    return _quantized(tf.lite.TFLiteConverter.from_saved_model(str(path)), calibration)


def correct(model: keras.Model, images: Images) -> None:
    """Subtract from the standardized features the mean error of 8 bits over images."""
    added = (features(model, images) - _run_float(_below(model), images)).mean(0)
    first, number = 0, 0
    names = {layer.name for layer in model.layers}
    while (name := standalone.STANDARDIZED.format(number)) in names:
        kernel, bias = model.get_layer(name).get_weights()
        model.get_layer(name).set_weights([kernel, bias - added[first : first + len(bias)]])
        first, number = first + len(bias), number + 1


def features(model: keras.Model, images: Images) -> NDArray[np.float32]:
    """Return the standardized features (n, d) of images, computed with 8 bits."""
    return _run(_quantized(_frozen(_below(model)), images), images)


def _below(model: keras.Model) -> keras.Model:
    """Return the model up to its standardized features."""
    return keras.Model(model.inputs[0], model.get_layer(standalone.FIRST_DENSE).input)


def _frozen(model: keras.Model) -> Any:
    """Return a converter for a graph with constant weights, which takes a quarter of the time; its result is only measured."""
    given = tf.TensorSpec([None, *model.inputs[0].shape[1:]], tf.float32)
    traced = tf.function(lambda images: model(images, training=False), input_signature=[given]).get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([keras_private.with_constants(traced)])


def _quantized(converter: Any, calibration: Images) -> bytes:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: _calibrating(calibration)
    # operations without an 8-bit form stay in float32
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.inference_input_type = tf.uint8
    converter.inference_output_type = tf.float32
    content: bytes = converter.convert()
    return content


def _calibrating(images: Images) -> Iterator[list[NDArray[np.float32]]]:
    """Yield some images one by one; the first has a black and a white pixel, so that input bytes keep their values."""
    for number, image in enumerate(images[:: max(1, len(images) // _NUM_RANGED)]):
        given = image[None].astype(np.float32)
        if number == 0:
            given[0, 0, 0], given[0, 0, 1] = 0, 255
        yield [given]


def _run(content: bytes, images: Images) -> NDArray[np.float32]:
    """Return the output (n, d) of an 8-bit model for images."""
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
