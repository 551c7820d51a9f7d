"""The objective of a study: its metric and its direction."""

import pytest

from tests.studies import by_hand
from tuner import errors
from tuner.spec import plan
from tuner.spec.objective import ImageObjective


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


def test_a_merit_is_higher_the_better_a_value_is() -> None:
    loss, auc = ImageObjective(metric="log_loss"), ImageObjective(metric="auc")
    assert loss.is_better(0.3, 0.4) and not auc.is_better(0.3, 0.4)
    assert (loss.best([0.3, 0.4]), auc.best([0.3, 0.4])) == (0.3, 0.4)


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
