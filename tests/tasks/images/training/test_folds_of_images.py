"""Folds of images: a trial trains once for each fold, and its value is the mean."""

import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.keras_studies import study
from tests.tasks.images.training.test_trial import PLAIN, RICH, Control, after, order, run
from tuner import machine
from tuner.kernels import head
from tuner.protocol import messages
from tuner.protocol.messages import Ending, Stage
from tuner.spec.hyperparameters import ProbeSolver
from tuner.tasks.images.training import features, prepared, study_context, views
from tuner.tasks.images.training.study_context import StudyContext

#: the log loss differs between any two trainings
FOLDS: dict[str, Any] = {"validation": {"folds": 3}, "objective": "log_loss"}


@pytest.fixture(scope="module")
def _divided(cache: Path) -> StudyContext:
    return study_context.prepare(study(**FOLDS), cache=cache)


@pytest.fixture
def divided(_divided: StudyContext) -> StudyContext:
    """The small study with three folds of its 160 training and validation images."""
    _divided.restore()
    return _divided


@pytest.fixture(scope="module")
def whole(_divided: StudyContext, tmp_path_factory: pytest.TempPathFactory) -> tuple[messages.Finished, Control]:
    """A trial of three folds without interruptions."""
    return run(_divided, order(tmp_path_factory.mktemp("whole"), RICH))


def test_each_image_validates_once(divided: StudyContext) -> None:
    assert divided.data.folds is not None
    seen = np.zeros(160, np.int64)
    for number in range(3):
        fold = divided.of_fold(number)
        rows = np.flatnonzero(divided.data.folds == number)
        seen[rows] += 1
        assert len(fold.data.train.labels) + len(fold.data.validation.labels) == 160
        assert np.array_equal(fold.data.validation.labels, divided.data.train.labels[rows])
        assert np.array_equal(fold.data.validation.images[:], divided.data.train.images[:][rows])
    assert (seen == 1).all()


def test_folds_share_features_and_have_moments_of_their_own(divided: StudyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[str] = []

    def compute(*_: Any) -> Iterator[Any]:
        computed.append("features")
        raise AssertionError("the features were computed before")

    monkeypatch.setattr(features, "compute", compute)
    assert divided.data.folds is not None
    for number in range(3):
        fold = divided.of_fold(number)
        rows = np.flatnonzero(divided.data.folds != number)
        stored = np.asarray(divided.store._read_vectors("train", views.ORIGINAL), np.float32)[rows]
        mean, _ = head.measure_moments(stored)
        assert np.allclose(fold.store.moments[0], mean)
        assert fold.features("train", (views.ORIGINAL,)).shape[:2] == (1, len(rows))
        assert fold.features("validation", (views.ORIGINAL,)).shape[:2] == (1, 160 - len(rows))
    assert computed == []


def test_the_value_is_the_mean_over_the_folds_each_as_if_it_were_alone(
    divided: StudyContext, tmp_path: Path, whole: tuple[messages.Finished, Control]
) -> None:
    finished, control = whole
    values, matrices = [], []
    for number in range(3):
        divided.restore()
        fold = divided.of_fold(number)
        alone = replace(fold, study=study(objective="log_loss"), data=replace(fold.data, folds=None))
        one, _ = run(alone, order(tmp_path / f"{number}", RICH, seed=7 + number * 7919))
        assert one.value is not None
        values.append(one.value)
        matrices.append(one.confusion)
    assert len(set(values)) > 1
    assert finished.attributes["folds"] == values
    assert finished.attributes["standard_deviation"] == statistics.stdev(values)
    assert len(finished.attributes["best_epochs"]) == 3
    assert finished.value == statistics.fmean(values) == control.curve[-1].measured
    assert (finished.weights, finished.logits, finished.best_step) == (None, None, None)
    assert np.array_equal(finished.confusion, np.sum(matrices, 0))
    # each image counts once
    assert np.sum(finished.confusion, 1).tolist() == np.bincount(divided.data.train.labels).tolist()


def test_an_epoch_has_the_mean_over_the_folds_so_far(whole: tuple[messages.Finished, Control]) -> None:
    finished, control = whole
    tuned = [epoch for epoch in control.curve if epoch.stage is Stage.FINE_TUNE]
    assert [epoch.step for epoch in tuned] == [4, 5, 6, 7, 8, 9]
    first, second, _ = finished.attributes["folds"]
    assert tuned[1].measured == first
    assert tuned[3].measured == statistics.fmean([first, second])


@pytest.mark.parametrize(("count", "looks"), [(1, 0), (2, 2), (3, 0), (3, 4), (5, 2)])
def test_a_suspended_trial_resumes_in_its_fold_with_the_same_result(
    divided: StudyContext, tmp_path: Path, whole: tuple[messages.Finished, Control], count: int, looks: int
) -> None:
    wanted = order(tmp_path, RICH)
    suspended, _ = run(divided, wanted, after(count, messages.Suspend(), stage=Stage.FINE_TUNE, looks=looks))
    assert suspended.ending is Ending.SUSPENDED
    resumed, second = run(divided, wanted)
    (told,) = (message for message in second.told if isinstance(message, messages.Resumed))
    assert [epoch.model_copy(update={"seconds": 0.0}) for epoch in told.curve] + second.curve == whole[1].curve
    found, expected = ((one.value, one.attributes, one.metrics, one.confusion) for one in (resumed, whole[0]))
    assert found == expected


def test_a_trial_that_is_stopped_has_the_mean_so_far(divided: StudyContext, tmp_path: Path) -> None:
    stopped, control = run(divided, order(tmp_path, PLAIN), after(3, messages.Stop(), stage=Stage.FINE_TUNE))
    assert stopped.ending is Ending.STOPPED
    assert stopped.value == control.curve[-1].measured
    assert (stopped.attributes, stopped.confusion) == ({}, ())


def test_trials_share_the_exact_probes_of_each_fold(divided: StudyContext, tmp_path: Path) -> None:
    fresh = replace(divided, solved={})
    wanted = PLAIN.model_copy(update={"unfreeze": 0.0, "probe_solver": ProbeSolver.LBFGS})
    one, _ = run(fresh, order(tmp_path / "one", wanted))
    assert len(fresh.solved) == 3
    other, _ = run(fresh, order(tmp_path / "other", wanted, seed=8))
    assert len(fresh.solved) == 3
    assert one.attributes == other.attributes
    assert len(set(one.attributes["folds"])) > 1


def test_the_first_trainer_records_the_usual_splits(divided: StudyContext, context: StudyContext, cache: Path) -> None:
    ready = prepared.prepare(study(**FOLDS), cache=cache, share=machine.TrainerShare(threads=1))
    found = ready.describe(seconds=0.0)
    assert (found.num_train, found.num_validation, found.num_test) == (100, 60, 50)
    assert (found.fingerprint, found.splits) == (context.data.fingerprint, context.data.splits)
    assert divided.identity != context.identity
