"""A study whose trials choose their backbone and image size, in one trainer."""

import dataclasses
from pathlib import Path

import pytest

from tests.keras_studies import DIGITS, TINY, study
from tests.tasks.images.training.test_trial import PLAIN, Control, order
from tuner import errors
from tuner.kernels import checkpoints
from tuner.machine import TrainerShare
from tuner.protocol import messages
from tuner.spec import study as spec_study
from tuner.spec.hyperparameters import Hyperparameters
from tuner.tasks.images.training import prepared, study_context, training_data
from tuner.tasks.images.training.prepared import PreparedImages

SIZES = (16, 20, 24, 28)
BACKBONES = (TINY["backbone"], "squeezenet1_1")


def chosen(size: int) -> Hyperparameters:
    return PLAIN.model_copy(update={"image_size": size})


@pytest.fixture(scope="module")
def searched() -> spec_study.StudySpec:
    return study(model=TINY | {"image_size": list(SIZES)})


@pytest.fixture
def ready(searched: spec_study.StudySpec, cache: Path) -> PreparedImages:
    return PreparedImages(searched, cache=cache, share=TrainerShare(threads=0))


def test_a_trial_of_a_chosen_size_equals_the_trial_of_a_study_of_that_size(ready: PreparedImages, cache: Path, tmp_path: Path) -> None:
    alone = PreparedImages(study(model=TINY | {"image_size": 20}), cache=cache, share=TrainerShare(threads=0))
    ready.train(order(tmp_path / "before", chosen(24)), Control())
    in_search, by_itself = Control(), Control()
    finished = ready.train(order(tmp_path / "search", chosen(20)), in_search)
    expected = alone.train(order(tmp_path / "alone", PLAIN), by_itself)
    assert in_search.curve == by_itself.curve
    assert finished.value == expected.value
    identity = alone.context.identity
    assert ready.context.identity == identity  # an export of this trial reads its weights as a study of this size does
    weights, others = (checkpoints.read_weights(tmp_path / name / "weights.npz", study=identity) for name in ("search", "alone"))
    assert all((one == other).all() for one, other in zip(weights, others, strict=True))


def test_the_weights_of_a_size_are_scored_at_that_size_only(ready: PreparedImages, tmp_path: Path) -> None:
    finished = ready.train(order(tmp_path, chosen(20)), Control())
    assert finished.weights is not None
    asked = messages.Evaluate(trial=3, hyperparameters=chosen(20), weights=finished.weights)
    ready.train(order(tmp_path / "between", chosen(16)), Control())
    assert ready.evaluate(asked).num_images == DIGITS["test"]
    assert ready.evaluate(asked) == ready.evaluate(asked)
    with pytest.raises(errors.DataError, match="a study with other images or another model"):
        ready.evaluate(asked.model_copy(update={"hyperparameters": chosen(24)}))


def test_a_bounded_number_of_models_is_in_memory(ready: PreparedImages, tmp_path: Path) -> None:
    assert [size for _, size in ready._contexts] == [28]  # of trial 0: the largest
    for size in (16, 20, 28, 24):
        ready.train(order(tmp_path / str(size), chosen(size)), Control())
    assert [size for _, size in ready._contexts] == [20, 28, 24]
    assert len(ready._contexts) == prepared.MAX_CONTEXTS


def test_each_backbone_has_its_own_network_and_preprocessing(cache: Path, tmp_path: Path) -> None:
    searched = study(model={"backbone": list(BACKBONES), "weights": "imagenet", "image_size": 32})
    ready = PreparedImages(searched, cache=cache, share=TrainerShare(threads=0))
    assert ready.context.backbone.network.name != "squeezenet1_1"  # of trial 0: the first
    ready.train(order(tmp_path, PLAIN.model_copy(update={"backbone": "squeezenet1_1"})), Control())
    assert ready.context.backbone.network.name == "squeezenet1_1"
    assert ready.context.study == study(model={"backbone": "squeezenet1_1", "weights": "imagenet", "image_size": 32})


def test_the_worker_hears_of_a_trial_whose_images_are_still_prepared(
    searched: spec_study.StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "_BUSY_SECONDS", -1.0)
    ready = PreparedImages(searched, cache=tmp_path / "cache", share=TrainerShare(threads=0))
    worker = Control()
    ready.train(order(tmp_path, chosen(16)), worker)
    assert worker.told[0] == messages.Busy(trial=3)


def test_images_that_change_while_a_study_runs_are_refused(ready: PreparedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = dataclasses.replace(training_data.load(study(), cache=tmp_path / "cache"), fingerprint="other")
    monkeypatch.setattr(training_data, "load", lambda *_, **__: changed)
    with pytest.raises(errors.DataError, match="the images of the study small changed while it was running"):
        ready.train(order(tmp_path, chosen(16)), Control())


def test_a_network_of_one_model_is_prepared_only_for_a_study_of_one(searched: spec_study.StudySpec, cache: Path) -> None:
    with pytest.raises(AssertionError, match="one backbone and one size"):
        study_context.prepare(searched, cache=cache)
