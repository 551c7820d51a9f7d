"""Images into the vectors of a frozen backbone, computed once a host and read by every trial and worker."""

import hashlib
import json
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner.data import cache as cache_files
from tuner.training import backbones

_BATCH = 64


def load(backbone: backbones.Backbone, images: NDArray[np.uint8], *, network: str, key: str, cache: Path) -> NDArray[np.float32]:
    """Vectors (n, d) of images (n, size, size, 3), mapped from a file of the cache.

    `network` is the backbone's digest, `key` whatever identifies the images and the way that they were resized. One process computes,
    others that want the same wait for it. A file that is damaged is made anew.
    """
    name = hashlib.sha256(json.dumps([key, network, len(images)]).encode()).hexdigest()
    path = cache / "features" / f"{name}.npy"
    with cache_files.locked(path):
        found = _read(path, len(images))
        if found is None:
            _write(path, compute(backbone, images))
            found = _read(path, len(images))
            assert found is not None
    return found


def compute(backbone: backbones.Backbone, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The same, without the cache."""
    forward = tf.function(lambda batch: backbone.features(tf.cast(batch, tf.float32)), reduce_retracing=True)
    parts = [forward(tf.constant(images[start : start + _BATCH])).numpy() for start in range(0, len(images), _BATCH)]
    return np.concatenate(parts).astype(np.float32)


def _read(path: Path, count: int) -> NDArray[np.float32] | None:
    try:
        found = np.load(path, mmap_mode="r")
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return found if found.ndim == 2 and len(found) == count and found.dtype == np.float32 else None


def _write(path: Path, features: NDArray[np.float32]) -> None:
    with cache_files.written_beside(path) as file:
        np.save(file, features)
