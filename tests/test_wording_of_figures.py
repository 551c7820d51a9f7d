"""Wording: durations, figures and counts as short text."""

import math
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


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "–"),
        (0.93, "0.9300"),
        (1, "1.0000"),
        (0.0, "0.0000"),
        (-0.5, "-0.5000"),
        (0.00523456, "0.005235"),
        (1e-7, "1e-7"),
        (-1.23456e-12, "-1.235e-12"),
        (1.25, "1.25"),
        (1234.56, "1234.6"),
        (99_999.4, "99999"),
        (99_999.6, "100,000"),
        (1_234_567.8, "1,234,568"),
        (2.5e15, "2.5e15"),
        (1e308, "1e308"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "not a number"),
    ],
)
def test_the_value_of_any_metric_is_readable(value: float | None, said: str) -> None:
    assert wording.figure(value) == said


@pytest.mark.parametrize(
    ("mean", "spread", "said"),
    [
        (0.93, 0.00421, "0.9300 ± 0.0042"),
        (0.93, 0.00001, "0.9300 ± 1e-5"),
        (2e-7, 1.4e-8, "2e-7 ± 1.4e-8"),
        (2.3, None, "2.3"),
    ],
)
def test_a_mean_is_shown_with_its_spread(mean: float, spread: float | None, said: str) -> None:
    assert wording.with_spread(mean, spread) == said
