"""The optimizer of a trial, whose learning rate may fall from block to block."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tuner.hyperparameters import Hyperparameters, Optimizer

_CLASSES: Mapping[Optimizer, type[keras.Optimizer]] = {
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


def build(hyperparameters: Hyperparameters, variables: Sequence[tuple[int, keras.Variable]], *, gradient_clip: float) -> keras.Optimizer:
    """An optimizer of these variables; the number beside each counts the blocks above its own.

    The learning rate is set before each step; a variable `depth` blocks down gets it times `layer_decay ** depth`. Weight decay is
    decoupled (arXiv 1711.05101) and acts on kernels alone, by that same rate. The source of layer-wise decay: ULMFiT
    (arXiv 1801.06146), section 3.2.
    """
    options: dict[str, Any] = {"weight_decay": hyperparameters.weight_decay, "global_clipnorm": gradient_clip}
    if hyperparameters.optimizer.has_momentum:
        options["momentum"] = hyperparameters.momentum
    if hyperparameters.optimizer is Optimizer.SGD:
        options["nesterov"] = hyperparameters.nesterov
    kind = _CLASSES[hyperparameters.optimizer]
    factors = [hyperparameters.layer_decay**depth for depth, _ in variables]
    optimizer: keras.Optimizer = _layerwise(kind, factors)(learning_rate=0.0, **options)
    optimizer.exclude_from_weight_decay(var_list=[variable for _, variable in variables if len(variable.shape) < 2])
    optimizer.build([variable for _, variable in variables])
    return optimizer


def cosine(num_steps: int, *, peak: float, warmup: float) -> np.ndarray:
    """The learning rate of each step (num_steps,): up in a line, then down to zero in a half cosine (SGDR, arXiv 1608.03983)."""
    num_warmup = round(num_steps * warmup)
    rising = peak * (np.arange(num_warmup) + 1) / max(num_warmup, 1)
    progress = np.arange(num_steps - num_warmup) / max(num_steps - num_warmup, 1)
    return np.concatenate([rising, peak * 0.5 * (1 + np.cos(np.pi * progress))]).astype(np.float32)


def _layerwise(kind: type[keras.Optimizer], factors: Sequence[float]) -> type[keras.Optimizer]:
    class Layerwise(kind):  # type: ignore[misc]
        def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
            super().update_step(gradient, variable, learning_rate * factors[self._get_variable_index(variable)])

        def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
            for factor, variable in zip(factors, variables, strict=True):
                if self.weight_decay and self._use_weight_decay(variable):
                    variable.assign_sub(variable * (self.weight_decay * self.learning_rate * factor))

        def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
            # there is one replica; the sum over it would be a tf.custom_gradient, which TensorFlow keeps for good, and with it the
            # whole graph of the step: about 70 MB a trial
            return grads_and_vars

    return Layerwise
