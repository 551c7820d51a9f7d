"""Steps of fine-tuning: TensorFlow graphs, traced once for a form of trial and reused by later trials of that form.

Learning rate, dropout, smoothing and augmentation strengths are inputs of a graph, except the magnitude of RandAugment. Batches have any
size. XLA is off: it compiles one shape for 20 seconds, longer than most trials train.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner.kernels import cuts, gradients, head, losses, optimizers
from tuner.spec.hyperparameters import Activation, Features, Hyperparameters, Loss, TargetKind
from tuner.tasks.images.training import augmentation

#: number of graphs of each kind in memory; those of a whole EfficientNet-Lite0 take about 50 MB
_NUM_GRAPHS = 4
#: number of updates in memory; each holds up to three numbers for every weight, and is traced in half a second
_NUM_UPDATES = 2
#: mean and variance of the features, class weights, and the values of loss and dropout
Values = dict[str, tf.Tensor]
_RANKS = {"mean": 1, "variance": 1, "class_weights": 1, "dropout": 0, "smoothing": 0, "gamma": 0}


@dataclass(frozen=True, kw_only=True)
class StepForm:
    """Properties for which the gradient of a trial is traced. Everything else is passed as a value."""

    features: Features
    num_open: int
    #: layers of the head
    num_layers: int
    #: None for a linear head
    activation: Activation | None
    loss: Loss
    num_classes: int
    target: TargetKind = TargetKind.LABEL

    @classmethod
    def of(cls, hyperparameters: Hyperparameters, *, num_open: int, num_classes: int, target: TargetKind = TargetKind.LABEL) -> "StepForm":
        """Return the form of a trial."""
        return cls(
            features=hyperparameters.features,
            num_open=num_open,
            num_layers=len(hyperparameters.head_units) + 1,
            activation=hyperparameters.activation if hyperparameters.head_units else None,
            loss=hyperparameters.loss,
            num_classes=num_classes,
            target=target,
        )


@dataclass(kw_only=True, eq=False)
class TracedSteps:
    """The latest graphs of each kind, for one backbone."""

    _graphs: dict[str, OrderedDict[Hashable, Any]] = field(default_factory=dict)
    #: number of graphs traced so far
    num_traced: int = 0

    def augment(self, changes: augmentation.Changes, *, size: int, num_classes: int) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
        """Return the augmentation of images (n, size, size, 3) uint8 and labels (n, classes), by strengths and a seed (2,)."""

        def make() -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
            change = augmentation.traceable(changes)
            given = [_spec(None, size, size, 3, dtype=tf.uint8), _spec(None, num_classes), _STRENGTHS, _spec(2, dtype=tf.int32)]
            return self._trace(lambda images, *rest: change(tf.cast(images, tf.float32), *rest), given)

        found: Callable[..., tuple[tf.Tensor, tf.Tensor]] = self._get("augment", (changes, num_classes), make)
        return found

    def below(self, cut: cuts.Cut, *, size: int) -> Callable[[tf.Tensor], cuts.LowerOutput]:
        """Return the part of the network below a cut, from images (n, size, size, 3) float32."""
        return self._traced("below", cut.boundary, cut.below, [_spec(None, size, size, 3)])

    def above(self, cut: cuts.Cut, kind: Features) -> Callable[..., tf.Tensor]:
        """Return the part of the network above a cut, to features (n, d)."""
        return self._traced("above", (cut.num_open, kind), lambda *lower: cut.above(lower, kind), list(_lower(cut)))

    def slope(
        self, cut: cuts.Cut, form: StepForm, *, overrides: frozenset[str] = gradients.ALL
    ) -> Callable[..., tuple[list[tf.Tensor], tf.Tensor]]:
        """Return the function that computes the gradient of a part of a batch, and its share of loss and accuracy (2,).

        `overrides` are names of `gradients`.
        """
        given = [
            _lower(cut),
            (_spec(None, form.num_classes), losses.label_spec(form.target, tf.int64)),
            [_spec(*[None] * rank) for rank in (2, 1) * form.num_layers],
            {name: _spec(*[None] * rank) for name, rank in _RANKS.items()},
            _spec(4, dtype=tf.int32),
        ]

        def computed(*parts: Any) -> tuple[list[tf.Tensor], tf.Tensor]:
            with gradients.overridden(overrides):
                return _slope(cut, form, *parts)

        return self._traced("slope", (form, overrides), computed, given)

    def update(self, form: optimizers.UpdateForm, cut: cuts.Cut) -> optimizers.Update:
        """Return the update that applies gradients to weights."""
        found: optimizers.Update = self._get("update", form, lambda: optimizers.Update(form, cut.variables, trace=self._trace))
        return found

    def _traced(self, kind: str, key: Hashable, function: Callable[..., Any], given: Sequence[Any]) -> Callable[..., Any]:
        found: Callable[..., Any] = self._get(kind, key, lambda: self._trace(function, given))
        return found

    def _trace(self, function: Callable[..., Any], given: Sequence[Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            self.num_traced += 1
            return function(*arguments)

        found: Callable[..., Any] = tf.function(counted, input_signature=given, autograph=False)
        return found

    def _get(self, kind: str, key: Hashable, make: Callable[[], Any]) -> Any:
        graphs = self._graphs.setdefault(kind, OrderedDict())
        if key not in graphs:
            graphs[key] = make()
        graphs.move_to_end(key)
        if len(graphs) > (_NUM_UPDATES if kind == "update" else _NUM_GRAPHS):
            graphs.popitem(last=False)
        return graphs[key]


def values(
    hyperparameters: Hyperparameters, moments: tuple[NDArray[np.float32], NDArray[np.float32]], class_weights: NDArray[np.float64]
) -> Values:
    """Return the values of a trial that its gradient takes."""
    given = {
        "mean": moments[0],
        "variance": moments[1],
        "class_weights": class_weights,
        "dropout": hyperparameters.dropout,
        "smoothing": losses.smoothing_of(hyperparameters),
        "gamma": hyperparameters.focal_gamma,
    }
    return {name: tf.constant(value, tf.float32) for name, value in given.items()}


def _slope(
    cut: cuts.Cut,
    form: StepForm,
    lower: cuts.LowerOutput,
    answers: tuple[tf.Tensor, tf.Tensor],
    weights: list[tf.Tensor],
    given: Values,
    position: tf.Tensor,
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Return the gradient, and loss and accuracy (2,).

    `answers` are the targets (n, classes), and the labels before images were mixed. `position` holds the seed, the number of the step,
    the part's first image, and the size of the whole batch, for which dropout is drawn.
    """
    (targets, labels), (seed, number, start, total) = answers, tf.unstack(position)
    opened = [variable.value for _, variable in cut.variables]
    loss_of = losses.training_loss(
        form.loss, smoothing=given["smoothing"], gamma=given["gamma"], class_weights=given["class_weights"], target=form.target
    )
    whole = head.masks(weights, total, given["dropout"], seed, number)
    masks = [mask[start : start + tf.shape(targets)[0]] for mask in whole]
    features = head.standardize(cut.above(lower, form.features), (given["mean"], given["variance"]))
    logits = head.forward(weights, features, activation=form.activation or Activation.RELU, masks=masks)
    loss = tf.reduce_sum(loss_of(targets, logits)) / tf.cast(total, tf.float32)
    # the output of a network may not depend on all of its weights
    found = tf.gradients(loss, [*weights, *opened], unconnected_gradients=tf.UnconnectedGradients.ZERO)
    hits = tf.reduce_sum(losses.hits(logits, labels, form.target)) / tf.cast(total, tf.float32)
    return found, tf.stack([loss, hits])


def _lower(cut: cuts.Cut) -> tuple[tf.TensorSpec, tf.TensorSpec]:
    return _spec(None, *cut.shape), _spec(None, cut.num_pooled)


def _spec(*shape: int | None, dtype: Any = tf.float32) -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype)


_STRENGTHS = {name: _spec() for name in augmentation.NAMES}
