"""Random changes to a batch of training images, inside the graph; one resampling does all that moves pixels."""

from collections.abc import Callable

import keras
import tensorflow as tf

from tuner.hyperparameters import Augmentation, Flip

#: images (n, size, size, 3) float 0..255, labels (n, classes), seed (2,) int32 -> the same, changed
Augment = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def build(strengths: Augmentation) -> Augment:
    """The changes that these strengths name; what has strength 0 is not in the graph.

    Equal seeds give equal changes. Places outside an image are filled with its reflection.
    """
    steps = [step for is_on, step in _steps(strengths) if is_on]

    def augment(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        for number, step in enumerate(steps):
            images, labels = step(images, labels, tf.stack([seed[0], seed[1] * 16 + number]))
        return images, labels

    return augment


def _steps(strengths: Augmentation) -> list[tuple[bool, Augment]]:
    moves = strengths.flip is not Flip.NONE or strengths.rotation or strengths.zoom or strengths.translation or strengths.shear
    return [
        (strengths.rand_augment > 0, _rand_augment(strengths.rand_augment) if strengths.rand_augment else _nothing),
        (bool(moves), lambda images, labels, seed: (_move(images, strengths, seed), labels)),
        (
            strengths.brightness > 0 or strengths.contrast > 0,
            lambda images, labels, seed: (_colour(images, strengths.brightness, strengths.contrast, seed), labels),
        ),
        (strengths.erasing > 0, lambda images, labels, seed: (_erase(images, strengths.erasing, seed), labels)),
        (strengths.mixup > 0, lambda images, labels, seed: _mixup(images, labels, strengths.mixup, seed)),
        (strengths.cutmix > 0, lambda images, labels, seed: _cutmix(images, labels, strengths.cutmix, seed)),
    ]


def _nothing(images: tf.Tensor, labels: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return images, labels


def _uniform(count: tf.Tensor, seed: tf.Tensor, number: int, low: float = -1.0, high: float = 1.0) -> tf.Tensor:
    return tf.random.stateless_uniform([count], tf.stack([seed[0] + number * 7919, seed[1]]), low, high)


def _move(images: tf.Tensor, strengths: Augmentation, seed: tf.Tensor) -> tf.Tensor:
    """Flip, turn, scale, shift and shear by one projective transform, which maps places of the new image to the old."""
    count, size = tf.shape(images)[0], images.shape[1]
    angle = _uniform(count, seed, 0) * strengths.rotation * 2 * 3.14159265
    scale_x, scale_y = (1 + _uniform(count, seed, 1 + axis) * strengths.zoom for axis in (0, 1))
    scale_x *= _sign(count, seed, 3, strengths.flip in (Flip.HORIZONTAL, Flip.BOTH))
    scale_y *= _sign(count, seed, 4, strengths.flip in (Flip.VERTICAL, Flip.BOTH))
    shear_x, shear_y = (_uniform(count, seed, 5 + axis) * strengths.shear for axis in (0, 1))
    shift_x, shift_y = (_uniform(count, seed, 7 + axis) * strengths.translation * size for axis in (0, 1))
    cosine, sine, centre = tf.cos(angle), tf.sin(angle), (size - 1) / 2
    a, b = scale_x * (cosine + shear_x * sine), scale_x * (shear_x * cosine - sine)
    c, d = scale_y * (sine + shear_y * cosine), scale_y * (cosine - shear_y * sine)
    zero = tf.zeros_like(a)
    rows = [a, b, centre - a * centre - b * centre + shift_x, c, d, centre - c * centre - d * centre + shift_y, zero, zero]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack(rows, 1),
        output_shape=tf.constant([size, size]),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )


def _sign(count: tf.Tensor, seed: tf.Tensor, number: int, mirrored: bool) -> tf.Tensor:
    return tf.where(_uniform(count, seed, number) < 0, -1.0, 1.0) if mirrored else tf.ones([count])


def _colour(images: tf.Tensor, brightness: float, contrast: float, seed: tf.Tensor) -> tf.Tensor:
    count = tf.shape(images)[0]
    shift = _uniform(count, seed, 0) * brightness * 255
    factor = 1 + _uniform(count, seed, 1) * contrast
    mean = tf.reduce_mean(images, (1, 2, 3), keepdims=True)
    changed = (images - mean) * factor[:, None, None, None] + mean + shift[:, None, None, None]
    return tf.clip_by_value(changed, 0.0, 255.0)


def _rand_augment(magnitude: float) -> Augment:
    layer = keras.layers.RandAugment(value_range=(0, 255), num_ops=2, factor=magnitude)

    def change(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # the layer would draw from where the step before left off, and a trial that is taken up again would go on otherwise
        layer.generator.state.assign(tf.cast(seed, layer.generator.state.dtype))
        return layer(images, training=True), labels

    return change


def _erase(images: tf.Tensor, largest: float, seed: tf.Tensor) -> tf.Tensor:
    count = tf.shape(images)[0]
    area = tf.abs(_uniform(count, seed, 0)) * largest * tf.cast(_uniform(count, seed, 1) > 0, tf.float32)
    box = _box(count, images.shape[1], area, seed)
    return images * (1 - box) + tf.reduce_mean(images, (1, 2, 3), keepdims=True) * box


def _mixup(images: tf.Tensor, labels: tf.Tensor, alpha: float, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    share = _beta(tf.shape(images)[0], alpha, seed)
    wide = share[:, None, None, None]
    # the batch is in random order already: its reverse is as good a partner as any
    return images * wide + images[::-1] * (1 - wide), labels * share[:, None] + labels[::-1] * (1 - share[:, None])


def _cutmix(images: tf.Tensor, labels: tf.Tensor, alpha: float, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    count = tf.shape(images)[0]
    box = _box(count, images.shape[1], 1 - _beta(count, alpha, seed), seed)
    share = 1 - tf.reduce_mean(box, (1, 2, 3))[:, None]
    return images * (1 - box) + images[::-1] * box, labels * share + labels[::-1] * (1 - share)


def _beta(count: tf.Tensor, alpha: float, seed: tf.Tensor) -> tf.Tensor:
    first, second = (tf.random.stateless_gamma([count], tf.stack([seed[0] + 31 + part, seed[1]]), alpha) for part in (0, 1))
    share = first / tf.maximum(first + second, 1e-20)
    return tf.maximum(share, 1 - share)


def _box(count: tf.Tensor, size: int, area: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """A mask (n, size, size, 1) of a square of the given part of the area (n,) around a random place; 1 inside."""
    half = tf.sqrt(area) * size / 2
    places = tf.range(size, dtype=tf.float32)[None]
    inside = [tf.abs(places - _uniform(count, seed, 11 + axis, 0.0, size)[:, None]) < half[:, None] for axis in (0, 1)]
    return tf.cast(inside[0][:, :, None] & inside[1][:, None, :], tf.float32)[..., None]
