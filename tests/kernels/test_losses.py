"""Losses that trials minimize, and scores on a split."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tuner.kernels import losses
from tuner.spec.hyperparameters import LOSSES, ClassWeights, Hyperparameters, Loss, TargetKind

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(0, 3, (50, 7)).astype(np.float32)
LABELS = np.eye(7, dtype=np.float32)[RANDOM.integers(0, 7, 50)]
#: as MixUp makes them
SOFT = (0.7 * LABELS + 0.3 * LABELS[::-1]).astype(np.float32)
EQUAL = np.ones(7)
#: labels, logits -> loss of each image, as Keras has it; of a binary loss Keras takes the mean over the classes, we the sum
KERAS = {
    Loss.CROSS_ENTROPY: keras.losses.CategoricalCrossentropy(from_logits=True, reduction=None),
    Loss.FOCAL: keras.losses.CategoricalFocalCrossentropy(from_logits=True, alpha=1.0, gamma=2.0, reduction=None),
    Loss.BINARY_CROSS_ENTROPY: lambda y, z: 7 * keras.losses.BinaryCrossentropy(from_logits=True, reduction=None)(y, z),
}


def build(given: Hyperparameters, class_weights: np.ndarray) -> losses.LossFunction:
    """The loss that a trial minimizes."""
    smoothing, weights = losses.smoothing_of(given), tf.constant(class_weights, tf.float32)
    return losses.training_loss(given.loss, smoothing=smoothing, gamma=given.focal_gamma, class_weights=weights)


@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("kind", LOSSES[TargetKind.LABEL])
def test_a_loss_is_that_of_keras(kind: Loss, labels: np.ndarray) -> None:
    given = Hyperparameters(loss=kind)
    for loss in (build(given, EQUAL), losses.validation_loss(given)):
        np.testing.assert_allclose(loss(labels, LOGITS), KERAS[kind](labels, LOGITS), rtol=1e-4, atol=1e-5)


def test_label_smoothing_is_that_of_keras() -> None:
    loss = build(Hyperparameters(label_smoothing=0.2), EQUAL)
    reference = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2, reduction=None)
    np.testing.assert_allclose(loss(LABELS, LOGITS), reference(LABELS, LOGITS), rtol=1e-5)


def test_the_reported_loss_has_neither_smoothing_nor_class_weights() -> None:
    smoothed = losses.validation_loss(Hyperparameters(label_smoothing=0.2, class_weights=ClassWeights.BALANCED))
    np.testing.assert_allclose(smoothed(LABELS, LOGITS), KERAS[Loss.CROSS_ENTROPY](LABELS, LOGITS), rtol=1e-5)


def test_the_focal_loss_without_focus_is_cross_entropy() -> None:
    focal = build(Hyperparameters(loss=Loss.FOCAL, focal_gamma=0.0), EQUAL)
    np.testing.assert_allclose(focal(LABELS, LOGITS), KERAS[Loss.CROSS_ENTROPY](LABELS, LOGITS), rtol=1e-5)


def test_the_loss_of_an_image_is_multiplied_by_its_class_weight() -> None:
    weights = np.arange(1.0, 8.0)
    weighted = build(Hyperparameters(), weights)(LABELS, LOGITS)
    np.testing.assert_allclose(weighted, weights[LABELS.argmax(1)] * KERAS[Loss.CROSS_ENTROPY](LABELS, LOGITS), rtol=1e-5)


def test_balanced_class_weights_are_inverse_to_class_size_with_mean_one() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [2])
    weights = losses.class_weights(labels, 3, ClassWeights.BALANCED)
    np.testing.assert_allclose(weights * [6, 3, 1], [10 / 3] * 3)
    assert weights[labels].mean() == pytest.approx(1.0)
    assert losses.class_weights(labels, 3, ClassWeights.NONE).tolist() == [1, 1, 1]


@pytest.mark.parametrize("kind", LOSSES[TargetKind.LABEL])
def test_a_confident_wrong_prediction_has_a_finite_loss_and_gradient(kind: Loss) -> None:
    logits = tf.Variable(np.array([[80.0, -80.0, 0.0], [-80.0, 80.0, 0.0]], np.float32))
    labels = np.eye(3, dtype=np.float32)[[0, 0]]
    with tf.GradientTape() as tape:
        loss = build(Hyperparameters(loss=kind, label_smoothing=0.1), np.ones(3))(labels, logits)
    assert np.isfinite(loss).all()
    assert np.isfinite(tape.gradient(loss, logits)).all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 5.0])
def test_the_focal_loss_of_a_confident_right_prediction_has_a_finite_gradient(gamma: float) -> None:
    logits = tf.Variable(np.array([[200.0, 0.0, 0.0]], np.float32))
    with tf.GradientTape() as tape:
        loss = build(Hyperparameters(loss=Loss.FOCAL, focal_gamma=gamma), np.ones(3))(np.eye(3, dtype=np.float32)[[0]], logits)
    assert np.isfinite(tape.gradient(loss, logits)).all()


@pytest.mark.parametrize("kind", LOSSES[TargetKind.LABEL])
def test_losses_of_heads_side_by_side_equal_those_of_each_alone(kind: Loss) -> None:
    values = {"smoothing": tf.constant(0.1), "gamma": tf.constant(1.5), "class_weights": tf.range(1.0, 8.0)}
    loss = losses.training_loss(kind, **values)
    together = loss(LABELS, np.stack([LOGITS, -LOGITS]))
    np.testing.assert_allclose(together, np.stack([loss(LABELS, LOGITS), loss(LABELS, -LOGITS)]), rtol=1e-5, atol=1e-6)
    reported = losses.validation_loss(Hyperparameters(loss=kind, focal_gamma=1.5))
    np.testing.assert_allclose(reported(LABELS, np.stack([LOGITS] * 2))[1], reported(LABELS, LOGITS), rtol=1e-5, atol=1e-6)


SCORED_LOGITS = np.array([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 2.0, 0.0], [2.0, 0.0, 0.0]], np.float32)
SCORED_LABELS = np.array([0, 1, 2, 0])


def test_hits_are_on_the_diagonal_of_true_by_predicted() -> None:
    found = losses.score(SCORED_LOGITS, SCORED_LABELS, losses.validation_loss(Hyperparameters()))
    assert found.accuracy == 0.75
    assert found.confusion == ((2, 0, 0), (0, 1, 0), (0, 1, 0))


def test_the_loss_is_the_mean_over_the_images() -> None:
    found = losses.score(SCORED_LOGITS, SCORED_LABELS, losses.validation_loss(Hyperparameters()))
    hit, miss = -np.log(np.exp(2) / (np.exp(2) + 2)), -np.log(1 / (np.exp(2) + 2))
    assert found.loss == pytest.approx((3 * hit + miss) / 4, rel=1e-5)


def test_many_classes_have_no_confusion_matrix() -> None:
    logits = np.eye(1001, dtype=np.float32)
    found = losses.score(logits, np.arange(1001), losses.validation_loss(Hyperparameters()))
    assert (found.accuracy, found.confusion) == (1.0, ())
    assert losses.score(logits[:2, :2], np.arange(2), losses.validation_loss(Hyperparameters())).confusion == ((1, 0), (0, 1))
