"""Wording: durations, accuracies and counts as short text."""

import socket

import pytest

from tuner import wording
from tuner.spec.hyperparameters import Optimizer


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (125, "2 min 5 s"),
        (1500, "25 min"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (86400 * 3 + 3600 * 4, "3 d 4 h"),
    ],
)
def test_a_duration_is_shown_in_its_two_largest_units(seconds: float, said: str) -> None:
    assert wording.duration(seconds) == said


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [(1, "trial", "1 trial"), (2000, "image", "2,000 images"), (2, "class", "2 classes"), (0, "study", "0 studies")],
)
def test_a_count_has_its_plural(number: int, noun: str, said: str) -> None:
    assert wording.count(number, noun) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(True, "yes"), (0.000123456, "0.000123"), ((), "linear"), ((512, 64), "512 → 64"), (Optimizer.SGD, "sgd"), (32, "32")],
)
def test_the_value_of_a_hyperparameter_is_short(value: object, said: str) -> None:
    assert wording.value(value) == said


def test_a_worker_on_this_host_is_shown_without_the_host_name() -> None:
    assert wording.worker(f"{socket.gethostname()}/w1") == "w1"
    assert wording.worker("elsewhere/w1") == "elsewhere/w1"


@pytest.mark.parametrize(("given", "said"), [(6090.4, "6,090"), (100, "100"), (99.94, "99.9"), (0.123456, "0.123"), (0, "0")])
def test_a_rate_is_shown_without_powers_of_ten(given: float, said: str) -> None:
    assert wording.rate(given) == said
