"""A gradient into one step of an optimizer whose every number is a tensor, in one operation where TensorFlow has one.

The rules and constants are Keras' own. Its optimizers are built for variables of known shapes; these take any, so that one traced program
trains heads of every width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner.hyperparameters import Hyperparameters, Optimizer

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-7
_LION_BETA_2 = 0.99
_RMSPROP_RHO, _ADADELTA_RHO = 0.9, 0.95
_ADAGRAD_START = 0.1
_NADAM_DECAY = 0.96


@dataclass(frozen=True, kw_only=True)
class Step:
    """The numbers of one step of one variable."""

    rate: tf.Tensor
    #: counted from 1, float
    number: tf.Tensor
    momentum: tf.Tensor
    #: decoupled (arXiv 1711.05101), as a part of the rate; None: none
    weight_decay: tf.Tensor | None
    nesterov: bool


def momentum_of(hyperparameters: Hyperparameters) -> float:
    """The momentum that acts: none in an optimizer that has none."""
    return hyperparameters.momentum if hyperparameters.optimizer.has_momentum else 0.0


def is_nesterov(hyperparameters: Hyperparameters) -> bool:
    """Whether Nesterov's momentum acts: in SGD alone."""
    return hyperparameters.optimizer is Optimizer.SGD and hyperparameters.nesterov


def variable(value: NDArray[np.float32]) -> tf.Variable:
    """A variable that takes values of any lengths along as many axes."""
    return tf.Variable(value, shape=[None] * value.ndim, trainable=False)


def scale(gradients: Sequence[tf.Tensor], clip: tf.Tensor) -> tf.Tensor:
    """What gradients are multiplied with, so that their common norm is at most `clip`."""
    norm = tf.sqrt(2.0 * tf.add_n([tf.nn.l2_loss(gradient) for gradient in gradients]))
    return clip / tf.maximum(norm, clip)


def slots(optimizer: Optimizer, value: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """What an optimizer remembers of a variable from step to step, before the first one."""
    match optimizer:
        case Optimizer.SGD | Optimizer.LION:
            return [np.zeros_like(value)]
        case Optimizer.ADAGRAD:
            return [np.full_like(value, _ADAGRAD_START)]
        case Optimizer.NADAM:
            return [np.zeros_like(value), np.zeros_like(value), np.ones((), np.float32)]
        case _:
            return [np.zeros_like(value), np.zeros_like(value)]


def apply(optimizer: Optimizer, variable: tf.Variable, gradient: tf.Tensor, remembered: Sequence[tf.Variable], step: Step) -> None:
    """Change a variable and what is remembered of it."""
    if step.weight_decay is not None:
        variable.assign(variable * (1.0 - step.weight_decay * step.rate))
    _RULES[optimizer](variable, gradient, remembered, step)


def _sgd(variable: tf.Variable, gradient: tf.Tensor, remembered: Sequence[tf.Variable], step: Step) -> None:
    tf.raw_ops.ResourceApplyKerasMomentum(
        var=variable.handle,
        accum=remembered[0].handle,
        lr=step.rate,
        grad=gradient,
        momentum=step.momentum,
        use_nesterov=step.nesterov,
    )


def _adam(variable: tf.Variable, gradient: tf.Tensor, remembered: Sequence[tf.Variable], step: Step) -> None:
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=remembered[0].handle,
        v=remembered[1].handle,
        beta1_power=_BETA_1**step.number,
        beta2_power=_BETA_2**step.number,
        lr=step.rate,
        beta1=_BETA_1,
        beta2=_BETA_2,
        epsilon=_EPSILON,
        grad=gradient,
    )


def _nadam(variable: tf.Variable, gradient: tf.Tensor, remembered: Sequence[tf.Variable], step: Step) -> None:
    mean, square, product = remembered
    now, then = (_BETA_1 * (1.0 - 0.5 * _NADAM_DECAY**number) for number in (step.number, step.number + 1.0))
    product.assign(product * now)
    mean.assign(mean + (gradient - mean) * (1.0 - _BETA_1))
    square.assign(square + (tf.square(gradient) - square) * (1.0 - _BETA_2))
    ahead = then * mean / (1.0 - product * then) + (1.0 - now) * gradient / (1.0 - product)
    variable.assign(variable - step.rate * ahead / (tf.sqrt(square / (1.0 - _BETA_2**step.number)) + _EPSILON))


def _adamax(variable: tf.Variable, gradient: tf.Tensor, remembered: Sequence[tf.Variable], step: Step) -> None:
    tf.raw_ops.ResourceApplyAdaMax(
        var=variable.handle,
        m=remembered[0].handle,
        v=remembered[1].handle,
        beta1_power=_BETA_1**step.number,
        lr=step.rate,
        beta1=_BETA_1,
        beta2=_BETA_2,
        epsilon=_EPSILON,
        grad=gradient,
    )


def _adagrad(variable: tf.Variable, gradient: tf.Tensor, remembered: Sequence[tf.Variable], step: Step) -> None:
    tf.raw_ops.ResourceApplyAdagradV2(
        var=variable.handle, accum=remembered[0].handle, lr=step.rate, epsilon=_EPSILON, grad=gradient, update_slots=True
    )


def _adadelta(variable: tf.Variable, gradient: tf.Tensor, remembered: Sequence[tf.Variable], step: Step) -> None:
    tf.raw_ops.ResourceApplyAdadelta(
        var=variable.handle,
        accum=remembered[0].handle,
        accum_update=remembered[1].handle,
        lr=step.rate,
        rho=_ADADELTA_RHO,
        epsilon=_EPSILON,
        grad=gradient,
    )


def _rmsprop(variable: tf.Variable, gradient: tf.Tensor, remembered: Sequence[tf.Variable], step: Step) -> None:
    tf.raw_ops.ResourceApplyRMSProp(
        var=variable.handle,
        ms=remembered[0].handle,
        mom=remembered[1].handle,
        lr=step.rate,
        rho=_RMSPROP_RHO,
        momentum=step.momentum,
        epsilon=_EPSILON,
        grad=gradient,
    )


def _lion(variable: tf.Variable, gradient: tf.Tensor, remembered: Sequence[tf.Variable], step: Step) -> None:
    [mean] = remembered
    variable.assign(variable - step.rate * tf.sign(mean * _BETA_1 + gradient * (1.0 - _BETA_1)))
    mean.assign(mean * _LION_BETA_2 + gradient * (1.0 - _LION_BETA_2))


_Rule = Callable[[tf.Variable, tf.Tensor, Sequence[Any], Step], None]
_RULES: Mapping[Optimizer, _Rule] = {
    Optimizer.SGD: _sgd,
    Optimizer.ADAM: _adam,
    Optimizer.ADAMW: _adam,
    Optimizer.NADAM: _nadam,
    Optimizer.ADAMAX: _adamax,
    Optimizer.ADAGRAD: _adagrad,
    Optimizer.ADADELTA: _adadelta,
    Optimizer.RMSPROP: _rmsprop,
    Optimizer.LION: _lion,
}
