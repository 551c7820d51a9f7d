"""What the trials of one study share."""

import dataclasses
from pathlib import Path

import numpy as np

from tests.training.conftest import study
from tuner.training import bench as benches
from tuner.training import features


def test_the_features_are_those_of_the_training_and_validation_images(bench: benches.Bench) -> None:
    assert (bench.train_features.numpy() == features.compute(bench.backbone, bench.data.train.images)).all()
    assert (bench.validation_features.numpy() == features.compute(bench.backbone, bench.data.validation.images)).all()
    np.testing.assert_allclose(bench.moments[0], bench.train_features.numpy().mean(0), rtol=1e-5)
    np.testing.assert_allclose(bench.moments[1], bench.train_features.numpy().var(0), rtol=1e-5)
    assert bench.num_classes == 10


def test_an_identity_is_of_its_images_its_network_and_its_road(bench: benches.Bench) -> None:
    other_road = bench.study.training.model_copy(update={"epochs": 9})
    others = [
        dataclasses.replace(bench, network="other weights in the same file"),
        dataclasses.replace(bench, data=dataclasses.replace(bench.data, splits="other splits")),
        dataclasses.replace(bench, study=bench.study.model_copy(update={"training": other_road})),
    ]
    assert len({bench.identity, *(other.identity for other in others)}) == 4
    assert bench.identity == dataclasses.replace(bench).identity


def test_restoring_brings_every_weight_back(bench: benches.Bench) -> None:
    before = [variable.numpy() for variable in bench.backbone.network.variables]
    for variable in bench.backbone.network.variables:
        variable.assign(variable + 1)
    bench.restore()
    assert all((variable.numpy() == value).all() for variable, value in zip(bench.backbone.network.variables, before, strict=True))


def test_a_study_of_another_length_has_its_own_epochs(bench: benches.Bench, cache: Path) -> None:
    longer = benches.prepare(study(training={"epochs": 7}), cache=cache)
    assert (bench.epochs, longer.epochs) == (2, 7)
