"""The head: standardized features in, one logit a class out.

A head is a list of weights. `forward` applies it, and a `HeadsProgram` trains several heads of one form side by side, traced once for all
widths and learning rates.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner.kernels import losses, optimizers
from tuner.spec.hyperparameters import Activation, Hyperparameters, Loss, Optimizer, TargetKind

#: a column of features with a smaller variance counts as constant
SMALLEST_VARIANCE = 1e-6
_ROWS_AT_ONCE = 4096

#: mean and variance (d,); the variance is never too small to divide by
Moments = tuple[NDArray[np.float32], NDArray[np.float32]]
#: kernel and bias of each layer, from the backbone up
Weights = Sequence[Any]
#: named explicitly, because the head must ignore a mixed-precision policy of Keras
_FLOAT = "float32"
#: number of programs in memory; each holds the weights of its last heads and a graph of a few hundred operations
_NUM_PROGRAMS = 8
#: dropout draws one byte for each value: four times faster than a float, and its rate is within 0.002 of the requested one
_LEVELS = 256
_ACTIVATIONS: Mapping[Activation, Callable[[tf.Tensor], tf.Tensor]] = {
    activation: keras.activations.get(activation.value) for activation in Activation
}
#: values of a trial, by the names of `_VALUES`
Values = Mapping[str, tf.Tensor]
_VALUES = {
    "momentum": ((), tf.float32),
    "weight_decay": ((), tf.float32),
    "dropout": ((), tf.float32),
    "smoothing": ((), tf.float32),
    "gamma": ((), tf.float32),
    "class_weights": ((None,), tf.float32),
    "clip": ((), tf.float32),
    "seed": ((), tf.int32),
}


def initial_weights(hyperparameters: Hyperparameters, num_features: int, num_classes: int, *, seed: int) -> list[NDArray[np.float32]]:
    """Draw kernel (d, units) and bias (units,) of each layer with the initializers of Keras."""
    widths = [num_features, *hyperparameters.head_units]
    weights: list[NDArray[np.float32]] = []
    for number, shape in enumerate(itertools.pairwise(widths)):
        weights += _layer(keras.initializers.HeNormal(seed=seed + number), shape)
    return weights + _layer(keras.initializers.GlorotUniform(seed=seed), (widths[-1], num_classes))


def _layer(initializer: keras.Initializer, shape: tuple[int, int]) -> list[NDArray[np.float32]]:
    return [keras.ops.convert_to_numpy(initializer(shape, dtype=_FLOAT)), np.zeros(shape[1], np.float32)]


def standardize(features: tf.Tensor, moments: Moments | tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    """Bring features (n, d) to mean 0 and variance 1, by the moments of the training features.

    Unlike those of a BatchNorm, the moments are the same in training and in inference, and do not drift during fine-tuning.
    """
    mean, variance = moments
    return (tf.cast(features, tf.float32) - mean) / tf.sqrt(tf.maximum(variance, SMALLEST_VARIANCE))


def forward(weights: Weights, features: tf.Tensor, *, activation: Activation | str, masks: Sequence[tf.Tensor] | None = None) -> tf.Tensor:
    """Return the logits (n, classes) of standardized features (n, d).

    Weights may have a leading axis of heads: kernels (H, d, units), biases (H, 1, units), features (n, d) or (H, n, d), logits
    (H, n, classes). `masks` are the factors by which dropout multiplies the inputs of each layer; None means no dropout.
    """
    activate, x = _ACTIVATIONS[Activation(activation)], tf.cast(features, tf.float32)
    for number, (kernel, bias) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
        if number:
            x = activate(x)
        if masks is not None:
            x = x * masks[number]
        x = tf.matmul(x, kernel) + bias
    return x


def measure_moments(stored: NDArray[Any]) -> Moments:
    """Return mean and variance of the columns of vectors (n, d)."""
    mean = np.sum([part.sum(0, dtype=np.float64) for part in _parts(stored)], 0) / len(stored)
    variance = np.sum([np.square(part - mean).sum(0) for part in _parts(stored)], 0) / len(stored)
    return mean.astype(np.float32), np.maximum(variance, SMALLEST_VARIANCE).astype(np.float32)


def floored(moments: Moments, share: float, *, widths: Sequence[int]) -> Moments:
    """Return moments whose deviations are at least a share of the usual deviation in their layer: the root of its mean variance.

    A feature that is nearly constant over few training images may vary over other images; divided by its own deviation, it would
    outweigh all others. `widths` are the numbers of features of each layer, in order.
    """
    if not share:
        return moments
    mean, variance = moments
    layers = np.split(variance, np.cumsum(widths)[:-1])
    return mean, np.concatenate([np.maximum(layer, np.float32(share**2 * layer.mean())) for layer in layers])


def _parts(stored: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(stored), _ROWS_AT_ONCE):
        yield np.asarray(stored[start : start + _ROWS_AT_ONCE], np.float32)


@dataclass(frozen=True, kw_only=True)
class HeadForm:
    """Properties for which a program is traced. Everything else is passed as a value."""

    optimizer: Optimizer
    nesterov: bool
    loss: Loss
    #: None for a linear head
    activation: Activation | None
    #: layers of the head, the last one included
    num_layers: int
    num_classes: int
    num_heads: int
    target: TargetKind = TargetKind.LABEL

    @classmethod
    def of(cls, hyperparameters: Hyperparameters, *, num_classes: int, num_heads: int, target: TargetKind = TargetKind.LABEL) -> "HeadForm":
        """Return the form of a trial's heads."""
        return cls(
            optimizer=hyperparameters.optimizer,
            nesterov=optimizers.is_nesterov(hyperparameters),
            loss=hyperparameters.loss,
            activation=hyperparameters.activation if hyperparameters.head_units else None,
            num_layers=len(hyperparameters.head_units) + 1,
            num_classes=num_classes,
            num_heads=num_heads,
            target=target,
        )


def values(hyperparameters: Hyperparameters, *, class_weights: NDArray[Any], clip: float, seed: int) -> Values:
    """Return the values of a trial that a program takes."""
    given: dict[str, Any] = {
        "momentum": optimizers.momentum_of(hyperparameters),
        "weight_decay": hyperparameters.weight_decay,
        "dropout": hyperparameters.dropout,
        "smoothing": losses.smoothing_of(hyperparameters),
        "gamma": hyperparameters.focal_gamma,
        "class_weights": class_weights,
        "clip": clip,
        "seed": seed % 2**31,
    }
    return {name: tf.constant(given[name], dtype) for name, (_, dtype) in _VALUES.items()}


@functools.lru_cache(maxsize=_NUM_PROGRAMS)
def program_for(form: HeadForm) -> "HeadsProgram":
    """Return the program of a form, traced once while it is among the latest."""
    return HeadsProgram(form)


class HeadsProgram:
    """Trains heads of one form and predicts with them; it holds the weights of the heads that it trains now."""

    def __init__(self, form: HeadForm) -> None:
        self.form = form
        kinds = [np.zeros((1,) * rank, np.float32) for rank in (2, 1)] * form.num_layers
        self._weights = [[optimizers.new_variable(kind) for kind in kinds] for _ in range(form.num_heads)]
        self._slots = [
            [[optimizers.new_variable(slot) for slot in optimizers.initial_slots(form.optimizer, kind)] for kind in kinds]
            for _ in self._weights
        ]
        table = tf.TensorSpec([None, None], tf.float32)
        self._trained = tf.function(
            self._train,
            input_signature=[
                *(table, losses.label_spec(form.target), tf.TensorSpec([None, None], tf.int32), table, tf.TensorSpec([], tf.int32)),
                {name: tf.TensorSpec(shape, dtype) for name, (shape, dtype) in _VALUES.items()},
            ],
        )
        self._predicted = tf.function(self._predict, input_signature=[table])

    @property
    def num_traced(self) -> int:
        """Number of times its functions were traced."""
        return sum(function.experimental_get_tracing_count() for function in (self._trained, self._predicted))

    def begin(self, weights: Sequence[NDArray[np.float32]]) -> None:
        """Give every head these weights, kernel and bias of each layer, and a new optimizer state."""
        for own, slots in zip(self._weights, self._slots, strict=True):
            for variable, remembered, value in zip(own, slots, weights, strict=True):
                variable.assign(value)
                for slot, first in zip(remembered, optimizers.initial_slots(self.form.optimizer, value), strict=True):
                    slot.assign(first)

    def train(
        self, features: tf.Tensor, labels: tf.Tensor, order: NDArray[Any], rates: NDArray[np.float32], *, first: int, given: Values
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Train for some steps, and return mean loss and accuracy (heads,).

        Each step uses the rows `order` (steps, batch) of standardized features (n, d) and labels, as `losses.as_tensor` gives them.
        `rates` (steps, heads) are the learning rates. `first` is the number of earlier steps.
        """
        loss, accuracy = self._trained(
            features, labels, tf.constant(order, tf.int32), tf.constant(rates), tf.constant(first, tf.int32), dict(given)
        )
        return loss.numpy(), accuracy.numpy()

    def predict(self, features: tf.Tensor) -> NDArray[np.float32]:
        """Return the logits (heads, n, classes) of standardized features (n, d), without dropout."""
        logits: NDArray[np.float32] = self._predicted(features).numpy()
        return logits.reshape(self.form.num_heads, -1, self.form.num_classes)

    def weights(self, number: int) -> tuple[NDArray[np.float32], ...]:
        """Return kernel and bias of each layer of one head."""
        return tuple(variable.numpy() for variable in self._weights[number])

    def _train(
        self, features: tf.Tensor, labels: tf.Tensor, order: tf.Tensor, rates: tf.Tensor, first: tf.Tensor, given: Values
    ) -> tuple[tf.Tensor, tf.Tensor]:
        losses_of = losses.training_loss(
            self.form.loss,
            smoothing=given["smoothing"],
            gamma=given["gamma"],
            class_weights=given["class_weights"],
            target=self.form.target,
        )
        total, hits = tf.zeros([self.form.num_heads]), tf.zeros([self.form.num_heads])
        for step in tf.range(tf.shape(order)[0]):
            labeled = tf.gather(labels, order[step])
            number = first + step + 1
            read = [[variable.read_value() for variable in own] for own in self._weights]
            with tf.GradientTape() as tape:
                tape.watch(read)
                logits = self._logits(read, tf.gather(features, order[step]), dropout=(given["dropout"], given["seed"], number))
                loss = tf.reduce_mean(losses_of(losses.dense(labeled, self.form.num_classes), logits), -1)
                summed = tf.reduce_sum(loss)
            gradients = tape.gradient(summed, read)
            self._update(gradients, rates[step], tf.cast(number, tf.float32), given)
            total += tf.reshape(loss, [-1])
            hits += tf.reshape(tf.reduce_mean(losses.hits(logits, labeled, self.form.target), -1), [-1])
        count = tf.cast(tf.shape(order)[0], tf.float32)
        return total / count, hits / count

    def _predict(self, features: tf.Tensor) -> tf.Tensor:
        return self._logits([[variable.read_value() for variable in own] for own in self._weights], features)

    def _logits(self, read: list[list[tf.Tensor]], features: tf.Tensor, *, dropout: tuple[tf.Tensor, ...] | None = None) -> tf.Tensor:
        """Return logits (n, classes) of one head, or (heads, n, classes) of several; all heads drop the same values."""
        form = self.form
        joined = read[0] if form.num_heads == 1 else [_joined(each) for each in zip(*read, strict=True)]
        dropped = None if dropout is None else masks(joined, tf.shape(features)[0], *dropout)
        logits = forward(joined, features, activation=form.activation or Activation.RELU, masks=dropped)
        return tf.ensure_shape(logits, [form.num_heads, None, form.num_classes][-len(logits.shape) :])

    def _update(self, gradients: list[list[tf.Tensor]], rates: tf.Tensor, number: tf.Tensor, given: Values) -> None:
        """Take one step of each head, with its own rate and gradient norm, so that a head that diverges affects no other."""
        for index, (own, slots, each) in enumerate(zip(self._weights, self._slots, gradients, strict=True)):
            scale = optimizers.clip_scale(each, given["clip"])
            for position, (variable, remembered, gradient) in enumerate(zip(own, slots, each, strict=True)):
                step = optimizers.OptimizerStep(
                    rate=rates[index],
                    number=number,
                    momentum=given["momentum"],
                    weight_decay=given["weight_decay"] if position % 2 == 0 else None,
                    nesterov=self.form.nesterov,
                )
                optimizers.apply(self.form.optimizer, variable, gradient * scale, remembered, step)


def _joined(each: Sequence[tf.Tensor]) -> tf.Tensor:
    """Stack the same weight of all heads: kernels (heads, d, units), biases (heads, 1, units)."""
    stacked = tf.stack(each)
    return stacked if len(stacked.shape) == 3 else stacked[:, None]


def masks(weights: Sequence[tf.Tensor], count: tf.Tensor, rate: tf.Tensor, seed: tf.Tensor, number: tf.Tensor) -> list[tf.Tensor]:
    """Draw the factors (count, d) of dropout for the inputs of each layer: 0, or 1 / (1 - rate)."""
    found = []
    dropped = tf.round(rate * _LEVELS)
    for layer, kernel in enumerate(weights[::2]):
        width = tf.shape(kernel)[-2]
        words = tf.random.stateless_uniform(
            [(count * width + 3) // 4], tf.stack([seed, number * 8 + layer]), minval=None, maxval=None, dtype=tf.uint32
        )
        drawn = tf.reshape(tf.reshape(tf.bitcast(words, tf.uint8), [-1])[: count * width], [count, width])
        found.append(tf.cast(drawn >= tf.cast(dropped, tf.uint8), tf.float32) / (1.0 - dropped / _LEVELS))
    return found
