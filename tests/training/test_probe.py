"""The head alone, on features that are given."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.training.conftest import study
from tuner.hyperparameters import Hyperparameters, Loss
from tuner.training import bench as benches
from tuner.training import head, probe

GOOD = {"probe_learning_rate": 3e-2, "batch_size": 20, "dropout": 0.0}


def train(bench: benches.Bench, *, epochs: int = 3, seed: int = 1, **given: Any) -> list[probe.Measured]:
    hyperparameters = Hyperparameters.model_validate(GOOD | given)
    top = head.build(hyperparameters, bench.moments, bench.num_classes, seed=seed)
    longer = replace(bench, study=study(training={"probe_epochs": epochs, "epochs": 0}))
    return list(probe.train(longer, top, hyperparameters, seed=seed))


def test_the_head_learns_and_the_backbone_stays_as_it_is(bench: benches.Bench) -> None:
    before = [variable.numpy() for variable in bench.backbone.network.variables]
    epochs = train(bench, epochs=15)
    assert len(epochs) == 15
    assert epochs[-1].loss < epochs[0].loss / 2
    assert epochs[-1].accuracy > 0.8
    assert epochs[-1].validation.accuracy > 0.4
    assert all((variable.numpy() == value).all() for variable, value in zip(bench.backbone.network.variables, before, strict=True))


def test_the_rate_falls_to_nothing(bench: benches.Bench) -> None:
    rates = [epoch.learning_rate for epoch in train(bench, epochs=6)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 3e-2 / 100


@pytest.mark.parametrize("loss", Loss)
def test_every_loss_is_minimized(bench: benches.Bench, loss: Loss) -> None:
    epochs = train(bench, epochs=5, loss=loss)
    assert epochs[-1].loss < epochs[0].loss


@pytest.mark.parametrize("batch_size", [1, 7, 100, 4096])
def test_any_batch_size_will_do(bench: benches.Bench, batch_size: int) -> None:
    [epoch] = train(bench, epochs=1, batch_size=batch_size)
    assert np.isfinite(epoch.loss)


def test_the_confusion_counts_every_validation_image(bench: benches.Bench) -> None:
    [epoch] = train(bench, epochs=1, head_units=(16,))
    assert np.sum(epoch.validation.confusion) == 60
