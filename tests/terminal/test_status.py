"""The screen at the end of a run."""

from collections.abc import Callable
from pathlib import Path

from rich.console import Console, RenderableType

from tests.results.conftest import make_best, prepared, spec
from tuner.protocol import messages
from tuner.results.best import Best
from tuner.spec.hyperparameters import Augmentation, Hyperparameters
from tuner.spec.objective import ImageObjective
from tuner.spec.study import StudySpec
from tuner.terminal import printing
from tuner.terminal import status as status_screens
from tuner.terminal.status import RunResult

__all__ = ["make_best", "prepared", "spec"]


def text(screen: RenderableType) -> str:
    console = Console(width=80, theme=printing.THEME)
    with console.capture() as capture:
        console.print(screen)
    return capture.get()


def test_only_hyperparameters_that_differ_from_the_rule_are_listed() -> None:
    rule = Hyperparameters()
    winner = Hyperparameters(dropout=0.1, augmentation=Augmentation(zoom=0.2))
    changes = status_screens.changes(rule.model_dump(), winner.model_dump())
    assert changes == [("dropout", 0.3, 0.1), ("augmentation.zoom", 0.0, 0.2)]


def test_the_best_trial_is_compared_with_the_rule_and_measured_on_the_test_split() -> None:
    found = RunResult(trial=7, value=0.96, changes=[("dropout", 0.3, 0.1)], rule_value=0.95, test_accuracy=0.94, num_test=1000)
    shown = text(status_screens.result(found, num_completed=12))
    for words in (
        "0.9600",
        "trial 7",
        "0.9400",
        "1,000 unseen images",
        "0.924",
        "0.953",
        "best of 12 trials, so it is partly luck",
        "gained 0.0100",
        "dropout",
    ):
        assert words in shown


def test_the_screen_says_if_no_trial_was_better_than_the_rule() -> None:
    found = RunResult(trial=0, value=0.96, changes=[], rule_value=0.96, test_accuracy=None, num_test=0)
    shown = text(status_screens.result(found, num_completed=1))
    assert "No trial was better than trial 0" in shown
    assert "luck" not in shown


def test_the_best_trial_is_compared_with_always_the_commonest_class(prepared: messages.Prepared, make_best: Callable[..., Best]) -> None:
    known = prepared.model_copy(update={"commonest": "Bird [adult]", "commonest_validation": 0.99, "commonest_test": 0.98})
    found = make_best(prepared=known)
    assert "always the commonest class, Bird [adult]: accuracy 0.9900 on" in text(status_screens.best_trial(found))
    run = RunResult(
        trial=7, value=0.96, changes=[], rule_value=0.95, test_accuracy=0.94, num_test=1000, baseline=found.baseline
    )  # fmt: skip
    assert "Always the commonest class, Bird [adult]: accuracy 0.9900 on" in text(status_screens.result(run, 12))
    assert "commonest" not in text(status_screens.best_trial(make_best()))  # of a study that an earlier version of tuner started


def test_the_next_commands_come_with_the_database_that_they_need() -> None:
    shown = text(status_screens.next_steps("mine", "mine.yaml", Path("mine-best.yaml"), "", storage="sqlite:///my runs.db"))
    assert "The commands need the option --storage 'sqlite:///my runs.db', or TUNER_STORAGE." in " ".join(shown.split())
    assert "--storage" not in text(status_screens.next_steps("mine", "mine.yaml", None, "the budget is spent"))


def test_a_result_in_another_metric_is_compared_with_what_answers_without_a_look_score(
    spec: StudySpec, prepared: messages.Prepared, make_best: Callable[..., Best]
) -> None:
    known = prepared.model_copy(update={"commonest": "Bird", "commonest_validation": 0.9, "baseline_validation": 0.5})
    of_metric = spec.model_copy(update={"objective": ImageObjective(metric="balanced_accuracy")})
    found = make_best(spec=of_metric, prepared=known)
    assert found.baseline == "always the commonest class, Bird: balanced accuracy 0.5000 on validation"
    assert found.baseline in text(status_screens.best_trial(found))
    losing = RunResult(
        trial=7, value=0.3, changes=[], rule_value=0.4, test_accuracy=0.94, num_test=1000, metric="validation log loss", test_value=0.35,
        maximizes=False, baseline="always the shares of the classes: log loss 0.6931 on validation",
    )  # fmt: skip
    shown = " ".join(text(status_screens.result(losing, 12)).split())
    for words in (
        "0.3000 validation log loss, trial 7",
        "0.3500 log loss on 1,000 unseen examples; accuracy 0.9400",
        "Always the shares of the classes: log loss 0.6931 on validation.",
        "Expect the test value.",
        "gained 0.1000",
    ):
        assert words in shown
