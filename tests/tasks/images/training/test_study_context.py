"""The context that the trials of a study share."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.keras_studies import study
from tuner.kernels import head
from tuner.machine import TrainerShare
from tuner.spec.hyperparameters import Features, Hyperparameters
from tuner.tasks.images.training import features, steps, study_context, views
from tuner.tasks.images.training.prepared import PreparedImages
from tuner.tasks.images.training.study_context import StudyContext


def test_the_features_of_several_depths_end_with_those_of_the_last_layer(context: StudyContext) -> None:
    backbone, data = context.backbone, context.data
    for split, images in (("train", data.train.images), ("validation", data.validation.images)):
        found = context.features(split, (views.ORIGINAL,)).whole()[0]
        mean, variance = context.moments(Hyperparameters())
        expected = (backbone.features(np.asarray(images, np.float32), Features.LAST) - mean) / np.sqrt(variance)
        np.testing.assert_allclose(found[:, -backbone.num_features(Features.LAST) :], expected, rtol=2e-2, atol=2e-2)
    assert context.num_classes == 10


@pytest.mark.parametrize("kind", Features)
def test_the_moments_are_those_of_the_original_training_images(context: StudyContext, kind: Features) -> None:
    vectors = np.asarray(context.backbone.features(np.asarray(context.data.train.images, np.float32), kind))
    mean, variance = context.moments(Hyperparameters(features=kind))
    assert mean.shape == variance.shape == (context.backbone.num_features(kind),)
    np.testing.assert_allclose(mean, vectors.mean(0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(variance, np.maximum(vectors.var(0), head.SMALLEST_VARIANCE), rtol=2e-2, atol=1e-5)


def test_a_floor_acts_on_the_probe_as_on_the_fine_tuning_and_leaves_trials_without_one_alone(context: StudyContext) -> None:
    given = Hyperparameters(features=Features.SEVERAL, feature_floor=1.0)
    before = context.features("validation", (views.ORIGINAL,)).whole()
    mean, variance = context.moments(given)
    vectors = context.backbone.features(np.asarray(context.data.validation.images, np.float32), Features.SEVERAL)
    found = context.features("validation", (views.ORIGINAL,), floor=1.0).whole()
    np.testing.assert_allclose(found[0], head.standardize(vectors, (mean, variance)), rtol=2e-2, atol=2e-2)
    last = context.moments(Hyperparameters(feature_floor=1.0))[1]
    np.testing.assert_array_equal(last, variance[-len(last) :])
    assert np.abs(found).max() < np.abs(before).max()
    np.testing.assert_array_equal(context.features("validation", (views.ORIGINAL,)).whole(), before)


def test_activations_are_stored_for_a_cut_with_many_layers_below(context: StudyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    cut, longer = context.backbone.cut(1), dataclasses.replace(context, epochs=9)
    assert longer.lower(context.backbone.cut(3), (views.ORIGINAL,)) is None
    monkeypatch.setattr(features, "WORTHWHILE_MULTIPLY_ADDS", 1)
    found = longer.lower(cut, (views.ORIGINAL, views.View(flip_x=True)))
    assert found is not None
    activation, pooled = found.take(np.array([0, 1]), np.array([3, 4]))
    assert activation.shape == (2, *cut.shape)
    assert pooled.shape == (2, cut.num_pooled)
    assert dataclasses.replace(context, epochs=1).lower(cut, (views.ORIGINAL,)) is None


def test_the_part_below_a_cut_is_traced_once_for_cache_and_training(
    context: StudyContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "WORTHWHILE_MULTIPLY_ADDS", 1)
    store = dataclasses.replace(context.store, cache=tmp_path)
    own = dataclasses.replace(context, epochs=9, store=store, traced=steps.TracedSteps())
    cut = own.backbone.cut(1)
    assert own.lower(cut, (views.ORIGINAL,)) is not None
    assert own.traced.num_traced == 1
    own.traced.below(cut, size=own.backbone.size)(tf.zeros((1, 16, 16, 3)))
    assert own.traced.num_traced == 1


def test_the_identity_depends_on_images_network_and_training_settings(context: StudyContext) -> None:
    other_training = context.study.training.model_copy(update={"epochs": 9})
    others = [
        dataclasses.replace(context, network="other weights in the same file"),
        dataclasses.replace(context, data=dataclasses.replace(context.data, splits="other splits")),
        dataclasses.replace(context, study=context.study.model_copy(update={"training": other_training})),
    ]
    assert len({context.identity, *(other.identity for other in others)}) == 4
    assert context.identity == dataclasses.replace(context).identity


def test_restoring_resets_every_weight(context: StudyContext) -> None:
    before = [variable.numpy() for variable in context.backbone.network.variables]
    for variable in context.backbone.network.variables:
        variable.assign(variable + 1)
    context.restore()
    assert all((variable.numpy() == value).all() for variable, value in zip(context.backbone.network.variables, before, strict=True))


def test_a_study_has_its_own_number_of_epochs(context: StudyContext, cache: Path) -> None:
    longer = study_context.prepare(study(training={"epochs": 7}), cache=cache)
    assert (context.epochs, longer.epochs) == (2, 7)


def test_a_prepared_study_knows_what_the_commonest_class_scores(context: StudyContext, cache: Path) -> None:
    found = PreparedImages(study(), cache=cache, share=TrainerShare(threads=0)).describe(seconds=1.0)
    commonest = np.bincount(context.data.train.labels).argmax()
    assert found.commonest == context.data.classes[commonest]
    assert found.commonest_validation == np.mean(context.data.validation.labels == commonest)
    assert found.commonest_test == np.mean(context.data.test.labels == commonest)
