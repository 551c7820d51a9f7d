"""A Keras model into the file or folder of each format."""

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

from tuner import errands, errors
from tuner.errands import Format
from tuner.training import eight_bits

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
    path.write_bytes(eight_bits.convert(source.for_int8(), source.calibration, source.scratch))


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
