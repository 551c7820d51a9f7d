"""The choice of the members of an ensemble, on logits by hand."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import databases
from tests.studies import by_hand
from tuner.kernels import scoring
from tuner.results import ensemble, statistics
from tuner.results.ensemble import Candidate, Ensemble
from tuner.spec.objective import ImageMetric, Objective
from tuner.storage import engine as storages
from tuner.studies import study as studies

LABELS = np.arange(100) % 2


def logits(wrong: slice | list[int], *, certain: float = 1.0) -> np.ndarray:
    """Return logits (100, 2) that are wrong for some images."""
    found = certain * (2.0 * np.eye(2)[LABELS] - 1.0)
    found[wrong] *= -1
    return found.astype(np.float32)


def candidate(trial: int, wrong: slice | list[int], *, mirrored: slice | list[int] | None = None) -> Candidate:
    found = logits(wrong)
    value = float((found.argmax(1) == LABELS).mean())
    return Candidate(trial=trial, value=value, logits=found, mirrored=logits(wrong if mirrored is None else mirrored))


def test_every_good_trial_is_a_member_and_their_mistakes_cancel_out() -> None:
    given = [candidate(number, slice(10 * number, 10 * number + 10)) for number in range(3)]
    found = ensemble.choose(given, LABELS)
    assert found is not None
    assert found.trials == (0, 1, 2)
    assert (found.validation_accuracy, found.best_member_accuracy) == (1.0, 0.9)
    assert found.gain == pytest.approx(0.1)
    assert found.confusion == ((50, 0), (0, 50))


def test_a_trial_two_standard_errors_below_the_best_is_no_member() -> None:
    # 0.9 on 100 images has a standard error of 0.03, so 0.85 is a member and 0.83 is not
    given = [candidate(0, slice(0, 10)), candidate(3, slice(10, 20)), candidate(1, slice(20, 35)), candidate(2, slice(40, 57))]
    found = ensemble.choose(given, LABELS)
    assert found is not None
    assert found.trials == (0, 3, 1)


def test_mirror_images_count_if_they_lower_the_cross_entropy() -> None:
    helping = [candidate(0, slice(0, 10), mirrored=[]), candidate(1, slice(10, 20), mirrored=[])]
    harming = [candidate(0, slice(0, 10), mirrored=slice(0, 50)), candidate(1, slice(10, 20), mirrored=slice(0, 50))]
    found = [ensemble.choose(given, LABELS) for given in (helping, harming)]
    assert [one is not None and one.mirrored for one in found] == [True, False]
    always, never = (ensemble.choose(helping, LABELS, mirror=mirror) for mirror in ("always", "never"))
    assert always is not None and always.mirrored and always.num_networks == 4
    assert never is not None and not never.mirrored and never.num_networks == 2


def test_one_trial_with_mirror_images_is_an_ensemble_too() -> None:
    found = ensemble.choose([candidate(7, slice(0, 10), mirrored=[])], LABELS)
    assert found is not None
    assert (found.trials, found.mirrored, found.words) == ((7,), True, "trial 7, with mirror images")


def test_there_is_no_ensemble_if_the_best_trial_alone_is_as_good() -> None:
    assert ensemble.choose([], LABELS) is None
    assert ensemble.choose([candidate(0, slice(0, 10))], LABELS) is None
    twins = [candidate(0, slice(0, 10)), candidate(1, slice(0, 10))]
    assert ensemble.choose(twins, LABELS) is None


def test_the_mean_is_that_of_probabilities_and_not_of_logits() -> None:
    # image 0 is of class 0: one network is certain of class 1, two are nearly certain of class 0
    one, other = np.array([[0.0, 8.0]], np.float32), np.array([[3.0, 0.0]], np.float32)
    given = [Candidate(trial=number, value=0.5, logits=each, mirrored=each) for number, each in enumerate((one, other, other))]
    found = ensemble.of_members(given, np.array([0]), mirrored=False)
    mean = (1 / (1 + np.e**8) + 2 / (1 + np.e**-3)) / 3
    assert found.validation_loss == pytest.approx(-np.log(mean))
    assert found.validation_accuracy == 1.0  # the mean of the logits has class 1


def test_an_ensemble_is_stored_with_its_study_and_an_unknown_one_is_none(tmp_path: Path) -> None:
    storage = storages.open(databases.sqlite(tmp_path))
    study = studies.join(by_hand.spec(name="study"), storage)
    assert ensemble.read(study) is None
    given = Ensemble(trials=(3, 1), mirrored=True, validation_accuracy=0.9, validation_loss=0.3, best_member_accuracy=0.88)
    ensemble.store(study, given)
    assert ensemble.read(study) == given
    ensemble.store(study, None)
    assert ensemble.read(study) is None
    assert ensemble.understood({"trials": "of another program"}) is None


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1", "auc", "log_loss"])
def test_the_members_are_chosen_by_the_metric_of_the_study(metric: ImageMetric) -> None:
    wrong = (slice(0, 10), slice(10, 20), slice(20, 30), slice(30, 90))
    made = [candidate(trial, rows) for trial, rows in enumerate(wrong)]
    given = [replace(one, value=scoring.value(metric, one.logits, LABELS)) for one in made]
    found = ensemble.choose(given, LABELS, metric=metric)
    assert found is not None
    assert (set(found.trials), found.metric) == ({0, 1, 2}, metric)
    assert found.validation_accuracy == statistics.accuracy(np.stack([one.logits for one in given[:3]]), LABELS)
    assert found.gain < 0 if metric == "log_loss" else found.gain > 0
    assert found.value == found.measured
    assert found.is_at_least(given[0].value)
    assert not found.is_at_least(found.measured - 0.01 if metric == "log_loss" else found.measured + 0.01)


def test_the_value_of_an_ensemble_is_that_of_its_mean_probabilities() -> None:
    one, other = np.log([[0.9, 0.1]]).astype(np.float32), np.log([[0.3, 0.7]]).astype(np.float32)
    given = [Candidate(trial=number, value=0.5, logits=each, mirrored=each) for number, each in enumerate((one, other))]
    found = ensemble.of_members(given, np.array([0]), mirrored=False, metric="log_loss")
    assert found.value == pytest.approx(-np.log(0.6), rel=1e-6)
    assert found.best_member_value == pytest.approx(-np.log(0.9), rel=1e-6)
    assert found.gain == pytest.approx(np.log(0.9) - np.log(0.6), rel=1e-6)


def test_an_ensemble_by_accuracy_is_stored_as_earlier_versions_stored_it() -> None:
    given = Ensemble(trials=(3, 1), mirrored=True, validation_accuracy=0.9, validation_loss=0.3, best_member_accuracy=0.88)
    assert not {"metric", "value", "best_member_value", "test_value"} & given.model_dump(mode="json").keys()
    assert given.measured == 0.9
    assert given.gain == pytest.approx(0.02)
    changed = given.model_copy(update={"metric": "macro_f1", "value": 0.8, "best_member_value": 0.7})
    assert Ensemble.model_validate(changed.model_dump(mode="json")) == changed


@pytest.mark.parametrize(
    ("direction", "values", "trials"),
    [
        ("maximize", (0.8, 0.85, 0.83), (5, 2)),
        ("maximize", (0.8, 0.7, 0.83), (5, 2, 9)),
        ("minimize", (0.8, 0.7, 0.6), (5, 2, 9)),
        ("minimize", (0.8, math.nan, 0.7), (5, 2, 9)),
    ],
)
def test_the_mean_of_the_best_few_models_is_chosen_by_its_value(direction: str, values: Any, trials: Any) -> None:
    aim = Objective.model_validate({"metric": "val_x", "direction": direction})
    found = ensemble.choose_means((5, 2, 9), values, 0.8, aim)
    assert (found.trials, found.value, found.best_member_value) == (trials, values[len(trials) - 1], 0.8)
    assert found.is_better(aim, 0.8)
    assert found.value is not None
    assert not found.is_better(aim, found.value)  # a better trial has completed since


def test_a_mean_that_is_no_better_than_the_best_trial_never_wins() -> None:
    aim = Objective.model_validate({"metric": "val_x", "direction": "maximize"})
    for values in ((0.8, 0.8), (0.8, 0.5), (0.8, math.nan)):
        assert not ensemble.choose_means((1, 0), values, 0.8, aim).is_better(aim, 0.8)


def test_a_value_that_predictions_do_not_give_again_is_said() -> None:
    aim = Objective.model_validate({"metric": "val_loss", "direction": "minimize"})
    found = ensemble.choose_means((1, 0), (0.5, 0.4), 0.75, aim)
    assert found.refused.startswith("trial 1 reached 0.7500 in its training, but its predictions alone score 0.5000")
    assert (found.trials, found.is_better(aim, 0.75)) == ((), False)
