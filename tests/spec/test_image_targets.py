"""What a study file says of images with several labels or a number, and its mistakes."""

from typing import Any

import pytest

from tuner import errors
from tuner.spec import file, space
from tuner.spec.domains import Fixed
from tuner.spec.hyperparameters import Loss, TargetKind
from tuner.spec.study import StudySpec, images_of

LABELS = {"source": "manifest", "path": "/t.csv", "labels": "several"}
NUMBER = {"source": "manifest", "path": "/t.csv", "target": "number"}


def read(data: dict[str, Any], **more: Any) -> StudySpec:
    return images_of(file.parse({"name": "x", "data": data, **more}, "x.yaml"))


def refused(data: dict[str, Any], **more: Any) -> str:
    with pytest.raises(errors.SpecError) as caught:
        read(data, **more)
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "kind", "metric", "loss"),
    [
        ({"source": "digits"}, TargetKind.LABEL, "accuracy", Loss.CROSS_ENTROPY),
        (LABELS, TargetKind.LABELS, "macro_f1", Loss.BINARY_CROSS_ENTROPY),
        (NUMBER, TargetKind.NUMBER, "mae", Loss.MSE),
    ],
)
def test_metric_and_loss_suit_the_target(data: dict[str, Any], kind: TargetKind, metric: str, loss: Loss) -> None:
    spec = read(data)
    assert (spec.data.kind, spec.objective.metric, spec.search.loss) == (kind, metric, Fixed(value=loss))
    assert StudySpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.objective.maximizes is (kind is not TargetKind.NUMBER)


def test_what_a_file_chooses_is_kept() -> None:
    spec = read(NUMBER, objective={"metric": "r2"}, search={"loss": ["mae", "huber"]}, budget={"target": -3})
    assert (spec.objective.metric, spec.objective.maximizes, spec.budget.target) == ("r2", True, -3)
    assert StudySpec.model_validate(spec.model_dump(mode="json")) == spec


def test_a_study_of_one_label_is_stored_as_before() -> None:
    stored = read({"source": "manifest", "path": "/t.csv"}).model_dump(mode="json")
    assert not {"labels", "target", "label_columns"} & stored["data"].keys()
    assert "objective" not in stored


def test_a_number_has_no_label_smoothing_to_search() -> None:
    names = {row.name for row in space.rows(read(NUMBER))}
    assert "loss" in names
    assert "label_smoothing" not in names
    assert "label_smoothing" in {row.name for row in space.rows(read(LABELS))}


@pytest.mark.parametrize(
    ("data", "more", "said"),
    [
        (NUMBER, {"objective": "accuracy"}, "objective.metric is accuracy, but this study has a number an image (data.target: number)"),
        (LABELS, {"objective": "auc"}, "expected macro_f1 or mean_average_precision or exact_match"),
        ({"source": "digits"}, {"objective": "mae"}, "objective.metric is mae, but this study has one label an image"),
        ({"source": "digits"}, {"search": {"loss": "mse"}}, "search.loss is mse, but this study has one label an image"),
        (LABELS, {"search": {"loss": "cross_entropy"}}, "expected binary_cross_entropy or focal"),
        (NUMBER, {"search": {"label_smoothing": 0.1}}, "search.label_smoothing acts on the probabilities of classes"),
        (NUMBER, {"search": {"class_weights": "balanced"}}, "search.class_weights weighs classes, but this study predicts a number"),
        (LABELS, {"search": {"probe_solver": "ridge"}}, "is ridge, which fits one label an image"),
        ({**LABELS, "target": "number"}, {}, "data.labels is several, but data.target is number"),
        ({**NUMBER, "label_columns": ["a", "b"]}, {}, "data.label_columns is ['a', 'b'], a column for each class, but data.labels is one"),
        ({**LABELS, "label_column": "y", "label_columns": ["a"]}, {}, "but data.label_column is 'y'; remove one of the two"),
        ({**LABELS, "label_columns": ["a", "a"]}, {}, "names a column twice"),
        (LABELS, {"budget": {"target": 97}}, "budget.target is 97; expected a number above 0 and at most 1"),
    ],
)
def test_what_does_not_suit_the_target_is_refused(data: dict[str, Any], more: dict[str, Any], said: str) -> None:
    assert said in refused(data, **more)
