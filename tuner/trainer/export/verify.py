"""Verification of a bundle's model: its predictions on the probes and the test split, and its robustness.

Robustness is the accuracy, or the metric of several labels or numbers, on corrupted images and under a small attack. The attack is the fast
gradient sign method (Goodfellow et al., arXiv 1412.6572): each color value moves by a few of its 255 steps in the direction in which the
loss grows. It uses the logits, because a confident softmax or sigmoid passes no gradient.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from tuner import errors
from tuner.kernels import targets
from tuner.protocol import errands
from tuner.spec import study as spec_study
from tuner.spec.hyperparameters import TargetKind
from tuner.tasks.images.data import corruptions
from tuner.tasks.images.training import training_data
from tuner.trust import keras_file

Pixels = NDArray[np.uint8]
#: strengths of the attack, in steps of a color from 0 to 255
FGSM_STEPS = (1.0, 2.0, 4.0)
FGSM = "fgsm"
_BATCH = 64
_SEED = 0
_LEAST = 1e-12
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError)
#: loss of each kind of labels for logits, or for numbers in the units of the user
_LOSSES: Mapping[TargetKind, Callable[[NDArray[Any], Any], Any]] = {
    TargetKind.LABEL: tf.nn.sparse_softmax_cross_entropy_with_logits,
    TargetKind.LABELS: lambda labels, raw: tf.nn.sigmoid_cross_entropy_with_logits(tf.constant(labels, raw.dtype), raw),
    TargetKind.NUMBER: lambda labels, raw: tf.square(raw - tf.constant(labels.reshape(raw.shape), raw.dtype)),
}


def verify(order: errands.Verify) -> errands.Verified:
    """Load a model and measure it.

    Raises:
        RequestError: the model is not safe or cannot be loaded, or the data cannot be used.
    """
    model = _load(Path(order.model))
    images, labels, recorded = _probes(order)
    mean = order.answers_mean
    found = probabilities(model, images)
    if found.shape != recorded.shape:
        raise errors.DataError(
            f"the model returns {found.shape[1]} probabilities for an image; expected {recorded.shape[1]}, as recorded with the probes"
        )
    test = None if order.spec is None else _test(model, order)
    if test is not None:
        images, labels = test[1], test[2]
    return errands.Verified(
        num_probes=len(recorded),
        num_agreeing=int(targets.agreeing(mean.kind, found, recorded, mean.thresholds).sum()),
        max_difference=targets.difference(mean.kind, found, recorded),
        test=None if test is None else test[0],
        num_images=len(images),
        clean=_value(probabilities(model, images), labels, mean),
        robust=measure_robustness(model, images, labels, mean) if order.is_robustness_wanted else (),
    )


def _value(found: NDArray[np.float32], labels: NDArray[Any], mean: errands.Answers) -> float:
    """Return the accuracy of probabilities; if an image has several labels or a number, the metric of the study."""
    judged = targets.judge_answers(mean.kind, found, labels, mean.thresholds)
    return judged.accuracy if mean.kind is TargetKind.LABEL else judged.metrics[mean.metric]


def _load(path: Path) -> keras.Model:
    keras_file.require_safe(path)
    try:
        model: keras.Model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (*_DAMAGE, NotImplementedError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise errors.DataError(f"{path} cannot be loaded: {reason[:300]}") from error
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.outputs[0].shape) != 2:
        raise errors.DataError(f"{path} is not a classifier; expected one input of images and one output (n, classes)")
    return model


def _probes(order: errands.Verify) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.float32]]:
    """Return the probes: images, their labels, and their recorded probabilities or numbers."""
    folder = Path(order.probes)
    try:
        recorded: dict[str, Any] = json.loads((folder / errands.PREDICTIONS).read_text(encoding="utf-8"))
        classes, rows = recorded["classes"], recorded["images"]
        images = np.stack([np.asarray(Image.open(folder / Path(row["file"]).name).convert("RGB")) for row in rows])
        has_one = order.answers_mean.kind is TargetKind.LABEL
        labels = np.array([classes.index(row["label"]) if has_one else row["truth"] for row in rows], np.int64 if has_one else np.float64)
        found = np.array([row["probabilities"] for row in rows], np.float32)
    except (*_DAMAGE, Image.DecompressionBombError) as error:
        raise errors.DataError(f"the probes in {folder} cannot be read: {error}") from error
    if found.ndim != 2 or found.shape[1] != len(classes):
        raise errors.DataError(
            f"the probes in {folder} have probabilities of shape {found.shape}; expected one for each of the {len(classes)} classes"
        )
    return images, labels, found


def _test(model: keras.Model, order: errands.Verify) -> tuple[errands.TestScore, NDArray[np.uint8], NDArray[Any]]:
    """Return the score on the test split, and the images for robustness, evenly spread over the split."""
    assert order.spec is not None
    study = spec_study.StudySpec.model_validate_json(order.spec)
    data = training_data.load(study, cache=Path(order.cache))
    labels, mean = data.target.decode(data.test.labels), order.answers_mean
    if not len(labels):
        raise errors.DataError("the test split of config.yaml is empty, so the test metrics cannot be reproduced")
    size = len(labels)
    found = np.concatenate([probabilities(model, data.test.images[slice(start, start + 256)]) for start in range(0, size, 256)])
    score = errands.TestScore(
        accuracy=targets.judge_answers(mean.kind, found, labels, mean.thresholds).accuracy,
        value=None if mean.kind is TargetKind.LABEL else _value(found, labels, mean),
        num_images=size,
        fingerprint=data.fingerprint,
        splits=data.splits,
    )
    rows = np.unique(np.linspace(0, size - 1, min(size, order.most_images)).round().astype(np.int64))
    return score, np.asarray(data.test.images[rows]), labels[rows]


def measure_robustness(
    model: keras.Model, images: Pixels, labels: NDArray[Any], mean: errands.Answers | None = None
) -> tuple[errands.Robust, ...]:
    """Measure the accuracy or the metric under each corruption at each strength, and under the attack; what is undefined is left out."""
    known = mean or errands.Answers()
    found = (*_corrupted(model, images, labels, known), *_attacked(model, images, labels, known))
    return tuple(one for one in found if math.isfinite(one.accuracy))


def probabilities(model: keras.Model, images: NDArray[np.generic]) -> NDArray[np.float32]:
    """Predict the probabilities of images (n, size, size, 3), colors from 0 to 255."""
    found = [np.asarray(model(tf.constant(images[start : start + _BATCH], tf.float32), training=False)) for start in _starts(images)]
    return np.concatenate(found)


def _corrupted(model: keras.Model, images: Pixels, labels: NDArray[Any], mean: errands.Answers) -> Iterator[errands.Robust]:
    for kind, strengths in corruptions.STRENGTHS.items():
        for strength in strengths:
            found = probabilities(model, corruptions.corrupt(images, kind, strength, seed=_SEED))
            yield errands.Robust(corruption=kind.value, strength=strength, accuracy=_value(found, labels, mean))


def _attacked(model: keras.Model, images: Pixels, labels: NDArray[Any], mean: errands.Answers) -> Iterator[errands.Robust]:
    raw, kind = raw_outputs(model, mean.kind), mean.kind
    signs = [_signs(raw, images[start : start + _BATCH], labels[start : start + _BATCH], kind) for start in _starts(images)]
    if any(sign is None for sign in signs):
        return
    sign = np.concatenate([sign for sign in signs if sign is not None])
    for steps in FGSM_STEPS:
        attacked = np.clip(images + steps * sign, 0, 255).astype(np.float32)
        yield errands.Robust(corruption=FGSM, strength=steps, accuracy=_value(probabilities(model, attacked), labels, mean))


def _signs(raw: keras.Model, images: Pixels, labels: NDArray[Any], kind: TargetKind) -> NDArray[np.float32] | None:
    """Return the direction in which the loss grows, for each color of each pixel, or None if there is no gradient."""
    given = tf.constant(images, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(given)
        loss = tf.reduce_sum(_LOSSES[kind](labels, raw(given, training=False)))
    gradient = tape.gradient(loss, given)
    return None if gradient is None else np.sign(gradient.numpy())


def raw_outputs(model: keras.Model, kind: TargetKind) -> keras.Model:
    """Return the model up to its logits, or to its numbers; without a final softmax or sigmoid, use the logits of its probabilities."""
    if kind is TargetKind.NUMBER:
        return model
    last, wanted = model.layers[-1], keras.activations.softmax if kind is TargetKind.LABEL else keras.activations.sigmoid
    is_wanted = getattr(last, "activation", None) is wanted or (kind is TargetKind.LABEL and isinstance(last, keras.layers.Softmax))
    if isinstance(last, keras.layers.Softmax | keras.layers.Activation) and is_wanted:
        return keras.Model(model.inputs[0], last.input)
    found = model.outputs[0]
    logits = keras.ops.log(keras.ops.maximum(found, _LEAST))
    if kind is TargetKind.LABELS:
        logits -= keras.ops.log(keras.ops.maximum(1 - found, _LEAST))
    return keras.Model(model.inputs[0], logits)


def _starts(images: NDArray[np.generic]) -> range:
    return range(0, len(images), _BATCH)
