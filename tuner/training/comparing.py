"""A written model, loaded in this process anew, against what the Keras model made of the same images."""

import statistics
import time
from pathlib import Path

import numpy as np

from tuner import errands
from tuner.training import loaded

_BATCH = 64
#: images that are timed alone, after as many as make the model warm
_NUM_TIMED, _NUM_WARMING = 10, 2


def compare(order: errands.Compare, *, threads: int) -> errands.Compared:
    """How far the model agrees, and how long an image takes.

    Raises:
        RequestError: it cannot be loaded.
    """
    with np.load(order.answers, allow_pickle=False) as arrays:
        images, wanted = arrays["images"], arrays["probabilities"]
    start = time.perf_counter()
    model = loaded.load(order.format, Path(order.path), threads=threads)
    load_seconds = time.perf_counter() - start
    timed = _seconds(model, images)
    found = np.concatenate([model(images[first : first + _BATCH]) for first in range(0, len(images), _BATCH)])
    return errands.Compared(
        num_images=len(images),
        max_difference=float(np.abs(found - wanted).max()),
        agreement=float((found.argmax(1) == wanted.argmax(1)).mean()),
        milliseconds=1000 * statistics.median(timed),
        load_seconds=load_seconds,
    )


def _seconds(model: loaded.Model, images: np.ndarray) -> list[float]:
    """Of one image at a time."""
    found = []
    for number in range(_NUM_WARMING + _NUM_TIMED):
        image = images[number % len(images)][None]
        start = time.perf_counter()
        model(image)
        found.append(time.perf_counter() - start)
    return found[_NUM_WARMING:]
