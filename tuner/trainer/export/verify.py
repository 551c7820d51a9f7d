"""A model and images into its accuracy on them as they are, as a bad camera would have them, and under a small attack.

The attack is the fast gradient sign method (Goodfellow et al., arXiv 1412.6572): each colour moves by a few of its 255 steps, to the
side on which the loss grows. It is made against the logits: through a softmax that is sure of itself no gradient comes.

A bundle's model, once its file was looked at, into what it makes of the probes, of the test split and of images with something wrong.

Image files into what the model of a bundle makes of them.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from tuner import errors
from tuner.protocol import errands
from tuner.protocol.errands import Format
from tuner.spec import study as spec_study
from tuner.tasks.images.data import corruptions, resized
from tuner.tasks.images.data import image_file as files
from tuner.tasks.images.training import pipeline
from tuner.trainer.export import compare
from tuner.trust import keras_file

Pixels = NDArray[np.uint8]
#: how far the attack moves a colour, of 255
FGSM_STEPS = (1.0, 2.0, 4.0)
FGSM = "fgsm"
_BATCH = 64
_SEED = 0
_LEAST = 1e-12


def measure(model: keras.Model, images: Pixels, labels: NDArray[np.int64]) -> tuple[errands.Robust, ...]:
    """The accuracy under each corruption at each of its strengths, then under the attack."""
    return (*_corrupted(model, images, labels), *_attacked(model, images, labels))


def probabilities(model: keras.Model, images: NDArray[np.generic]) -> NDArray[np.float32]:
    """What the model makes of images (n, size, size, 3), colours from 0 to 255."""
    found = [np.asarray(model(tf.constant(images[start : start + _BATCH], tf.float32), training=False)) for start in _starts(images)]
    return np.concatenate(found)


def accuracy(found: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The part of the images whose class has the highest probability."""
    return float((found.argmax(1) == labels).mean())


def _corrupted(model: keras.Model, images: Pixels, labels: NDArray[np.int64]) -> Iterator[errands.Robust]:
    for kind, strengths in corruptions.STRENGTHS.items():
        for strength in strengths:
            found = probabilities(model, corruptions.corrupt(images, kind, strength, seed=_SEED))
            yield errands.Robust(corruption=kind.value, strength=strength, accuracy=accuracy(found, labels))


def _attacked(model: keras.Model, images: Pixels, labels: NDArray[np.int64]) -> Iterator[errands.Robust]:
    logits = _without_softmax(model)
    signs = [_signs(logits, images[start : start + _BATCH], labels[start : start + _BATCH]) for start in _starts(images)]
    if any(sign is None for sign in signs):
        return
    sign = np.concatenate([sign for sign in signs if sign is not None])
    for steps in FGSM_STEPS:
        attacked = np.clip(images + steps * sign, 0, 255).astype(np.float32)
        yield errands.Robust(corruption=FGSM, strength=steps, accuracy=accuracy(probabilities(model, attacked), labels))


def _signs(logits: keras.Model, images: Pixels, labels: NDArray[np.int64]) -> NDArray[np.float32] | None:
    """The side on which the loss grows, for each colour of each pixel; None where no gradient comes through."""
    given = tf.constant(images, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(given)
        loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits(given, training=False)))
    gradient = tape.gradient(loss, given)
    return None if gradient is None else np.sign(gradient.numpy())


def _without_softmax(model: keras.Model) -> keras.Model:
    """The model up to its logits; of one that ends otherwise, the logarithm of its probabilities."""
    last = model.layers[-1]
    is_softmax = isinstance(last, keras.layers.Softmax) or getattr(last, "activation", None) is keras.activations.softmax
    if isinstance(last, keras.layers.Softmax | keras.layers.Activation) and is_softmax:
        return keras.Model(model.inputs[0], last.input)
    return keras.Model(model.inputs[0], keras.ops.log(keras.ops.maximum(model.outputs[0], _LEAST)))


def _starts(images: NDArray[np.generic]) -> range:
    return range(0, len(images), _BATCH)


_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError)


def verify(order: errands.Verify) -> errands.Verified:
    """Load the model and measure it.

    Raises:
        RequestError: it is not safe to load, or cannot be loaded, or the data cannot be had.
    """
    model = _load(Path(order.model))
    images, labels, recorded = _probes(order)
    found = probabilities(model, images)
    if found.shape != recorded.shape:
        raise errors.DataError(f"the model gives {found.shape[1]} probabilities an image; {recorded.shape[1]} are recorded")
    test = None if order.spec is None else _test(model, order)
    if test is not None:
        images, labels = test[1], test[2]
    clean = accuracy(probabilities(model, images), labels)
    return errands.Verified(
        num_probes=len(recorded),
        num_agreeing=int((found.argmax(1) == recorded.argmax(1)).sum()),
        max_difference=float(np.abs(found - recorded).max()),
        test=None if test is None else test[0],
        num_images=len(images),
        clean=clean,
        robust=measure(model, images, labels) if order.is_robustness_wanted else (),
    )


def _load(path: Path) -> keras.Model:
    keras_file.require_safe(path)
    try:
        model: keras.Model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (*_DAMAGE, NotImplementedError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise errors.DataError(f"{path} cannot be loaded: {reason[:300]}") from error
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.outputs[0].shape) != 2:
        raise errors.DataError(f"{path} is no classifier: expected one input of images and one output (n, classes)")
    return model


def _probes(order: errands.Verify) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float32]]:
    """Images, their classes and the probabilities that were recorded of them."""
    folder = Path(order.probes)
    try:
        recorded: dict[str, Any] = json.loads((folder / errands.PREDICTIONS).read_text(encoding="utf-8"))
        classes, rows = recorded["classes"], recorded["images"]
        images = np.stack([np.asarray(Image.open(folder / Path(row["file"]).name).convert("RGB")) for row in rows])
        labels = np.array([classes.index(row["label"]) for row in rows], np.int64)
        found = np.array([row["probabilities"] for row in rows], np.float32)
    except (*_DAMAGE, Image.DecompressionBombError) as error:
        raise errors.DataError(f"the probes in {folder} cannot be read: {error}") from error
    if found.ndim != 2 or found.shape[1] != len(classes):
        raise errors.DataError(f"the probes in {folder} have probabilities {found.shape} of {len(classes)} classes")
    return images, labels, found


def _test(model: keras.Model, order: errands.Verify) -> tuple[errands.TestScore, NDArray[np.uint8], NDArray[np.int64]]:
    """The score on the test split, and as many of its images as robustness is measured on, evenly spread over it."""
    assert order.spec is not None
    study = spec_study.StudySpec.model_validate_json(order.spec)
    data = pipeline.load(study, cache=Path(order.cache))
    labels = data.test.labels
    if not len(labels):
        raise errors.DataError("the test split of config.yaml is empty, so there is nothing to reproduce test metrics on")
    size = len(labels)
    found = np.concatenate([probabilities(model, data.test.images[slice(start, start + 256)]) for start in range(0, size, 256)])
    score = errands.TestScore(accuracy=accuracy(found, labels), num_images=size, fingerprint=data.fingerprint, splits=data.splits)
    rows = np.unique(np.linspace(0, size - 1, min(size, order.most_images)).round().astype(np.int64))
    return score, np.asarray(data.test.images[rows]), labels[rows]


Row = tuple[float, ...]


def predict(order: errands.PredictImages, *, threads: int) -> errands.ImagePredictions:
    """The probabilities of each file; one that cannot be read has none, and a reason.

    Raises:
        RequestError: the model cannot be loaded, or could do more than compute.
    """
    keras_file.require_safe(Path(order.path))
    model = compare.load(Format.KERAS, Path(order.path), threads=threads)
    found: list[tuple[Row | None, str]] = []
    for start in range(0, len(order.images), _BATCH):
        found += _batch(model, order.images[start : start + _BATCH], order)
    return errands.ImagePredictions(probabilities=tuple(row for row, _ in found), troubles=tuple(trouble for _, trouble in found))


def _batch(model: compare.Model, paths: Sequence[str], order: errands.PredictImages) -> list[tuple[Row | None, str]]:
    read = [_read(path, order) for path in paths]
    images = [image for image, _ in read if image is not None]
    rows = iter(model(np.stack(images)).tolist() if images else [])
    return [(None if image is None else tuple(next(rows)), trouble) for image, trouble in read]


def _read(path: str, order: errands.PredictImages) -> tuple[Any, str]:
    """The image at the model's size, or why there is none."""
    try:
        return resized.fit(files.read(path), order.size, order.resize), ""
    except errors.DataError as error:
        return None, str(error)
