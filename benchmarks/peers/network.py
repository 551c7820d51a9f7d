"""Build a compiled Keras model and its input pipelines from a recipe, as in the Keras guides.

- https://keras.io/examples/vision/image_classification_efficientnet_fine_tuning/: the head (average pooling, BatchNormalization, dropout,
  dense). The BatchNorms of an unfrozen backbone stay frozen; those of `lite0` are folded into its convolutions, which computes the same
  function faster.
- https://keras.io/guides/transfer_learning/: `trainable = False` for frozen layers.
- https://www.tensorflow.org/guide/data_performance: parallel `map`, `prefetch`; the resized images are in memory.
- https://keras.io/guides/preprocessing_layers/: random changes in the input pipeline, parallel to training, on machines without a GPU.
"""

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from benchmarks.peers.space import Recipe
from tuner.tasks.images.training import inverted_residuals, training_data

_EVALUATION_BATCH = 64
#: the same as in the study
_GRADIENT_CLIP = 1.0
_FLIPS = {"horizontal": "horizontal", "vertical": "vertical", "both": "horizontal_and_vertical"}
_MOMENTUM = ("sgd", "rmsprop")


def build(recipe: Recipe, num_classes: int, *, steps: int, jit_compile: bool | Literal["auto"]) -> keras.Model:
    """Return a compiled model with ImageNet weights and a schedule for the given steps."""
    kind = inverted_residuals.NETWORKS[recipe.backbone]
    images = keras.Input((recipe.image_size, recipe.image_size, 3))
    x = keras.layers.Normalization(mean=kind.mean, variance=np.square(kind.scale))(images)
    x = keras.layers.GlobalAveragePooling2D()(_backbone(recipe)(x))
    x = keras.layers.BatchNormalization()(x)
    for units in recipe.head_units:
        x = keras.layers.Dense(units, recipe.activation)(keras.layers.Dropout(recipe.dropout)(x))
    logits = keras.layers.Dense(num_classes)(keras.layers.Dropout(recipe.dropout)(x))
    model = keras.Model(images, logits)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing)
    model.compile(optimizer(recipe, cosine(recipe, steps)), loss, metrics=["accuracy"], jit_compile=jit_compile)
    return model


def cosine(recipe: Recipe, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return the learning rate over the steps of one call of `fit`: a linear warm-up, then a cosine decay."""
    num_warmup = round(steps * recipe.warmup)
    schedule = keras.optimizers.schedules.CosineDecay
    return schedule(0.0, max(1, steps - num_warmup), warmup_target=recipe.learning_rate, warmup_steps=max(1, num_warmup))


def optimizer(recipe: Recipe, rate: keras.optimizers.schedules.LearningRateSchedule) -> keras.Optimizer:
    """Return the optimizer of a recipe; biases have no weight decay."""
    options: dict[str, Any] = {"weight_decay": recipe.weight_decay or None, "global_clipnorm": _GRADIENT_CLIP}
    if recipe.optimizer in _MOMENTUM:
        options["momentum"] = recipe.momentum
    if recipe.optimizer == "sgd":
        options["nesterov"] = recipe.nesterov
    if recipe.optimizer == "adamw":
        options["weight_decay"] = recipe.weight_decay
    built = keras.optimizers.get({"class_name": recipe.optimizer, "config": options})
    built.learning_rate = rate
    if recipe.weight_decay:
        built.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return built


def num_steps(recipe: Recipe, num_images: int, epochs: int) -> int:
    """Return the number of steps of some epochs."""
    return (num_images // recipe.batch_size) * epochs


def train_set(split: training_data.Split, recipe: Recipe, num_classes: int, *, seed: int) -> tf.data.Dataset:
    """Return batches of changed images and soft labels, in a new order every epoch."""
    change = _changes(recipe)
    batches = _examples(split, num_classes).shuffle(len(split.labels), seed=seed).batch(recipe.batch_size, drop_remainder=True)
    return batches.map(lambda images, labels: change(tf.cast(images, tf.float32), labels), tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def evaluation_set(split: training_data.Split, num_classes: int) -> tf.data.Dataset:
    """Return batches of unchanged images in order."""
    batches = _examples(split, num_classes).batch(_EVALUATION_BATCH)
    return batches.map(lambda images, labels: (tf.cast(images, tf.float32), labels), tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _examples(split: training_data.Split, num_classes: int) -> tf.data.Dataset:
    labels = keras.utils.to_categorical(split.labels, num_classes)
    return tf.data.Dataset.from_tensor_slices((np.asarray(split.images), labels))


def _backbone(recipe: Recipe) -> keras.Model:
    """Return the backbone with ImageNet weights, with the recipe's fraction of blocks, from the top, trainable."""
    network, blocks = inverted_residuals.NETWORKS[recipe.backbone].build(recipe.image_size)
    network.set_weights(_pretrained(recipe.backbone, recipe.image_size))
    count = len(blocks)
    num_trained = max(1, round(recipe.unfreeze * count)) if recipe.unfreeze > 0 else 0
    trained = set(itertools.chain.from_iterable(blocks[count - num_trained :]))
    for layer in network.layers:
        layer.trainable = layer.name in trained
    return network


@cache
def _pretrained(backbone: str, size: int) -> list[np.ndarray]:
    """Return the pretrained network, read once per process."""
    network, _ = inverted_residuals.NETWORKS[backbone].build(size)
    inverted_residuals.NETWORKS[backbone].load_imagenet(network)
    return network.get_weights()


def _changes(recipe: Recipe) -> Any:
    """Change the images and labels of a batch with the Keras layers whose strength is above 0."""
    layers = _layers(recipe.augmentation)
    kinds = {"mixup": keras.layers.MixUp, "cutmix": keras.layers.CutMix}
    mixers = [kind(recipe.augmentation[name]) for name, kind in kinds.items() if recipe.augmentation.get(name)]

    def change(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        for layer in layers:
            images = layer(images, training=True)
        for mixer in mixers:
            mixed = mixer({"images": images, "labels": labels}, training=True)
            images, labels = mixed["images"], mixed["labels"]
        return images, labels

    return change


def _layers(strengths: Any) -> list[keras.layers.Layer]:
    made: dict[str, Callable[[Any], keras.layers.Layer]] = {
        "rand_augment": lambda value: keras.layers.RandAugment(value_range=(0, 255), num_ops=2, factor=value),
        "flip": lambda value: keras.layers.RandomFlip(_FLIPS[value]),
        "rotation": keras.layers.RandomRotation,
        "zoom": keras.layers.RandomZoom,
        "translation": lambda value: keras.layers.RandomTranslation(value, value),
        "shear": lambda value: keras.layers.RandomShear(value, value),
        "brightness": keras.layers.RandomBrightness,
        "contrast": keras.layers.RandomContrast,
        "erasing": lambda value: keras.layers.RandomErasing(factor=0.5, scale=(0.02, value)),
    }
    return [make(strengths[name]) for name, make in made.items() if strengths.get(name) not in (None, 0, "none")]
