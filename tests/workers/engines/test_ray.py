"""The lost trials of the Ray engine."""

import pytest

from tuner.studies import leases
from tuner.studies.leases import LeaseTiming
from tuner.workers.engines.ray import LostTrials


@pytest.fixture
def clock() -> list[float]:
    """A clock that tests set."""
    return [100.0]


@pytest.fixture
def vacancies(clock: list[float]) -> LostTrials:
    return LostTrials(lambda: clock[0], timing=LeaseTiming())


def test_the_engine_waits_for_a_lost_trial_until_its_lease_expires(vacancies: LostTrials, clock: list[float]) -> None:
    vacancies.add(3)
    clock[0] += leases.LEASE_SECONDS
    vacancies.expire()  # the leases still last
    assert len(vacancies) == 1
    assert clock[0] < vacancies.all_vacant_at == 165.0


def test_the_engine_does_not_wait_for_a_vacant_trial_that_nobody_claims(vacancies: LostTrials, clock: list[float]) -> None:
    vacancies.add(3)
    clock[0] = vacancies.all_vacant_at
    vacancies.expire()
    assert len(vacancies) == 0


def test_the_engine_does_not_wait_for_a_resumed_trial(vacancies: LostTrials) -> None:
    vacancies.add(3)
    vacancies.remove(3)
    vacancies.remove(4)  # it was never added
    assert len(vacancies) == 0
    assert vacancies.all_vacant_at == 100.0


def test_the_engine_waits_for_the_last_of_several_lost_trials(vacancies: LostTrials, clock: list[float]) -> None:
    vacancies.add(3)
    clock[0] += 10
    vacancies.add(4)
    assert vacancies.all_vacant_at == 175.0
    clock[0] = 165.0
    vacancies.expire()
    assert len(vacancies) == 1


def test_shorter_leases_shorten_the_wait(clock: list[float]) -> None:
    vacancies = LostTrials(lambda: clock[0], timing=LeaseTiming(lease_seconds=12.0))
    vacancies.add(3)
    assert vacancies.all_vacant_at == 113.0
