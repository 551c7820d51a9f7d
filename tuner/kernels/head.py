"""Rows of numbers into the moments of their columns, and into the type that keeps them.

The new top of a network: features in, one logit a class out.

Heads of one form, trained side by side on given features, in a program that is traced once for all of their widths and rates.
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
from tuner.spec.hyperparameters import Activation, Hyperparameters, Loss, Optimizer

#: a vector's column that varies less than this is as good as constant
SMALLEST_VARIANCE = 1e-6
#: float16 is kept where its rounding is below this part of a column's spread, in so many of the columns
_ROUNDING = 0.02
_MOST_COLUMNS = 0.99
_LARGEST_HALF = 60000.0
_ROWS_AT_ONCE = 4096

#: mean and variance (d,), the variance never too small to divide by
Moments = tuple[NDArray[np.float32], NDArray[np.float32]]


def measure(stored: NDArray[Any]) -> Moments:
    """Mean and variance of the columns of vectors (n, d), the variance never too small to divide by."""
    mean = np.sum([part.sum(0, dtype=np.float64) for part in _parts(stored)], 0) / len(stored)
    variance = np.sum([np.square(part - mean).sum(0) for part in _parts(stored)], 0) / len(stored)
    return mean.astype(np.float32), np.maximum(variance, SMALLEST_VARIANCE).astype(np.float32)


def is_half_enough(values: NDArray[np.float32]) -> bool:
    """Whether float16 keeps these rows (n, d): it has three digits, and nothing above 65,504.

    What it does to a column that varies little beside its size is lost; a few such columns of many are no loss.
    """
    if not np.isfinite(values).all() or np.abs(values).max(initial=0.0) > _LARGEST_HALF:
        return False
    errors = (values.astype(np.float16).astype(np.float32) - values).std(0)
    spreads = np.sqrt(np.maximum(values.var(0), SMALLEST_VARIANCE))
    return float(np.mean(errors <= _ROUNDING * spreads)) >= _MOST_COLUMNS


def rounded(rows: Iterator[NDArray[np.float32]]) -> tuple[str, Iterator[NDArray[Any]]]:
    """Rows in the type that keeps them, judged by the first of them."""
    first = next(rows)
    parts = itertools.chain([first], rows)
    if not is_half_enough(first):
        return "float32", parts
    return "float16", (np.clip(part, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16) for part in parts)


def _parts(stored: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(stored), _ROWS_AT_ONCE):
        yield np.asarray(stored[start : start + _ROWS_AT_ONCE], np.float32)


#: kernel and bias of each layer, from the backbone upwards
Weights = Sequence[Any]
#: by name, as a mixed precision of Keras must not reach the head
_FLOAT = "float32"


def initial(hyperparameters: Hyperparameters, num_features: int, num_classes: int, *, seed: int) -> list[NDArray[np.float32]]:
    """Kernel (d, units) and bias (units,) of each layer, as Keras' initializers draw them."""
    widths = [num_features, *hyperparameters.head_units]
    weights: list[NDArray[np.float32]] = []
    for number, shape in enumerate(itertools.pairwise(widths)):
        weights += _layer(keras.initializers.HeNormal(seed=seed + number), shape)
    return weights + _layer(keras.initializers.GlorotUniform(seed=seed), (widths[-1], num_classes))


def _layer(initializer: keras.Initializer, shape: tuple[int, int]) -> list[NDArray[np.float32]]:
    return [keras.ops.convert_to_numpy(initializer(shape, dtype=_FLOAT)), np.zeros(shape[1], np.float32)]


def standardize(features: tf.Tensor, moments: Moments | tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    """Features (n, d) brought to mean 0 and variance 1 by moments of the training features.

    Unlike a BatchNorm's, the moments are the same in training and in use, and do not drift while the backbone is fine-tuned.
    """
    mean, variance = moments
    return (tf.cast(features, tf.float32) - mean) / tf.sqrt(tf.maximum(variance, SMALLEST_VARIANCE))


def forward(weights: Weights, features: tf.Tensor, *, activation: Activation | str, masks: Sequence[tf.Tensor] | None = None) -> tf.Tensor:
    """Logits (n, classes) of standardized features (n, d).

    Weights may have a leading axis of heads: kernels (H, d, units), biases (H, 1, units), features (n, d) or (H, n, d), logits
    (H, n, classes). `masks` are what dropout multiplies the inputs of each layer with; None: there is no dropout.
    """
    activate, x = _ACTIVATIONS[Activation(activation)], tf.cast(features, tf.float32)
    for number, (kernel, bias) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
        if number:
            x = activate(x)
        if masks is not None:
            x = x * masks[number]
        x = tf.matmul(x, kernel) + bias
    return x


_ACTIVATIONS: Mapping[Activation, Callable[[tf.Tensor], tf.Tensor]] = {
    activation: keras.activations.get(activation.value) for activation in Activation
}


#: programs that are kept; one holds the weights of its last heads and a graph of a few hundred operations
_NUM_KEPT = 8
#: dropout is drawn a byte a place: four times faster than a number a place, and its rate within 0.002 of what was asked for
_LEVELS = 256


@dataclass(frozen=True, kw_only=True)
class HeadForm:
    """What a program is traced for; all else are values."""

    optimizer: Optimizer
    nesterov: bool
    loss: Loss
    #: None of a linear head
    activation: Activation | None
    #: of the head, the last one among them
    num_layers: int
    num_classes: int
    num_heads: int

    @classmethod
    def of(cls, hyperparameters: Hyperparameters, *, num_classes: int, num_heads: int) -> "HeadForm":
        """The form of a trial's heads."""
        return cls(
            optimizer=hyperparameters.optimizer,
            nesterov=optimizers.is_nesterov(hyperparameters),
            loss=hyperparameters.loss,
            activation=hyperparameters.activation if hyperparameters.head_units else None,
            num_layers=len(hyperparameters.head_units) + 1,
            num_classes=num_classes,
            num_heads=num_heads,
        )


#: of a trial, by the names of `_VALUES`
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


def values(hyperparameters: Hyperparameters, *, class_weights: NDArray[Any], clip: float, seed: int) -> Values:
    """What a program is told of a trial."""
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


@functools.lru_cache(maxsize=_NUM_KEPT)
def program(form: HeadForm) -> "Program":
    """The program of a form; the one that was traced for the trial before, if there was one."""
    return Program(form)


class Program:
    """Trains heads of one form and tells what they see; it holds the weights of those that it trains now."""

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
                *(table, tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, None], tf.int32), table, tf.TensorSpec([], tf.int32)),
                {name: tf.TensorSpec(shape, dtype) for name, (shape, dtype) in _VALUES.items()},
            ],
        )
        self._predicted = tf.function(self._predict, input_signature=[table])

    @property
    def num_traced(self) -> int:
        """How often one of its functions was traced."""
        return sum(function.experimental_get_tracing_count() for function in (self._trained, self._predicted))

    def begin(self, weights: Sequence[NDArray[np.float32]]) -> None:
        """Give every head these weights, kernel and bias of each layer, and an optimizer that remembers nothing."""
        for own, slots in zip(self._weights, self._slots, strict=True):
            for variable, remembered, value in zip(own, slots, weights, strict=True):
                variable.assign(value)
                for slot, first in zip(remembered, optimizers.initial_slots(self.form.optimizer, value), strict=True):
                    slot.assign(first)

    def train(
        self, features: tf.Tensor, labels: tf.Tensor, order: NDArray[Any], rates: NDArray[np.float32], *, first: int, given: Values
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean training loss and accuracy (heads,) of steps on rows `order` (steps, batch) of standardized features (n, d), labels (n,).

        `rates` (steps, heads) are the learning rates, `first` counts the steps before these.
        """
        loss, accuracy = self._trained(
            features, labels, tf.constant(order, tf.int32), tf.constant(rates), tf.constant(first, tf.int32), dict(given)
        )
        return loss.numpy(), accuracy.numpy()

    def predict(self, features: tf.Tensor) -> NDArray[np.float32]:
        """Logits (heads, n, classes) of standardized features (n, d), without dropout."""
        logits: NDArray[np.float32] = self._predicted(features).numpy()
        return logits.reshape(self.form.num_heads, -1, self.form.num_classes)

    def weights(self, number: int) -> tuple[NDArray[np.float32], ...]:
        """Kernel and bias of each layer of one head."""
        return tuple(variable.numpy() for variable in self._weights[number])

    def _train(
        self, features: tf.Tensor, labels: tf.Tensor, order: tf.Tensor, rates: tf.Tensor, first: tf.Tensor, given: Values
    ) -> tuple[tf.Tensor, tf.Tensor]:
        losses_of = losses.training(
            self.form.loss, smoothing=given["smoothing"], gamma=given["gamma"], class_weights=given["class_weights"]
        )
        total, hits = tf.zeros([self.form.num_heads]), tf.zeros([self.form.num_heads])
        for step in tf.range(tf.shape(order)[0]):
            labelled = tf.gather(labels, order[step])
            number = first + step + 1
            read = [[variable.read_value() for variable in own] for own in self._weights]
            with tf.GradientTape() as tape:
                tape.watch(read)
                logits = self._logits(read, tf.gather(features, order[step]), dropout=(given["dropout"], given["seed"], number))
                loss = tf.reduce_mean(losses_of(tf.one_hot(labelled, self.form.num_classes), logits), -1)
                summed = tf.reduce_sum(loss)
            gradients = tape.gradient(summed, read)
            self._update(gradients, rates[step], tf.cast(number, tf.float32), given)
            total += tf.reshape(loss, [-1])
            right = tf.equal(tf.argmax(logits, -1, tf.int32), labelled)
            hits += tf.reshape(tf.reduce_mean(tf.cast(right, tf.float32), -1), [-1])
        count = tf.cast(tf.shape(order)[0], tf.float32)
        return total / count, hits / count

    def _predict(self, features: tf.Tensor) -> tf.Tensor:
        return self._logits([[variable.read_value() for variable in own] for own in self._weights], features)

    def _logits(self, read: list[list[tf.Tensor]], features: tf.Tensor, *, dropout: tuple[tf.Tensor, ...] | None = None) -> tf.Tensor:
        """(n, classes) of one head, (heads, n, classes) of several, all of which drop the same places."""
        form = self.form
        joined = read[0] if form.num_heads == 1 else [_joined(each) for each in zip(*read, strict=True)]
        kept = None if dropout is None else masks(joined, tf.shape(features)[0], *dropout)
        logits = forward(joined, features, activation=form.activation or Activation.RELU, masks=kept)
        return tf.ensure_shape(logits, [form.num_heads, None, form.num_classes][-len(logits.shape) :])

    def _update(self, gradients: list[list[tf.Tensor]], rates: tf.Tensor, number: tf.Tensor, given: Values) -> None:
        """One step of each head, by its own rate and its own norm of the gradient: one that is not finite spoils no other."""
        for index, (own, slots, each) in enumerate(zip(self._weights, self._slots, gradients, strict=True)):
            scale = optimizers.clip_scale(each, given["clip"])
            for place, (variable, remembered, gradient) in enumerate(zip(own, slots, each, strict=True)):
                step = optimizers.Step(
                    rate=rates[index],
                    number=number,
                    momentum=given["momentum"],
                    weight_decay=given["weight_decay"] if place % 2 == 0 else None,
                    nesterov=self.form.nesterov,
                )
                optimizers.apply(self.form.optimizer, variable, gradient * scale, remembered, step)


def _joined(each: Sequence[tf.Tensor]) -> tf.Tensor:
    """The same weights of all heads: kernels (heads, d, units), biases (heads, 1, units)."""
    stacked = tf.stack(each)
    return stacked if len(stacked.shape) == 3 else stacked[:, None]


def masks(weights: Sequence[tf.Tensor], count: tf.Tensor, rate: tf.Tensor, seed: tf.Tensor, number: tf.Tensor) -> list[tf.Tensor]:
    """What dropout multiplies the inputs of each layer with (count, d): 0, or as much more as others are dropped."""
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
