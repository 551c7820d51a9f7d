"""Augmentation: random changes to a batch of training images, inside a graph; one resampling makes all geometric changes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from tuner.spec.hyperparameters import Augmentation, Flip

#: from images (n, size, size, 3) float 0..255, labels (n, classes) and seed (2,) int32 to changed images and labels
Augment = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
#: strengths as numbers, by field name; `flip_x` and `flip_y` are 1 if images may be mirrored
Strengths = Mapping[str, Any]
_Change = Callable[[tf.Tensor, tf.Tensor, Strengths, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
_FIELDS = ("rotation", "zoom", "translation", "shear", "brightness", "contrast", "erasing", "mixup", "cutmix")
#: names of all strengths
NAMES = (*_FIELDS, "flip_x", "flip_y")


@dataclass(frozen=True, kw_only=True)
class Changes:
    """The changes that a traced graph contains; their strengths are inputs."""

    moves: bool
    colors: bool
    erasing: bool
    mixup: bool
    cutmix: bool
    #: magnitude, which is a constant in the Keras layer; 0 means off
    rand_augment: float

    @classmethod
    def of(cls, augmentation: Augmentation) -> "Changes":
        """Return the changes that are on."""
        given = augmentation
        return cls(
            moves=bool(given.flip is not Flip.NONE or given.rotation or given.zoom or given.translation or given.shear),
            colors=bool(given.brightness or given.contrast),
            erasing=given.erasing > 0,
            mixup=given.mixup > 0,
            cutmix=given.cutmix > 0,
            rand_augment=given.rand_augment,
        )


def strengths(augmentation: Augmentation) -> dict[str, float]:
    """Return every strength as a number."""
    return {
        **{name: getattr(augmentation, name) for name in _FIELDS},
        "flip_x": float(augmentation.flip in (Flip.HORIZONTAL, Flip.BOTH)),
        "flip_y": float(augmentation.flip in (Flip.VERTICAL, Flip.BOTH)),
    }


def build(augmentation: Augmentation) -> Augment:
    """Return the function that applies an augmentation; changes of strength 0 are not in the graph."""
    augment, values = traceable(Changes.of(augmentation)), strengths(augmentation)
    return lambda images, labels, seed: augment(images, labels, values, seed)


def traceable(changes: Changes) -> _Change:
    """Return the function that applies changes, with strengths that may be tensors.

    Equal seeds give equal changes. Pixels outside an image are filled with its reflection.
    """
    steps = [step for is_on, step in _steps(changes) if is_on]
    if changes.rand_augment:
        steps.insert(0, _rand_augment(changes.rand_augment))

    def augment(images: tf.Tensor, labels: tf.Tensor, values: Strengths, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        for number, step in enumerate(steps):
            images, labels = step(images, labels, values, tf.stack([seed[0], seed[1] * 16 + number]))
        return images, labels

    return augment


def _steps(changes: Changes) -> list[tuple[bool, _Change]]:
    return [
        (changes.moves, lambda images, labels, values, seed: (_move(images, values, seed), labels)),
        (changes.colors, lambda images, labels, values, seed: (_color(images, values, seed), labels)),
        (changes.erasing, lambda images, labels, values, seed: (_erase(images, values["erasing"], seed), labels)),
        (changes.mixup, lambda images, labels, values, seed: _mixup(images, labels, values["mixup"], seed)),
        (changes.cutmix, lambda images, labels, values, seed: _cutmix(images, labels, values["cutmix"], seed)),
    ]


def _uniform(count: tf.Tensor, seed: tf.Tensor, number: int, low: float = -1.0, high: float = 1.0) -> tf.Tensor:
    return tf.random.stateless_uniform([count], tf.stack([seed[0] + number * 7919, seed[1]]), low, high)


def _move(images: tf.Tensor, values: Strengths, seed: tf.Tensor) -> tf.Tensor:
    """Flip, rotate, scale, shift and shear by one projective transform, which maps coordinates of the new image to the old."""
    count, size = tf.shape(images)[0], images.shape[1]
    angle = _uniform(count, seed, 0) * values["rotation"] * 2 * 3.14159265
    scale_x, scale_y = (1 + _uniform(count, seed, 1 + axis) * values["zoom"] for axis in (0, 1))
    scale_x *= _sign(count, seed, 3, values["flip_x"])
    scale_y *= _sign(count, seed, 4, values["flip_y"])
    shear_x, shear_y = (_uniform(count, seed, 5 + axis) * values["shear"] for axis in (0, 1))
    shift_x, shift_y = (_uniform(count, seed, 7 + axis) * values["translation"] * size for axis in (0, 1))
    cosine, sine, center = tf.cos(angle), tf.sin(angle), (size - 1) / 2
    a, b = scale_x * (cosine + shear_x * sine), scale_x * (shear_x * cosine - sine)
    c, d = scale_y * (sine + shear_y * cosine), scale_y * (cosine - shear_y * sine)
    zero = tf.zeros_like(a)
    rows = [a, b, center - a * center - b * center + shift_x, c, d, center - c * center - d * center + shift_y, zero, zero]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack(rows, 1),
        output_shape=tf.constant([size, size]),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )


def _sign(count: tf.Tensor, seed: tf.Tensor, number: int, mirrored: Any) -> tf.Tensor:
    return tf.where(_uniform(count, seed, number) < 0, 1.0 - 2.0 * mirrored, 1.0)


def _color(images: tf.Tensor, values: Strengths, seed: tf.Tensor) -> tf.Tensor:
    count = tf.shape(images)[0]
    shift = _uniform(count, seed, 0) * values["brightness"] * 255
    factor = 1 + _uniform(count, seed, 1) * values["contrast"]
    mean = tf.reduce_mean(images, (1, 2, 3), keepdims=True)
    changed = (images - mean) * factor[:, None, None, None] + mean + shift[:, None, None, None]
    return tf.clip_by_value(changed, 0.0, 255.0)


def _rand_augment(magnitude: float) -> _Change:
    layer = keras.layers.RandAugment(value_range=(0, 255), num_ops=2, factor=magnitude, dtype="float32")

    def change(images: tf.Tensor, labels: tf.Tensor, _: Strengths, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # without this, the layer would continue its own random sequence, and a resumed trial would draw other changes
        layer.generator.state.assign(tf.cast(seed, layer.generator.state.dtype))
        with tf.device("CPU"):  # one of its operations counts colors, which is not deterministic on a GPU
            return layer(images, training=True), labels

    return change


def _erase(images: tf.Tensor, largest: Any, seed: tf.Tensor) -> tf.Tensor:
    count = tf.shape(images)[0]
    area = tf.abs(_uniform(count, seed, 0)) * largest * tf.cast(_uniform(count, seed, 1) > 0, tf.float32)
    box = _box(count, images.shape[1], area, seed)
    return images * (1 - box) + tf.reduce_mean(images, (1, 2, 3), keepdims=True) * box


def _mixup(images: tf.Tensor, labels: tf.Tensor, alpha: Any, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    share = _beta(tf.shape(images)[0], alpha, seed)
    wide = share[:, None, None, None]
    # the batch is in random order, so its reverse gives random partners
    return images * wide + images[::-1] * (1 - wide), labels * share[:, None] + labels[::-1] * (1 - share[:, None])


def _cutmix(images: tf.Tensor, labels: tf.Tensor, alpha: Any, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    count = tf.shape(images)[0]
    box = _box(count, images.shape[1], 1 - _beta(count, alpha, seed), seed)
    share = 1 - tf.reduce_mean(box, (1, 2, 3))[:, None]
    return images * (1 - box) + images[::-1] * box, labels * share + labels[::-1] * (1 - share)


def _beta(count: tf.Tensor, alpha: Any, seed: tf.Tensor) -> tf.Tensor:
    first, second = (tf.random.stateless_gamma([count], tf.stack([seed[0] + 31 + part, seed[1]]), alpha) for part in (0, 1))
    share = first / tf.maximum(first + second, 1e-20)
    return tf.maximum(share, 1 - share)


def _box(count: tf.Tensor, size: int, area: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Return a mask (n, size, size, 1) that is 1 in a square around a random point; `area` (n,) is the share of the image."""
    half = tf.sqrt(area) * size / 2
    places = tf.range(size, dtype=tf.float32)[None]
    inside = [tf.abs(places - _uniform(count, seed, 11 + axis, 0.0, size)[:, None]) < half[:, None] for axis in (0, 1)]
    return tf.cast(inside[0][:, :, None] & inside[1][:, None, :], tf.float32)[..., None]
