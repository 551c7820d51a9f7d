"""Optimizers: the learning rate of each step, the rule of each optimizer, and the update of a head and of open blocks.

The rules and constants are those of Keras. The optimizers of Keras are built for variables of known shapes. These take variables of any
shape, so that one traced program trains heads of every width. A rule is one TensorFlow operation where TensorFlow has it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner.spec.hyperparameters import Hyperparameters, Optimizer

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-7
_LION_BETA_2 = 0.99
_RMSPROP_RHO, _ADADELTA_RHO = 0.9, 0.95
_ADAGRAD_START = 0.1
_NADAM_DECAY = 0.96
#: values of a trial, by the names in `_VALUES`
Values = Mapping[str, tf.Tensor]
_VALUES = ("momentum", "weight_decay", "layer_decay", "average", "clip")
#: traces a function of tensors with these specs at its first call
Trace = Callable[[Callable[..., None], Sequence[Any]], Callable[..., None]]


def cosine(num_steps: int, *, peak: float, warmup: float) -> np.ndarray:
    """Return the learning rate of each step (num_steps,): a linear warmup, then a half cosine to zero (SGDR, arXiv 1608.03983)."""
    num_warmup = round(num_steps * warmup)
    rising = peak * (np.arange(num_warmup) + 1) / max(num_warmup, 1)
    progress = np.arange(num_steps - num_warmup) / max(num_steps - num_warmup, 1)
    return np.concatenate([rising, peak * 0.5 * (1 + np.cos(np.pi * progress))]).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class OptimizerStep:
    """Inputs of a step of the optimizer, besides the gradient."""

    rate: tf.Tensor
    #: number of the step, from 1, as a float
    number: tf.Tensor
    momentum: tf.Tensor
    #: decoupled weight decay (arXiv 1711.05101), relative to the rate; None means none
    weight_decay: tf.Tensor | None
    nesterov: bool


def momentum_of(hyperparameters: Hyperparameters) -> float:
    """Return the momentum in effect: 0 for an optimizer without momentum."""
    return hyperparameters.momentum if hyperparameters.optimizer.has_momentum else 0.0


def is_nesterov(hyperparameters: Hyperparameters) -> bool:
    """Return whether Nesterov momentum is in effect: only with SGD."""
    return hyperparameters.optimizer is Optimizer.SGD and hyperparameters.nesterov


def new_variable(value: NDArray[np.float32]) -> tf.Variable:
    """Create a variable that accepts values of any shape with the same number of axes."""
    return tf.Variable(value, shape=[None] * value.ndim, trainable=False)


def clip_scale(gradients: Sequence[tf.Tensor], clip: tf.Tensor) -> tf.Tensor:
    """Return the factor that limits the common norm of gradients to `clip`."""
    norm = tf.sqrt(2.0 * tf.add_n([tf.nn.l2_loss(gradient) for gradient in gradients]))
    return clip / tf.maximum(norm, clip)


def initial_slots(optimizer: Optimizer, value: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return the initial optimizer state of a variable."""
    match optimizer:
        case Optimizer.SGD | Optimizer.LION:
            return [np.zeros_like(value)]
        case Optimizer.ADAGRAD:
            return [np.full_like(value, _ADAGRAD_START)]
        case Optimizer.NADAM:
            return [np.zeros_like(value), np.zeros_like(value), np.ones((), np.float32)]
        case _:
            return [np.zeros_like(value), np.zeros_like(value)]


def apply(optimizer: Optimizer, variable: tf.Variable, gradient: tf.Tensor, slots: Sequence[tf.Variable], step: OptimizerStep) -> None:
    """Update a variable and its optimizer state."""
    if step.weight_decay is not None:
        variable.assign(variable * (1.0 - step.weight_decay * step.rate))
    _RULES[optimizer](variable, gradient, slots, step)


def _sgd(variable: tf.Variable, gradient: tf.Tensor, slots: Sequence[tf.Variable], step: OptimizerStep) -> None:
    tf.raw_ops.ResourceApplyKerasMomentum(
        var=variable.handle,
        accum=slots[0].handle,
        lr=step.rate,
        grad=gradient,
        momentum=step.momentum,
        use_nesterov=step.nesterov,
    )


def _adam(variable: tf.Variable, gradient: tf.Tensor, slots: Sequence[tf.Variable], step: OptimizerStep) -> None:
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=slots[0].handle,
        v=slots[1].handle,
        beta1_power=_BETA_1**step.number,
        beta2_power=_BETA_2**step.number,
        lr=step.rate,
        beta1=_BETA_1,
        beta2=_BETA_2,
        epsilon=_EPSILON,
        grad=gradient,
    )


def _nadam(variable: tf.Variable, gradient: tf.Tensor, slots: Sequence[tf.Variable], step: OptimizerStep) -> None:
    mean, square, product = slots
    now, then = (_BETA_1 * (1.0 - 0.5 * _NADAM_DECAY**number) for number in (step.number, step.number + 1.0))
    product.assign(product * now)
    mean.assign(mean + (gradient - mean) * (1.0 - _BETA_1))
    square.assign(square + (tf.square(gradient) - square) * (1.0 - _BETA_2))
    ahead = then * mean / (1.0 - product * then) + (1.0 - now) * gradient / (1.0 - product)
    variable.assign(variable - step.rate * ahead / (tf.sqrt(square / (1.0 - _BETA_2**step.number)) + _EPSILON))


def _adamax(variable: tf.Variable, gradient: tf.Tensor, slots: Sequence[tf.Variable], step: OptimizerStep) -> None:
    tf.raw_ops.ResourceApplyAdaMax(
        var=variable.handle,
        m=slots[0].handle,
        v=slots[1].handle,
        beta1_power=_BETA_1**step.number,
        lr=step.rate,
        beta1=_BETA_1,
        beta2=_BETA_2,
        epsilon=_EPSILON,
        grad=gradient,
    )


def _adagrad(variable: tf.Variable, gradient: tf.Tensor, slots: Sequence[tf.Variable], step: OptimizerStep) -> None:
    tf.raw_ops.ResourceApplyAdagradV2(
        var=variable.handle, accum=slots[0].handle, lr=step.rate, epsilon=_EPSILON, grad=gradient, update_slots=True
    )


def _adadelta(variable: tf.Variable, gradient: tf.Tensor, slots: Sequence[tf.Variable], step: OptimizerStep) -> None:
    tf.raw_ops.ResourceApplyAdadelta(
        var=variable.handle,
        accum=slots[0].handle,
        accum_update=slots[1].handle,
        lr=step.rate,
        rho=_ADADELTA_RHO,
        epsilon=_EPSILON,
        grad=gradient,
    )


def _rmsprop(variable: tf.Variable, gradient: tf.Tensor, slots: Sequence[tf.Variable], step: OptimizerStep) -> None:
    tf.raw_ops.ResourceApplyRMSProp(
        var=variable.handle,
        ms=slots[0].handle,
        mom=slots[1].handle,
        lr=step.rate,
        rho=_RMSPROP_RHO,
        momentum=step.momentum,
        epsilon=_EPSILON,
        grad=gradient,
    )


def _lion(variable: tf.Variable, gradient: tf.Tensor, slots: Sequence[tf.Variable], step: OptimizerStep) -> None:
    [mean] = slots
    variable.assign(variable - step.rate * tf.sign(mean * _BETA_1 + gradient * (1.0 - _BETA_1)))
    mean.assign(mean * _LION_BETA_2 + gradient * (1.0 - _LION_BETA_2))


_Rule = Callable[[tf.Variable, tf.Tensor, Sequence[Any], OptimizerStep], None]
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


@dataclass(frozen=True, kw_only=True)
class UpdateForm:
    """Properties for which an update is traced. Everything else is passed as a value."""

    optimizer: Optimizer
    nesterov: bool
    has_average: bool
    #: layers of the head
    num_layers: int
    #: trained blocks of the backbone
    num_open: int

    @classmethod
    def of(cls, hyperparameters: Hyperparameters, *, num_open: int) -> "UpdateForm":
        """Return the form of a trial's update."""
        return cls(
            optimizer=hyperparameters.optimizer,
            nesterov=is_nesterov(hyperparameters),
            has_average=hyperparameters.ema > 0,
            num_layers=len(hyperparameters.head_units) + 1,
            num_open=num_open,
        )


def values(hyperparameters: Hyperparameters, *, gradient_clip: float) -> Values:
    """Return the values of a trial that an update takes."""
    given = {
        "momentum": momentum_of(hyperparameters),
        "weight_decay": hyperparameters.weight_decay,
        "layer_decay": hyperparameters.layer_decay,
        "average": hyperparameters.ema,
        "clip": gradient_clip,
    }
    return {name: tf.constant(value, tf.float32) for name, value in given.items()}


class Update:
    """Updates the head and the open variables of a backbone, each given with the number of blocks above its own.

    The head is above all blocks. A variable `depth` blocks below it uses the learning rate times `layer_decay ** depth` (ULMFiT,
    arXiv 1801.06146, section 3.2). Weight decay applies to kernels only, at the same rate.
    """

    def __init__(self, form: UpdateForm, opened: Sequence[tuple[int, keras.Variable]], *, trace: Trace) -> None:
        #: kernel and bias of each layer of the head, of any width
        self.head = [tf.Variable(np.zeros((1,) * rank, np.float32), shape=[None] * rank) for rank in (2, 1) * form.num_layers]
        #: the trained variables: those of the head, then those of the backbone
        self.variables = [*self.head, *(variable.value for _, variable in opened)]
        self._form = form
        self._depths = [0] * len(self.head) + [depth + 1 for depth, _ in opened]
        self._slots = [[new_variable(slot) for slot in initial_slots(form.optimizer, _empty(variable))] for variable in self.variables]
        self._averages = [new_variable(_empty(variable)) for variable in self.variables] if form.has_average else []
        gradients = [tf.TensorSpec(variable.shape, tf.float32) for variable in self.variables]
        number = tf.TensorSpec((), tf.float32)
        self._traced = trace(self._step, [gradients, number, number, dict.fromkeys(_VALUES, number)])

    @property
    def state(self) -> list[tf.Variable]:
        """Every variable that one step passes to the next."""
        return [*self.variables, *(slot for slots in self._slots for slot in slots), *self._averages]

    @property
    def measured(self) -> list[tf.Variable]:
        """The variables that hold a trial's weights: the running averages of `variables` if they are on."""
        return self._averages or self.variables

    def begin(self, weights: Sequence[NDArray[np.float32]]) -> None:
        """Start a trial with these weights of the head, the current weights of the backbone, and a new optimizer state."""
        for variable, weight in zip(self.head, weights, strict=True):
            variable.assign(weight)
        for variable, slots in zip(self.variables, self._slots, strict=True):
            for slot, first in zip(slots, initial_slots(self._form.optimizer, variable.numpy()), strict=True):
                slot.assign(first)
        for average, variable in zip(self._averages, self.variables, strict=bool(self._averages)):
            average.assign(variable)

    def apply(self, gradients: Sequence[tf.Tensor], *, rate: float, number: int, given: Values) -> None:
        """Take step `number`; the first one is 1."""
        self._traced(list(gradients), tf.constant(rate, tf.float32), tf.constant(number, tf.float32), dict(given))

    def _step(self, gradients: Sequence[tf.Tensor], rate: tf.Tensor, number: tf.Tensor, given: Values) -> None:
        scale = clip_scale(gradients, given["clip"])
        for variable, slots, gradient, depth in zip(self.variables, self._slots, gradients, self._depths, strict=True):
            step = OptimizerStep(
                rate=rate * given["layer_decay"] ** float(depth),
                number=number,
                momentum=given["momentum"],
                weight_decay=given["weight_decay"] if len(variable.shape) > 1 else None,
                nesterov=self._form.nesterov,
            )
            apply(self._form.optimizer, variable, gradient * scale, slots, step)
        # a shorter average in the first steps forgets the initial weights, even in a short trial
        decay = tf.minimum(given["average"], (1.0 + number) / (10.0 + number))
        for average, variable in zip(self._averages, self.variables, strict=bool(self._averages)):
            average.assign(average * decay + variable * (1.0 - decay))


def _empty(variable: tf.Variable) -> NDArray[np.float32]:
    return np.zeros((1,) * len(variable.shape), np.float32)
