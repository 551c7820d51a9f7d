"""A bundle's model, once its file was looked at, into what it makes of the probes, of the test split and of images with something wrong."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tuner import errands, errors, spec
from tuner.training import pipeline, robustness
from tuner.trust import keras_file

_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError)


def verify(order: errands.Verify) -> errands.Verified:
    """Load the model and measure it.

    Raises:
        RequestError: it is not safe to load, or cannot be loaded, or the data cannot be had.
    """
    model = _load(Path(order.model))
    images, labels, recorded = _probes(order)
    found = robustness.probabilities(model, images)
    if found.shape != recorded.shape:
        raise errors.DataError(f"the model gives {found.shape[1]} probabilities an image; {recorded.shape[1]} are recorded")
    test = None if order.spec is None else _test(model, order)
    if test is not None:
        images, labels = test[1], test[2]
    clean = robustness.accuracy(robustness.probabilities(model, images), labels)
    return errands.Verified(
        num_probes=len(recorded),
        num_agreeing=int((found.argmax(1) == recorded.argmax(1)).sum()),
        max_difference=float(np.abs(found - recorded).max()),
        test=None if test is None else test[0],
        num_images=len(images),
        clean=clean,
        robust=robustness.measure(model, images, labels) if order.is_robustness_wanted else (),
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
    study = spec.StudySpec.model_validate_json(order.spec)
    data = pipeline.load(study, cache=Path(order.cache))
    labels = data.test.labels
    if not len(labels):
        raise errors.DataError("the test split of config.yaml is empty, so there is nothing to reproduce test metrics on")
    size = len(labels)
    found = np.concatenate([robustness.probabilities(model, data.test.images[slice(start, start + 256)]) for start in range(0, size, 256)])
    score = errands.TestScore(
        accuracy=robustness.accuracy(found, labels), num_images=size, fingerprint=data.fingerprint, splits=data.splits
    )
    rows = np.unique(np.linspace(0, size - 1, min(size, order.most_images)).round().astype(np.int64))
    return score, np.asarray(data.test.images[rows]), labels[rows]
