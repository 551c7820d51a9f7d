"""Which graphs are traced, and which are reused."""

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tuner.kernels import head, optimizers
from tuner.spec.hyperparameters import Augmentation, Features, Hyperparameters
from tuner.tasks.images.training import augmentation, steps
from tuner.tasks.images.training.study_context import StudyContext


def test_a_graph_is_traced_once_while_it_is_among_the_latest(context: StudyContext) -> None:
    kept, cut = steps.TracedSteps(), context.backbone.cut(2)
    first = kept.above(cut, Features.LAST)
    assert kept.above(context.backbone.cut(2), Features.LAST) is first
    others = [kept.above(context.backbone.cut(count), kind) for count in (0, 1) for kind in Features]
    assert len({id(other) for other in [first, *others]}) == 5
    assert kept.above(cut, Features.LAST) is not first
    assert kept.above(context.backbone.cut(1), Features.LAST) is others[2]


def test_values_are_not_part_of_a_form() -> None:
    one = Hyperparameters(learning_rate=1e-3, dropout=0.1, head_units=(8,), ema=0.9, batch_size=16)
    other = Hyperparameters(learning_rate=1e-2, dropout=0.0, head_units=(99,), ema=0.5, batch_size=64, weight_decay=0.5, layer_decay=0.7)
    assert steps.StepForm.of(one, num_open=1, num_classes=3) == steps.StepForm.of(other, num_open=1, num_classes=3)
    assert optimizers.UpdateForm.of(one, num_open=1) == optimizers.UpdateForm.of(other, num_open=1)
    weak, strong = Augmentation(rotation=0.1, mixup=0.1), Augmentation(zoom=0.5, mixup=0.5)
    assert augmentation.Changes.of(weak) == augmentation.Changes.of(strong)


def test_a_keras_layer_is_built_once_per_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[float] = []
    real = augmentation.traceable

    def counted(changes: augmentation.Changes) -> Any:
        built.append(changes.rand_augment)
        return real(changes)

    monkeypatch.setattr(augmentation, "traceable", counted)
    kept, changes = steps.TracedSteps(), augmentation.Changes.of(Augmentation(rand_augment=0.5))
    assert kept.augment(changes, size=16, num_classes=3) is kept.augment(changes, size=16, num_classes=3)
    assert built == [0.5]


def test_an_unused_weight_has_no_gradient(context: StudyContext) -> None:
    hyperparameters, cut = Hyperparameters(dropout=0.0), context.backbone.cut(1)
    unused = keras.Variable(np.ones((2, 3), np.float32))
    wider = replace(cut, variables=(*cut.variables, (0, unused)))
    form = steps.StepForm.of(hyperparameters, num_open=1, num_classes=10)
    weights = head.initial_weights(hyperparameters, context.backbone.num_features(Features.LAST), 10, seed=1)
    values = steps.values(hyperparameters, context.moments(hyperparameters), np.ones(10))
    lower = cut.below(tf.zeros((2, 16, 16, 3)))
    answers = tf.one_hot([0, 1], 10), tf.constant([0, 1], tf.int64)
    gradients, _ = steps.TracedSteps().slope(wider, form)(
        lower, answers, [tf.constant(w) for w in weights], values, tf.constant([1, 0, 0, 2])
    )
    assert (gradients[-1].numpy() == np.zeros((2, 3))).all()
    assert len(gradients) == len(weights) + len(wider.variables)
