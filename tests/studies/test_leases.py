"""How a lease recognizes the process of its worker, how long it lasts, and what sleep does to it."""

import math

import pytest
import sqlalchemy

from tuner.errors import RequestError
from tuner.storage import tables
from tuner.studies import leases, trials
from tuner.studies.leases import Lease, WorkerId
from tuner.studies.study import Study
from tuner.studies.workers import WorkerStatus


@pytest.mark.parametrize(
    ("moved_seconds", "is_vacant"),
    [(0.0, False), (1.0, False), (-1.0000002, False), (4.0, False), (60.0, True), (-60.0, True)],
)
def test_a_process_is_recognized_after_a_small_change_of_the_clock(moved_seconds: float, is_vacant: bool) -> None:
    here = WorkerId.here("w1")
    held = Lease(
        trial_number=0, trial_id=1, attempt=1, worker_key=here.key, worker=here.name, namespace=here.namespace, pid=here.pid,
        process_started=here.process_started + moved_seconds, started_at=0.0, seen_at=100.0, ended_at=None, ending="",
    )  # fmt: skip
    assert held.is_vacant(WorkerId.here("w2"), 100.0, steady_seconds=math.inf) is is_vacant


def test_sleep_is_no_work_of_the_attempts_that_it_interrupted(study: Study) -> None:
    slept, awake = 28_800.0, 3.0
    sleeper, other = WorkerId.here("sleeper"), WorkerId.here("other")
    spans = [
        # worker, began and ended, in seconds before now; None: it is still open. What counts afterwards
        (sleeper, slept + 500, slept + 400, 100.0),  # ended before the sleep
        (sleeper, slept + 100, None, 100.0),  # open, and seen last before the sleep
        (sleeper, slept + 53, 1.0, 52.0),  # ended after the sleep
        (sleeper, 2.0, 1.0, 1.0),  # began after the sleep
        (other, slept + 100, 0.0, slept + 100),  # of a worker that did not sleep
    ]
    with study.storage.engine.begin() as connection:
        now = tables.clock(connection)
        for number, (worker, began, ended, _) in enumerate(spans):
            leases.grant(connection, study.id, worker, trial_number=number, trial_id=number, attempt=1)
            seen = now - (slept + 3 if ended is None else ended)
            fields = {"started_at": now - began, "seen_at": seen, "ended_at": None if ended is None else seen}
            connection.execute(sqlalchemy.update(tables.LEASES).where(tables.LEASES.c.trial_number == number).values(**fields))
    trials.subtract_sleep(study, sleeper, slept_seconds=slept, awake_seconds=awake)
    trials.beat(study, sleeper, WorkerStatus())
    found = study.storage.read(lambda connection: leases.intervals(connection, study.id))
    # the beat renewed the open one, so it lasts for the seconds before the sleep and those after it
    assert [round(end - start) for start, end in found] == [100, 100, 52, 1, round(slept) + 100]


@pytest.mark.parametrize("given", ["0", "0.5", "-3", "soon", "inf", "nan", "1e9"])
def test_a_wrong_length_of_a_lease_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(leases.VARIABLE, given)
    with pytest.raises(RequestError, match=f"TUNER_LEASE_SECONDS is {given}; expected a number of seconds from 1 to 86400"):
        leases.timing()


def test_the_length_of_a_lease_decides_the_other_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(leases.VARIABLE, "6")
    short = leases.timing()
    assert (short.lease_seconds, short.patience_seconds, short.grace_seconds, short.beat_seconds) == (6.0, 60.0, 3.0, 1.0)
    monkeypatch.setenv(leases.VARIABLE, "")
    usual = leases.timing()
    assert (usual.lease_seconds, usual.patience_seconds, usual.grace_seconds, usual.beat_seconds) == (60.0, 600.0, 30.0, 10.0)
