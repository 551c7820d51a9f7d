"""Gradients into new weights of a head and of the open blocks of a backbone, traced once for a form while it is one of the latest."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner.hyperparameters import Hyperparameters, Optimizer
from tuner.training import fused

#: of a trial, by the names of `values`
Values = Mapping[str, tf.Tensor]
_VALUES = ("momentum", "weight_decay", "layer_decay", "average", "clip")
#: a function of tensors, and what they are, to one that is traced at its first call
Trace = Callable[[Callable[..., None], Sequence[Any]], Callable[..., None]]


@dataclass(frozen=True, kw_only=True)
class Form:
    """What an update is traced for; all else are values."""

    optimizer: Optimizer
    nesterov: bool
    has_average: bool
    #: of the head
    num_layers: int
    #: blocks of the backbone
    num_open: int

    @classmethod
    def of(cls, hyperparameters: Hyperparameters, *, num_open: int) -> "Form":
        """The form of a trial's update."""
        return cls(
            optimizer=hyperparameters.optimizer,
            nesterov=fused.is_nesterov(hyperparameters),
            has_average=hyperparameters.ema > 0,
            num_layers=len(hyperparameters.head_units) + 1,
            num_open=num_open,
        )


def values(hyperparameters: Hyperparameters, *, gradient_clip: float) -> Values:
    """What an update is told of a trial."""
    given = {
        "momentum": fused.momentum_of(hyperparameters),
        "weight_decay": hyperparameters.weight_decay,
        "layer_decay": hyperparameters.layer_decay,
        "average": hyperparameters.ema,
        "clip": gradient_clip,
    }
    return {name: tf.constant(value, tf.float32) for name, value in given.items()}


class Update:
    """One form of update of these variables of a backbone, the number beside each counting the blocks above its own.

    The head counts as above them all. A variable `depth` blocks down gets the learning rate times `layer_decay ** depth` (ULMFiT,
    arXiv 1801.06146, section 3.2). Weight decay acts on kernels alone, by that same rate.
    """

    def __init__(self, form: Form, opened: Sequence[tuple[int, keras.Variable]], *, trace: Trace) -> None:
        #: kernel and bias of each layer, of any widths
        self.head = [tf.Variable(np.zeros((1,) * rank, np.float32), shape=[None] * rank) for rank in (2, 1) * form.num_layers]
        #: what is trained: the head's, then the backbone's
        self.variables = [*self.head, *(variable.value for _, variable in opened)]
        self._form = form
        self._depths = [0] * len(self.head) + [depth + 1 for depth, _ in opened]
        self._slots = [[fused.variable(slot) for slot in fused.slots(form.optimizer, _empty(variable))] for variable in self.variables]
        self._averages = [fused.variable(_empty(variable)) for variable in self.variables] if form.has_average else []
        gradients = [tf.TensorSpec(variable.shape, tf.float32) for variable in self.variables]
        number = tf.TensorSpec((), tf.float32)
        self._traced = trace(self._step, [gradients, number, number, dict.fromkeys(_VALUES, number)])

    @property
    def state(self) -> list[tf.Variable]:
        """Every variable that one step hands on to the next."""
        return [*self.variables, *(slot for slots in self._slots for slot in slots), *self._averages]

    @property
    def measured(self) -> list[tf.Variable]:
        """What the weights of a trial are: the running averages of `variables` where they are on."""
        return self._averages or self.variables

    def begin(self, weights: Sequence[NDArray[np.float32]]) -> None:
        """Forget the trial before; start from these weights of the head, and from the backbone as it is."""
        for variable, weight in zip(self.head, weights, strict=True):
            variable.assign(weight)
        for variable, slots in zip(self.variables, self._slots, strict=True):
            for slot, first in zip(slots, fused.slots(self._form.optimizer, variable.numpy()), strict=True):
                slot.assign(first)
        for average, variable in zip(self._averages, self.variables, strict=bool(self._averages)):
            average.assign(variable)

    def apply(self, gradients: Sequence[tf.Tensor], *, rate: float, number: int, given: Values) -> None:
        """Take step `number`, counted from 1."""
        self._traced(list(gradients), tf.constant(rate, tf.float32), tf.constant(number, tf.float32), dict(given))

    def _step(self, gradients: Sequence[tf.Tensor], rate: tf.Tensor, number: tf.Tensor, given: Values) -> None:
        scale = fused.scale(gradients, given["clip"])
        for variable, slots, gradient, depth in zip(self.variables, self._slots, gradients, self._depths, strict=True):
            step = fused.Step(
                rate=rate * given["layer_decay"] ** float(depth),
                number=number,
                momentum=given["momentum"],
                weight_decay=given["weight_decay"] if len(variable.shape) > 1 else None,
                nesterov=self._form.nesterov,
            )
            fused.apply(self._form.optimizer, variable, gradient * scale, slots, step)
        # an average that is shorter at first forgets where the trial began, however few its steps are
        kept = tf.minimum(given["average"], (1.0 + number) / (10.0 + number))
        for average, variable in zip(self._averages, self.variables, strict=bool(self._averages)):
            average.assign(average * kept + variable * (1.0 - kept))


def _empty(variable: tf.Variable) -> NDArray[np.float32]:
    return np.zeros((1,) * len(variable.shape), np.float32)
