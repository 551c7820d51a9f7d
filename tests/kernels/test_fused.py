"""The same steps as Keras' own optimizers take."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tuner.kernels import optimizers
from tuner.spec.hyperparameters import Optimizer

GRADIENTS = [np.random.default_rng(number).normal(size=(4, 3)).astype(np.float32) for number in range(5)]


KERAS = {
    Optimizer.SGD: keras.optimizers.SGD,
    Optimizer.ADAM: keras.optimizers.Adam,
    Optimizer.ADAMW: keras.optimizers.AdamW,
    Optimizer.NADAM: keras.optimizers.Nadam,
    Optimizer.ADAMAX: keras.optimizers.Adamax,
    Optimizer.ADAGRAD: keras.optimizers.Adagrad,
    Optimizer.ADADELTA: keras.optimizers.Adadelta,
    Optimizer.RMSPROP: keras.optimizers.RMSprop,
    Optimizer.LION: keras.optimizers.Lion,
}


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("optimizer", Optimizer)
def test_every_optimizer_steps_as_in_keras(optimizer: Optimizer, nesterov: bool) -> None:
    start = np.random.default_rng(9).normal(size=(4, 3)).astype(np.float32)
    options = {"momentum": 0.7} if optimizer.has_momentum else {}
    options |= {"nesterov": nesterov} if optimizer is Optimizer.SGD else {}
    trusted, known = KERAS[optimizer](learning_rate=0.0, weight_decay=0.1, **options), keras.Variable(start)
    own, remembered = tf.Variable(start), [tf.Variable(value) for value in optimizers.initial_slots(optimizer, start)]
    for number, gradient in enumerate(GRADIENTS, start=1):
        trusted.learning_rate.assign(0.05 / number)
        trusted.apply([tf.constant(gradient)], [known])
        step = optimizers.Step(
            rate=tf.constant(0.05 / number),
            number=tf.constant(float(number)),
            momentum=tf.constant(0.7),
            weight_decay=tf.constant(0.1),
            nesterov=nesterov,
        )
        optimizers.apply(optimizer, own, tf.constant(gradient), remembered, step)
    np.testing.assert_allclose(own.numpy(), known.numpy(), rtol=2e-4, atol=2e-6)
