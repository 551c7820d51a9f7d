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
    vacancies.leave(3)
    clock[0] += leases.LEASE_SECONDS
    vacancies.find_none()  # the worker asked too early
    assert len(vacancies) == 1
    assert clock[0] < vacancies.last_at == 100.0 + VACANT_SECONDS


def test_a_trial_that_no_one_wants_when_its_lease_has_run_out_is_not_waited_for(vacancies: LostTrials, clock: list[float]) -> None:
    vacancies.leave(3)
    clock[0] = vacancies.last_at
    vacancies.find_none()
    assert len(vacancies) == 0


def test_a_trial_that_was_taken_up_is_not_waited_for(vacancies: LostTrials) -> None:
    vacancies.leave(3)
    vacancies.take_up(3)
    vacancies.take_up(4)  # it was never left
    assert len(vacancies) == 0
    assert vacancies.last_at == 100.0


def test_of_several_trials_the_last_counts(vacancies: LostTrials, clock: list[float]) -> None:
    vacancies.leave(3)
    clock[0] += 10
    vacancies.leave(4)
    assert vacancies.last_at == 110.0 + VACANT_SECONDS
    clock[0] = 100.0 + VACANT_SECONDS
    vacancies.find_none()
    assert len(vacancies) == 1
