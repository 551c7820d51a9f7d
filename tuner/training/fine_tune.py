"""The second stage of a trial: the head and the top of the backbone together, on augmented images."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner.hyperparameters import Hyperparameters
from tuner.training import augmentation, losses, optimizers, scores
from tuner.training.bench import Bench
from tuner.training.probe import Measured

_EVALUATION_BATCH = 64


class FineTuning:
    """The fine-tuning of one trial, an epoch at a time, so that it can be left and taken up again between two."""

    def __init__(self, bench: Bench, head: keras.Sequential, hyperparameters: Hyperparameters, *, seed: int) -> None:
        self._bench, self._head, self._seed = bench, head, seed
        opened = bench.backbone.top(hyperparameters.unfreeze)
        placed = [(0, variable) for variable in head.trainable_variables] + [(depth + 1, variable) for depth, variable in opened]
        #: what the stage trains: the head's variables, then the backbone's
        self.variables = [variable for _, variable in placed]
        self._optimizer = optimizers.build(hyperparameters, placed, gradient_clip=bench.study.training.gradient_clip)
        self._averages = [keras.Variable(variable) for variable in self.variables] if hyperparameters.ema else []
        self._batch = min(hyperparameters.batch_size, len(bench.data.train.labels))
        self._num_steps = len(bench.data.train.labels) // self._batch
        self._rates = optimizers.cosine(self._num_steps * bench.epochs, peak=hyperparameters.learning_rate, warmup=hyperparameters.warmup)
        self._step = self._build_step(hyperparameters)
        self._predict = predictor(bench, head)
        self._validation_loss = losses.build_validation(hyperparameters)
        self._sums = np.zeros(2)

    @property
    def state(self) -> list[keras.Variable]:
        """Every variable that one epoch hands on to the next."""
        random = [variable for variable in self._head.variables if "seed" in variable.path]
        return [*self.variables, *self._optimizer.variables, *self._averages, *random]

    def weights(self) -> list[NDArray[np.float32]]:
        """The values that are measured: the running averages of `variables` where they are on."""
        return [variable.numpy() for variable in (self._averages or self.variables)]

    def train(self, epoch: int) -> Iterator[None]:
        """Train one epoch, counted from 0; yields after each step, so that a caller can leave."""
        train = self._bench.data.train
        order = np.random.default_rng([self._seed, 1, epoch]).permutation(len(train.labels))
        self._sums = np.zeros(2)
        for step in range(self._num_steps):
            chosen = order[step * self._batch : (step + 1) * self._batch]
            number = epoch * self._num_steps + step
            labels = tf.one_hot(train.labels[chosen], self._bench.num_classes)
            seed = tf.constant([self._seed % 2**31, number], tf.int32)
            self._sums += self._step(tf.constant(train.images[chosen]), labels, seed, tf.constant(self._rates[number]))
            yield

    def measure(self, epoch: int) -> Measured:
        """What an epoch that was just trained came to."""
        loss, accuracy = (float(total) for total in self._sums / self._num_steps)
        kept = [variable.numpy() for variable in self.variables] if self._averages else []
        if self._averages:
            assign(self.variables, self.weights())
        logits = self._predict(self._bench.data.validation.images)
        if kept:
            assign(self.variables, kept)
        validation = scores.score(logits, self._bench.data.validation.labels, self._validation_loss)
        rate = float(self._rates[(epoch + 1) * self._num_steps - 1])
        return Measured(loss=loss, accuracy=accuracy, learning_rate=rate, validation=validation)

    def _build_step(self, hyperparameters: Hyperparameters) -> Callable[..., Any]:
        bench, head, variables, averages, optimizer = self._bench, self._head, self.variables, self._averages, self._optimizer
        weights = losses.class_weights(bench.data.train.labels, bench.num_classes, hyperparameters.class_weights)
        loss_of = losses.build(hyperparameters, weights)
        augment = augmentation.build(hyperparameters.augmentation)

        @tf.function  # type: ignore[untyped-decorator]
        def step(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
            changed, targets = augment(tf.cast(images, tf.float32), labels, seed)
            optimizer.learning_rate.assign(rate)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([variable.value for variable in variables])
                logits = head(bench.backbone.features(changed), training=True)
                loss = tf.reduce_mean(loss_of(targets, logits))
            optimizer.apply(tape.gradient(loss, [variable.value for variable in variables]))
            for average, variable in zip(averages, variables, strict=bool(averages)):
                average.assign(average * hyperparameters.ema + variable * (1 - hyperparameters.ema))
            hits = tf.equal(tf.argmax(logits, 1), tf.argmax(labels, 1))
            return tf.stack([loss, tf.reduce_mean(tf.cast(hits, tf.float32))])

        return step  # type: ignore[no-any-return]


def predictor(bench: Bench, head: keras.Sequential) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Images (n, size, size, 3) to logits (n, classes), in inference mode."""
    forward = tf.function(lambda images: head(bench.backbone.features(tf.cast(images, tf.float32)), training=False), reduce_retracing=True)

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        starts = range(0, len(images), _EVALUATION_BATCH)
        return np.concatenate([forward(tf.constant(images[start : start + _EVALUATION_BATCH])).numpy() for start in starts])

    return predict


def assign(variables: Sequence[keras.Variable], values: Sequence[NDArray[np.float32]]) -> None:
    """Set variables to values of their shapes."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
