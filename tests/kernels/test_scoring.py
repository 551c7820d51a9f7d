"""Metrics of image classifiers, counted by hand and compared with scikit-learn."""

import math

import numpy as np
import pytest
from sklearn import metrics

from tuner.kernels import scoring
from tuner.spec.objective import ImageMetric


def answers(*predicted: int, num_classes: int = 3) -> np.ndarray:
    """Return logits whose answers are these classes."""
    return np.eye(num_classes, dtype=np.float32)[list(predicted)]


#: three images of class 0, two of class 1, one of class 2; two, one and none of them are right
LABELS = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = answers(0, 0, 1, 1, 0, 0)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("accuracy", 3 / 6),
        ("balanced_accuracy", (2 / 3 + 1 / 2 + 0) / 3),
        # F1 is twice the right ones over the true and the predicted ones: 4/7, 2/4 and 0/1
        ("macro_f1", (4 / 7 + 2 / 4 + 0) / 3),
    ],
)
def test_metrics_of_answers_are_counted_by_hand(metric: ImageMetric, expected: float) -> None:
    assert scoring.value(metric, PREDICTED, LABELS) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("balanced_accuracy", (2 / 3 + 1 / 2 + 0) / 3), ("macro_f1", (4 / 7 + 2 / 4 + 0) / 3), ("accuracy", 3 / 6)],
)
def test_a_class_without_images_is_left_out_of_a_mean(metric: ImageMetric, expected: float) -> None:
    wider = np.concatenate([PREDICTED, np.zeros((6, 2), np.float32)], 1)
    assert scoring.value(metric, wider, LABELS) == pytest.approx(expected)


def test_an_image_that_is_taken_for_a_class_without_images_is_a_miss_of_its_own_class() -> None:
    predicted = answers(0, 3, num_classes=4)
    assert scoring.value("balanced_accuracy", predicted, np.array([0, 1])) == 0.5
    assert scoring.value("macro_f1", predicted, np.array([0, 1])) == 0.5
    assert scoring.value("macro_f1", predicted, np.array([0, 0])) == pytest.approx(2 / 3)


def test_the_area_under_the_curve_counts_pairs_and_half_of_ties() -> None:
    # of class 1 against class 0: 2 > 1, 2 = 2, 0 < 1, 0 < 2, that is 1.5 of 4 pairs; the other class has the same pairs
    logits = np.array([[0, 1], [0, 2], [0, 2], [0, 0]], np.float32)
    assert scoring.value("auc", logits, np.array([0, 0, 1, 1])) == pytest.approx(1.5 / 4)
    assert scoring.value("auc", np.zeros((4, 2), np.float32), np.array([0, 0, 1, 1])) == 0.5


def test_the_area_under_the_curve_is_the_mean_over_the_classes_that_occur() -> None:
    # class 2 does not occur; class 0 and class 1 are told apart without a mistake
    logits = np.array([[3, 0, 9], [2, 1, 0], [0, 4, 0]], np.float32)
    assert scoring.value("auc", logits, np.array([0, 0, 1])) == pytest.approx((0.5 + 1) / 2)


def test_probabilities_that_are_rounded_to_one_are_still_in_order() -> None:
    logits = np.array([[900, 0], [400, 0], [0, 500], [0, 60_000]], np.float32)
    assert scoring.value("auc", logits, np.array([0, 1, 1, 1])) == 1.0


def test_a_split_with_one_class_has_no_area_under_the_curve() -> None:
    assert math.isnan(scoring.value("auc", PREDICTED, np.zeros(6, np.int64)))


def test_the_log_loss_is_the_mean_cross_entropy() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])).astype(np.float32)
    assert scoring.value("log_loss", logits, np.array([0, 0])) == pytest.approx(-(math.log(0.5) + math.log(0.1)) / 2, rel=1e-6)
    assert scoring.value("log_loss", np.array([[0, 4_000]], np.float32), np.array([0])) == 4_000


def test_one_of_the_five_first_answers_must_be_right_and_the_first_of_equals_comes_first() -> None:
    logits = np.array([[6, 5, 4, 3, 2, 1], [1, 1, 1, 1, 1, 1]], np.float32)
    for label, expected in enumerate([1, 1, 1, 1, 1, 0]):
        assert scoring.value("top_5_accuracy", logits, np.array([label, label])) == expected


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_metrics_are_those_of_scikit_learn(num_classes: int) -> None:
    random = np.random.default_rng(num_classes)
    logits = random.normal(0, 2, (60, num_classes)).astype(np.float32)
    labels = random.integers(0, num_classes, 60)
    given = np.exp(logits.astype(np.float64))
    given /= given.sum(1, keepdims=True)
    expected = {
        "accuracy": metrics.accuracy_score(labels, logits.argmax(1)),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, logits.argmax(1)),
        "macro_f1": metrics.f1_score(labels, logits.argmax(1), average="macro"),
        "log_loss": metrics.log_loss(labels, given),
        "auc": metrics.roc_auc_score(labels, given if num_classes > 2 else given[:, 1], multi_class="ovr"),
    }
    if num_classes > 5:
        expected["top_5_accuracy"] = metrics.top_k_accuracy_score(labels, given, k=5)
    assert {metric: scoring.value(metric, logits, labels) for metric in expected} == pytest.approx(expected)  # type: ignore[arg-type]
    assert scoring.usual(logits, labels) == pytest.approx({name: value for name, value in expected.items() if name != "auc"})


def test_logits_that_are_not_finite_give_no_probabilities_and_never_a_right_answer() -> None:
    diverged, labels = np.full((4, 7), np.nan, np.float32), np.array([0, 1, 2, 6])
    assert math.isnan(scoring.value("auc", diverged, labels))
    assert math.isnan(scoring.value("log_loss", diverged, labels))
    assert scoring.value("top_5_accuracy", diverged, labels) == 0


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("accuracy", 2 / 5),
        ("balanced_accuracy", 1 / 3),
        ("macro_f1", (4 / 7) / 3),
        ("auc", 0.5),
        # six, three and one of ten training images
        ("log_loss", -(2 * math.log(0.6) + 2 * math.log(0.3) + math.log(0.1)) / 5),
        ("top_5_accuracy", 1.0),
    ],
)
def test_a_model_that_looks_at_no_image_answers_with_the_shares_of_the_classes(metric: ImageMetric, expected: float) -> None:
    train = np.repeat([0, 1, 2], [6, 3, 1])
    assert scoring.constant(metric, train, np.array([0, 1, 0, 1, 2]), 3) == pytest.approx(expected)


def test_a_class_without_training_images_counts_as_half_an_image() -> None:
    assert scoring.constant("log_loss", np.array([0] * 10), np.array([0, 1]), 2) == pytest.approx(
        -(math.log(10 / 10.5) + math.log(0.5 / 10.5)) / 2
    )


@pytest.mark.parametrize(("labels", "expected"), [([0, 1] * 50, 100), ([0] * 90 + [1] * 10, 36), ([2] * 7, 7), ([], 0)])
def test_a_mean_over_classes_is_as_certain_as_the_accuracy_on_fewer_images(labels: list[int], expected: float) -> None:
    # of 90 and 10 images: 2 x 2 / (1 / 90 + 1 / 10)
    assert scoring.weight(np.array(labels, np.int64)) == pytest.approx(expected)
