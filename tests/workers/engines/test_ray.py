"""How long someone stays for trials whose workers were lost with their nodes."""

import pytest

from tuner.studies import leases
from tuner.workers.engines.ray import VACANT_SECONDS, LostTrials


@pytest.fixture
def clock() -> list[float]:
    """Its only number is the time."""
    return [100.0]


@pytest.fixture
def vacancies(clock: list[float]) -> LostTrials:
    return LostTrials(lambda: clock[0])


def test_a_trial_is_waited_for_until_its_lease_has_run_out(vacancies: LostTrials, clock: list[float]) -> None:
    vacancies.add(3)
    clock[0] += leases.LEASE_SECONDS
    vacancies.expire()  # the worker asked too early
    assert len(vacancies) == 1
    assert clock[0] < vacancies.all_vacant_at == 100.0 + VACANT_SECONDS


def test_a_trial_that_no_one_wants_when_its_lease_has_run_out_is_not_waited_for(vacancies: LostTrials, clock: list[float]) -> None:
    vacancies.add(3)
    clock[0] = vacancies.all_vacant_at
    vacancies.expire()
    assert len(vacancies) == 0


def test_a_trial_that_was_taken_up_is_not_waited_for(vacancies: LostTrials) -> None:
    vacancies.add(3)
    vacancies.remove(3)
    vacancies.remove(4)  # it was never left
    assert len(vacancies) == 0
    assert vacancies.all_vacant_at == 100.0


def test_of_several_trials_the_last_counts(vacancies: LostTrials, clock: list[float]) -> None:
    vacancies.add(3)
    clock[0] += 10
    vacancies.add(4)
    assert vacancies.all_vacant_at == 110.0 + VACANT_SECONDS
    clock[0] = 100.0 + VACANT_SECONDS
    vacancies.expire()
    assert len(vacancies) == 1
