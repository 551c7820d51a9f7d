"""The metric of a study: its name, its direction, and the better of two values."""

from typing import Any

import pytest

from tests.studies import by_hand
from tuner import errors
from tuner.spec import file as study_file
from tuner.spec import objective, plan
from tuner.spec.objective import Direction

CODE: dict[str, Any] = {"name": "x", "task": "custom", "model": {"build": "a.py:build"}, "data": {"load": "a.py:load"}}


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("accuracy", "maximize"),
        ("val_accuracy", "maximize"),
        ("val_loss", "minimize"),
        ("loss", "minimize"),
        ("val_auc_2", "maximize"),
        ("macro_f1", "maximize"),
        ("val_f1_score", "maximize"),
        ("mean_absolute_error", "minimize"),
        ("val_decoder_loss", "minimize"),
        ("val_RMSE", "minimize"),
        ("r2", "maximize"),
        ("profit", None),
        ("val_loss_of_money", None),
        ("score.py:profit", None),
    ],
)
def test_the_direction_is_known_from_the_last_word(metric: str, direction: str | None) -> None:
    assert objective.known_direction(metric) == (None if direction is None else Direction(direction))


@pytest.mark.parametrize(
    ("metric", "reported", "value"),
    [
        ("val_auc", {"val_auc": 0.5, "auc": 0.7}, 0.5),
        ("val_auc", {"val_auc_2": 0.5, "auc_2": 0.7}, 0.5),
        ("val_auc", {"val_auc_1": 0.5, "val_auc_2": 0.7}, None),
        ("val_auc", {"auc": 0.7}, None),
        ("val_auc_2", {"val_auc": 0.1, "val_auc_2": 0.2}, 0.2),
    ],
)
def test_a_metric_is_found_without_the_number_that_keras_appends(metric: str, reported: dict[str, float], value: float | None) -> None:
    assert objective.find(metric, reported) == value


def test_a_metric_whose_name_tells_nothing_needs_a_direction() -> None:
    with pytest.raises(errors.SpecError, match=r"objective.direction is missing: 'profit' does not say whether higher is better"):
        study_file.parse(CODE | {"objective": {"metric": "profit"}}, "x.yaml")
    spec = study_file.parse(CODE | {"objective": {"metric": "profit", "direction": "maximize"}}, "x.yaml")
    assert spec.objective.maximizes


def test_a_name_alone_is_short_for_the_metric() -> None:
    spec = study_file.parse(CODE | {"objective": "val_loss"}, "x.yaml")
    assert (spec.objective.metric, spec.objective.maximizes) == ("val_loss", False)
    assert study_file.parse({"name": "x", "data": {"source": "digits"}, "objective": "log_loss"}, "x.yaml").objective.maximizes is False


def test_better_follows_the_direction() -> None:
    low = study_file.parse(CODE | {"objective": "val_loss"}, "x.yaml").objective
    assert low.is_better(0.1, than=0.2)
    assert not low.is_better(0.2, than=0.2)
    assert low.best([0.3, 0.1, 0.2]) == 0.1
    assert low.best([]) is None


def test_the_direction_of_a_known_image_metric_is_not_turned() -> None:
    with pytest.raises(errors.SpecError, match="objective.direction is minimize, but accuracy is better the higher; remove it"):
        study_file.parse(
            {"name": "x", "data": {"source": "digits"}, "objective": {"metric": "accuracy", "direction": "minimize"}}, "x.yaml"
        )


@pytest.mark.parametrize("target", [0, 1.5, 95])
def test_a_target_that_no_accuracy_reaches_is_refused_and_one_of_another_metric_is_not(target: float) -> None:
    with pytest.raises(errors.SpecError, match="budget.target is"):
        study_file.parse({"name": "x", "data": {"source": "digits"}, "budget": {"target": target}}, "x.yaml")
    spec = study_file.parse(CODE | {"objective": "val_loss", "budget": {"target": target}}, "x.yaml")
    assert spec.budget.target == target


def test_an_image_study_without_an_objective_is_written_as_before() -> None:
    text = study_file.dump(study_file.parse({"name": "x", "data": {"source": "digits"}}, "x.yaml"))
    assert "task" not in text
    assert "objective" not in text


@pytest.mark.parametrize(
    ("given", "maximizes", "words"),
    [
        ("accuracy", True, "validation accuracy; higher is better"),
        ("macro_f1", True, "validation macro f1; higher is better"),
        ({"metric": "log_loss"}, False, "validation log loss; lower is better"),
        ({"metric": "log_loss", "direction": "minimize"}, False, "validation log loss; lower is better"),
    ],
)
def test_the_direction_of_a_metric_of_images_is_known(given: object, maximizes: bool, words: str) -> None:
    spec = by_hand.spec(objective=given)
    assert spec.objective.maximizes is maximizes
    assert plan.objective(spec) == words


@pytest.mark.parametrize("given", ["f2", {"metric": "log_loss", "direction": "maximize"}, {"metric": "auc", "direction": "minimize"}])
def test_an_unknown_metric_and_a_wrong_direction_are_refused(given: object) -> None:
    with pytest.raises(errors.SpecError):
        by_hand.spec(objective=given)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("accuracy", "always the commonest class, cat: accuracy 0.6000 on validation, 0.5000 on test"),
        ("macro_f1", "always the commonest class, cat: macro f1 0.3000 on validation"),
        ("log_loss", "always the shares of the classes: log loss 0.3000 on validation"),
        ("top_5_accuracy", "always the five commonest classes: top 5 accuracy 0.3000 on validation"),
    ],
)
def test_what_answers_without_a_look_at_the_images_score_is_told_in_the_metric(metric: str, expected: str) -> None:
    known = {"commonest": "cat", "commonest_validation": 0.6, "commonest_test": 0.5, "baseline_validation": 0.3, "baseline_test": None}
    assert plan.commonest_of(known, metric) == expected
    assert plan.commonest_of({"commonest": "cat"}, metric) == plan.commonest_of("of another program", metric) == ""
