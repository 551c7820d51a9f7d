"""Several labels of an image, and numbers: how they are encoded and judged."""

import math

import numpy as np
import pytest
import tensorflow as tf
from sklearn import metrics

from tuner.kernels import losses, targets
from tuner.spec.hyperparameters import LOSSES, ClassWeights, Loss, TargetKind
from tuner.spec.objective import METRICS, ImageMetric

SEVERAL = targets.SeveralLabels()
RANDOM = np.random.default_rng(0)
#: 200 images, the last class without an image
LABELS = (RANDOM.random((200, 5)) < [0.5, 0.2, 0.1, 0.02, 0.0]).astype(np.float32)
#: rounded, so that many are equal
LOGITS = np.round(RANDOM.normal(size=(200, 5)) + 2 * LABELS, 1).astype(np.float32)
NUMBERS = RANDOM.normal(50, 20, 200)


def test_metrics_of_several_labels_are_those_of_scikit_learn() -> None:
    judged, found = SEVERAL.judge(LOGITS, LABELS), targets.probabilities(LOGITS)
    given = targets.is_present(found, [each.threshold for each in judged.by_class])
    assert judged.metrics["macro_f1"] == pytest.approx(metrics.f1_score(LABELS[:, :4], given[:, :4], average="macro"))
    assert judged.metrics["mean_average_precision"] == pytest.approx(metrics.average_precision_score(LABELS[:, :4], found[:, :4]))
    assert judged.metrics["exact_match"] == judged.accuracy == pytest.approx(metrics.accuracy_score(LABELS, given))
    assert [(each.num_images, each.num_given) for each in judged.by_class] == list(
        zip(LABELS.sum(0).astype(int).tolist(), given.sum(0).tolist(), strict=True)
    )


def test_no_threshold_has_a_higher_f1_than_the_chosen_one() -> None:
    found = targets.probabilities(LOGITS)
    limits = targets.best_thresholds(found, LABELS)
    for label in range(4):
        others = [metrics.f1_score(LABELS[:, label], found[:, label] >= limit) for limit in np.unique(found[:, label])]
        assert metrics.f1_score(LABELS[:, label], found[:, label] >= limits[label]) == pytest.approx(max(others))
    assert limits[4] == targets.MIDDLE


def test_given_thresholds_are_used_as_they_are() -> None:
    own, other = SEVERAL.judge(LOGITS, LABELS), SEVERAL.judge(LOGITS, LABELS, thresholds=[0.5] * 5)
    assert [each.threshold for each in other.by_class] == [0.5] * 5
    assert other.metrics["macro_f1"] < own.metrics["macro_f1"]
    assert other.metrics["mean_average_precision"] == own.metrics["mean_average_precision"]


def test_an_image_without_a_label_is_right_if_it_gets_none() -> None:
    judged = SEVERAL.judge(np.array([[-3.0, -3.0], [3.0, -3.0], [3.0, 3.0]]), np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]))
    assert judged.accuracy == 1


def test_outputs_that_are_not_finite_have_no_metric() -> None:
    for target, given in ((SEVERAL, LOGITS * math.nan), (targets.Number(), np.full((3, 1), math.nan))):
        judged = target.judge(given, LABELS if target is SEVERAL else np.ones((3, 1)))
        assert not any(map(math.isfinite, judged.metrics.values()))


def test_metrics_of_numbers_are_those_of_scikit_learn_in_the_units_of_the_user() -> None:
    target = targets.of_training(TargetKind.NUMBER, NUMBERS[:100])
    encoded = target.encode(NUMBERS)
    assert (float(encoded[:100].mean()), float(encoded[:100].std())) == pytest.approx((0, 1), abs=1e-5)
    predicted = encoded + RANDOM.normal(0, 0.5, encoded.shape).astype(np.float32)
    found, real = target.judge(predicted, encoded).metrics, target.outputs(predicted)
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(NUMBERS, real), rel=1e-4)
    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(NUMBERS, real), rel=1e-4)
    assert found["r2"] == pytest.approx(metrics.r2_score(NUMBERS, real), rel=1e-4)
    assert target.decode(encoded).ravel() == pytest.approx(NUMBERS, rel=1e-5)


@pytest.mark.parametrize(("metric", "expected"), [("macro_f1", 0.3), ("mean_average_precision", 0.25), ("exact_match", 0.5)])
def test_a_model_that_looks_at_no_image_answers_the_same_labels(metric: ImageMetric, expected: float) -> None:
    labels = np.array([[0, 0], [0, 0], [1, 0], [0, 1]], np.float32)
    assert SEVERAL.constant(metric, labels, labels, 2) == pytest.approx({"macro_f1": 0.4}.get(metric, expected))
    assert SEVERAL.always(labels, ["scab", "rust"]) == "always the same labels (none for exact matches, all for the others)"


def test_a_model_that_looks_at_no_image_answers_the_mean() -> None:
    target = targets.of_training(TargetKind.NUMBER, np.array([1.0, 2.0, 6.0]))
    train = target.encode(np.array([1.0, 2.0, 6.0]))
    assert target.constant("mae", train, target.encode(np.array([1.0, 7.0])), 1) == pytest.approx(3.0)
    assert target.constant("r2", train, train, 1) == pytest.approx(0, abs=1e-6)
    assert target.always(train, ["age"]) == "always the mean, 3"


@pytest.mark.parametrize("kind", [Loss.BINARY_CROSS_ENTROPY, Loss.FOCAL])
def test_the_loss_of_several_labels_is_that_of_keras_for_each_class(kind: Loss) -> None:
    import keras

    loss = losses.plain_loss(kind, 1.5, TargetKind.LABELS)(tf.constant(LABELS), tf.constant(LOGITS)).numpy()
    own = keras.losses.BinaryCrossentropy(from_logits=True, reduction=None)
    focal = keras.losses.BinaryFocalCrossentropy(gamma=1.5, from_logits=True, reduction=None)
    expected = (focal if kind is Loss.FOCAL else own)(LABELS, LOGITS).numpy() * LABELS.shape[1]
    assert loss == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(("kind", "expected"), [(Loss.MSE, 9.0), (Loss.MAE, 3.0), (Loss.HUBER, 2.5)])
def test_the_loss_of_numbers_counts_their_distance(kind: Loss, expected: float) -> None:
    loss = losses.training_loss(kind, smoothing=0.1, gamma=2.0, class_weights=tf.constant([5.0]), target=TargetKind.NUMBER)
    assert loss(tf.constant([[1.0]]), tf.constant([[4.0]])).numpy().tolist() == [expected]
    assert loss(tf.constant([[1.0]]), tf.constant([[1.0]])).numpy().tolist() == [0.0]


def test_the_weight_of_a_rare_label_is_higher() -> None:
    weights = losses.class_weights(LABELS, 5, ClassWeights.BALANCED)
    assert weights[0] == pytest.approx((200 - LABELS[:, 0].sum()) / LABELS[:, 0].sum())
    assert weights[3] > weights[2] > weights[1] > weights[0]
    assert losses.class_weights(LABELS, 5, ClassWeights.NONE).tolist() == [1.0] * 5


def test_each_target_has_metrics_and_losses_of_its_own() -> None:
    for kind, target in targets.IN_UNITS.items():
        assert target.kind is kind
        labels = {TargetKind.LABEL: np.array([0, 1, 1]), TargetKind.LABELS: LABELS[:3], TargetKind.NUMBER: np.array([[1.0], [2.0], [4.0]])}
        given = np.zeros((3, 1 if kind is TargetKind.NUMBER else 5), np.float32)
        for metric in METRICS[kind][:3]:
            assert math.isfinite(target.value(metric, given, labels[kind]))
        for loss in LOSSES[kind]:
            assert math.isfinite(
                losses.mean(
                    given, labels[kind].astype(np.int64 if kind is TargetKind.LABEL else np.float32), losses.plain_loss(loss, 2.0, kind)
                )
            )
