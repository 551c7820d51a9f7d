"""What a run says at its end."""

from rich.console import Console, RenderableType

from tuner.spec.hyperparameters import Augmentation, Hyperparameters
from tuner.terminal import printing
from tuner.terminal import status as status_screens
from tuner.terminal.status import Found


def text(screen: RenderableType) -> str:
    console = Console(width=80, theme=printing.THEME)
    with console.capture() as capture:
        console.print(screen)
    return capture.get()


def test_only_what_differs_from_the_rule_is_listed() -> None:
    rule = Hyperparameters()
    winner = Hyperparameters(dropout=0.1, augmentation=Augmentation(zoom=0.2))
    changes = status_screens.differences(rule.model_dump(), winner.model_dump())
    assert changes == [("dropout", 0.3, 0.1), ("augmentation.zoom", 0.0, 0.2)]


def test_the_winner_is_seen_against_the_rule_and_on_the_test_split() -> None:
    found = Found(trial=7, value=0.96, changes=[("dropout", 0.3, 0.1)], rule_value=0.95, test_accuracy=0.94, num_test=1000)
    shown = text(status_screens.found(found, num_completed=12))
    for words in ("0.9600", "trial 7", "0.9400", "1,000 images", "0.924", "0.953", "luckiest of 12", "gained 0.0100", "dropout"):
        assert words in shown


def test_a_rule_that_was_not_beaten_is_said_to_be_so() -> None:
    found = Found(trial=0, value=0.96, changes=[], rule_value=0.96, test_accuracy=None, num_test=0)
    shown = text(status_screens.found(found, num_completed=1))
    assert "was not beaten" in shown
    assert "luckiest" not in shown
