"""Values and names in the words of a message."""

from typing import Any

import pytest

from tuner import wording


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("x", "'x'"),
        (True, "true"),
        (None, "null"),
        (32.0, "32"),
        (0.1, "0.1"),
        (1e-6, "1e-6"),
        (1.5e-10, "1.5e-10"),
        (0.12345678901, "0.12345678901"),
        (float("inf"), "inf"),
        ([1, "a", None], "[1, 'a', null]"),
        ({"range": [0, 0.5], "off": True}, "{range: [0, 0.5], off: true}"),
        ("x" * 100, "'" + "x" * 58 + "…"),
    ],
)
def test_a_value_is_shown_as_a_study_file_would_have_it(value: Any, shown: str) -> None:
    assert wording.show(value) == shown


@pytest.mark.parametrize(
    ("given", "names", "meant"),
    [
        ("dropuot", ["dropout", "loss"], "dropout"),
        ("CMA_ES", ["cma-es", "tpe"], "cma-es"),
        ("mix up", ["mixup", "zoom"], "mixup"),
        ("learningrate", ["learning_rate", "layer_decay"], "learning_rate"),
        ("xyz", ["dropout", "loss"], None),
        (5, ["dropout"], None),
    ],
)
def test_the_name_that_was_meant_is_found(given: object, names: list[str], meant: str | None) -> None:
    assert wording.nearest(given, names) == meant


def test_of_many_names_the_likest_are_listed() -> None:
    text = wording.known([f"other{number}" for number in range(40)] + ["dropout"], "dropuot")
    assert text.startswith("Known: ")
    assert text.endswith("dropout, …. Did you mean dropout?")
