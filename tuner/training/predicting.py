"""Image files into what the model of a bundle makes of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tuner import errands, errors
from tuner.data import images as files
from tuner.data import resized
from tuner.errands import Format
from tuner.training import loaded
from tuner.trust import keras_file

_BATCH = 64
Row = tuple[float, ...]


def predict(order: errands.Predict, *, threads: int) -> errands.Predicted:
    """The probabilities of each file; one that cannot be read has none, and a reason.

    Raises:
        RequestError: the model cannot be loaded, or could do more than compute.
    """
    keras_file.require_safe(Path(order.path))
    model = loaded.load(Format.KERAS, Path(order.path), threads=threads)
    found: list[tuple[Row | None, str]] = []
    for start in range(0, len(order.images), _BATCH):
        found += _batch(model, order.images[start : start + _BATCH], order)
    return errands.Predicted(probabilities=tuple(row for row, _ in found), troubles=tuple(trouble for _, trouble in found))


def _batch(model: loaded.Model, paths: Sequence[str], order: errands.Predict) -> list[tuple[Row | None, str]]:
    read = [_read(path, order) for path in paths]
    images = [image for image, _ in read if image is not None]
    rows = iter(model(np.stack(images)).tolist() if images else [])
    return [(None if image is None else tuple(next(rows)), trouble) for image, trouble in read]


def _read(path: str, order: errands.Predict) -> tuple[Any, str]:
    """The image at the model's size, or why there is none."""
    try:
        return resized.fit(files.read(path), order.size, order.resize), ""
    except errors.DataError as error:
        return None, str(error)
