"""Which probes are promoted to fine-tuning."""

import random
from collections.abc import Callable

import pytest

from tests.studies import by_hand
from tuner.protocol import messages
from tuner.studies import continuation, trials
from tuner.studies.study import Study


def promote_all(values: list[float], share: float) -> list[float]:
    """Return the probes that are promoted when they arrive one after another."""
    earlier: list[float] = []
    promoted: list[float] = []
    for value in values:
        if continuation.earns_fine_tuning(value, earlier=earlier, promoted=promoted, share=share):
            promoted.append(value)
        earlier.append(value)
    return promoted


def test_the_first_probe_is_promoted() -> None:
    assert continuation.earns_fine_tuning(0.1, earlier=[], promoted=[], share=0.25)


def test_a_probe_better_than_all_others_is_promoted_after_any_number_of_promotions() -> None:
    assert continuation.earns_fine_tuning(0.9, earlier=[0.1, 0.2, 0.3, 0.4], promoted=[0.1, 0.2, 0.3, 0.4], share=0.25)


def test_a_probe_below_the_best_share_is_not_promoted() -> None:
    assert not continuation.earns_fine_tuning(0.3, earlier=[0.5, 0.4, 0.2, 0.1], promoted=[0.5], share=0.25)


def test_with_a_share_of_one_every_probe_is_promoted() -> None:
    assert len(promote_all([0.5, 0.4, 0.5, 0.3, 0.2], share=1.0)) == 5


@pytest.mark.parametrize(("share", "num_trials"), [(0.1, 40), (0.1, 100), (0.25, 20), (0.25, 40), (0.25, 100), (0.5, 20), (0.5, 100)])
def test_about_the_share_of_randomly_ordered_probes_is_promoted(share: float, num_trials: int) -> None:
    chance = random.Random(7)
    parts = []
    for _ in range(200):
        values = [chance.random() for _ in range(num_trials)]
        parts.append(len(promote_all(values, share)) / num_trials)
    assert 0.99 * share <= sum(parts) / len(parts) <= 1.5 * share


def test_less_than_twice_the_share_is_promoted_in_a_search_that_improves_steadily() -> None:
    chance = random.Random(7)
    parts = []
    for _ in range(200):
        values = [0.01 * number + chance.gauss(0, 0.1) for number in range(40)]
        parts.append(len(promote_all(values, 0.25)) / 40)
    assert 0.25 <= sum(parts) / len(parts) <= 0.5


def test_among_equal_probes_no_more_than_the_share_is_promoted() -> None:
    assert len(promote_all([0.9] * 40, share=0.25)) == 10


def test_if_half_of_the_probes_are_perfect_no_more_than_the_share_is_promoted() -> None:
    chance = random.Random(7)
    values = [1.0 if chance.random() < 0.5 else 0.5 for _ in range(40)]
    assert 10 <= len(promote_all(values, share=0.25)) <= 12


def test_the_best_probe_is_always_promoted() -> None:
    chance = random.Random(7)
    for _ in range(100):
        values = [chance.random() for _ in range(30)]
        assert max(values) in promote_all(values, share=0.1)


def test_the_best_probes_are_those_of_the_metric_of_the_study(begin: Callable[..., Study]) -> None:
    for metric, expected in (("auc", [True, False, True, False]), ("log_loss", [True, True, False, False])):
        study = begin(name=f"by-{metric}", objective=metric, training=by_hand.SHORT | {"promote": 0.25})
        found = []
        for value in (0.5, 0.4, 0.8, 0.6):
            claimed = by_hand.must_claim(study)
            found.append(trials.promotion(study, claimed, messages.Probed(trial=claimed.number, value=value)).is_promoted)
        assert found == expected
