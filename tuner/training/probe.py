"""The first stage of a trial: the head alone, on the frozen backbone's features, a whole epoch in one call."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tuner.hyperparameters import Hyperparameters
from tuner.training import losses, optimizers, scores
from tuner.training.bench import Bench


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One epoch of either stage."""

    loss: float
    accuracy: float
    learning_rate: float
    validation: scores.Scores


def train(bench: Bench, head: keras.Sequential, hyperparameters: Hyperparameters, *, seed: int) -> Iterator[Measured]:
    """Train the head epoch by epoch, its rate falling from `probe_learning_rate` in a half cosine."""
    labels = bench.data.train.labels
    batch = min(hyperparameters.batch_size, len(labels))
    steps, epochs = len(labels) // batch, bench.study.training.probe_epochs
    rates = optimizers.cosine(steps * epochs, peak=hyperparameters.probe_learning_rate, warmup=0.0)
    run_epoch = _epoch(bench, head, hyperparameters)
    validation_loss = losses.build_validation(hyperparameters)
    predict = tf.function(lambda: head(bench.validation_features, training=False))
    for epoch in range(epochs):
        order = np.random.default_rng([seed, 0, epoch]).permutation(len(labels))[: steps * batch]
        epoch_rates = rates[epoch * steps : (epoch + 1) * steps]
        loss, accuracy = run_epoch(tf.constant(order.reshape(steps, batch), tf.int32), tf.constant(epoch_rates))
        yield Measured(
            loss=float(loss),
            accuracy=float(accuracy),
            learning_rate=float(epoch_rates[-1]),
            validation=scores.score(predict().numpy(), bench.data.validation.labels, validation_loss),
        )


def _epoch(
    bench: Bench, head: keras.Sequential, hyperparameters: Hyperparameters
) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    variables = [(0, variable) for variable in head.trainable_variables]
    optimizer = optimizers.build(hyperparameters, variables, gradient_clip=bench.study.training.gradient_clip)
    labels = bench.data.train.labels
    loss_of = losses.build(hyperparameters, losses.class_weights(labels, bench.num_classes, hyperparameters.class_weights))
    features, targets = bench.train_features, tf.one_hot(labels, bench.num_classes)

    @tf.function  # type: ignore[untyped-decorator]
    def run_epoch(order: tf.Tensor, rates: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        total, hits = tf.constant(0.0), tf.constant(0.0)
        for step in tf.range(tf.shape(order)[0]):
            x, y = tf.gather(features, order[step]), tf.gather(targets, order[step])
            optimizer.learning_rate.assign(rates[step])
            with tf.GradientTape() as tape:
                logits = head(x, training=True)
                loss = tf.reduce_mean(loss_of(y, logits))
            gradients = tape.gradient(loss, [variable.value for _, variable in variables])
            optimizer.apply(gradients)
            total += loss
            hits += tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, 1), tf.argmax(y, 1)), tf.float32))
        count = tf.cast(tf.shape(order)[0], tf.float32)
        return total / count, hits / count

    return run_epoch  # type: ignore[no-any-return]
