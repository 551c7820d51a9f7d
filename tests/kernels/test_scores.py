"""Accuracy, loss and confusion of known logits."""

import numpy as np
import pytest

from tuner.kernels import losses
from tuner.spec.hyperparameters import Hyperparameters

LOGITS = np.array([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 2.0, 0.0], [2.0, 0.0, 0.0]], np.float32)
LABELS = np.array([0, 1, 2, 0])


def test_hits_are_on_the_diagonal_of_true_by_predicted() -> None:
    found = losses.score(LOGITS, LABELS, losses.build_validation(Hyperparameters()))
    assert found.accuracy == 0.75
    assert found.confusion == ((2, 0, 0), (0, 1, 0), (0, 1, 0))


def test_the_loss_is_the_mean_over_the_images() -> None:
    found = losses.score(LOGITS, LABELS, losses.build_validation(Hyperparameters()))
    hit, miss = -np.log(np.exp(2) / (np.exp(2) + 2)), -np.log(1 / (np.exp(2) + 2))
    assert found.loss == pytest.approx((3 * hit + miss) / 4, rel=1e-5)
