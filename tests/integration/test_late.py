"""Late results and lost workers, on every kind of database."""

import dataclasses
import math
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from tests.integration.conftest import Begin
from tests.studies import by_hand
from tuner.errors import LeaseLost
from tuner.protocol import failure_table
from tuner.protocol.messages import Ending
from tuner.storage import epochs, tables
from tuner.storage.engine import Storage
from tuner.studies import leases, trials
from tuner.studies.study import Study
from tuner.studies.trials import Claim, Delivery, WorkerId
from tuner.studies.workers import WorkerStatus
from tuner.views import status


def far_away() -> WorkerId:
    """Return a worker of another host, whose process this host cannot see."""
    return dataclasses.replace(WorkerId.here("far"), namespace="another boot")


def stored(study: Study, number: int = 0) -> FrozenTrial:
    return optuna.load_study(study_name=study.name, storage=study.storage.rdb).get_trials()[number]


def endings(study: Study, number: int = 0) -> list[str]:
    """Return how each attempt at a trial ended."""
    of_the_trial = tables.LEASES.c.study_id == study.id, tables.LEASES.c.trial_number == number
    query = sqlalchemy.select(tables.LEASES.c.ending).where(*of_the_trial).order_by(tables.LEASES.c.attempt)
    return list(study.storage.read(lambda connection: connection.execute(query).scalars().all()))


def lose(study: Study) -> Claim:
    """Claim a trial for a worker that is then silent for too long."""
    lost = by_hand.must_claim(study, far_away())
    by_hand.grow_old(study, leases.LEASE_SECONDS + 1)
    return lost


def test_a_late_result_counts_while_another_worker_has_the_trial_which_then_loses_it(begin: Begin) -> None:
    study = begin()
    lost = lose(study)
    other = by_hand.must_claim(study, WorkerId.here("other"))
    by_hand.finish(study, lost, 0.9)
    assert (stored(study).state, stored(study).value) == (TrialState.COMPLETE, 0.9)
    assert stored(study).user_attrs["worker"].endswith("/far")
    assert endings(study) == ["completed", "superseded"]
    steps: list[Callable[[], Any]] = [
        lambda: trials.report(study, other, by_hand.epochs(other, [0.5])),
        lambda: by_hand.finish(study, other, 0.5),
        lambda: trials.fail(study, other, by_hand.failed(other)),
        lambda: trials.release(study, other),
    ]
    for step in steps:
        with pytest.raises(LeaseLost):
            step()
    assert stored(study).value == 0.9
    assert by_hand.must_claim(study).number == 1


def test_a_late_result_counts_while_the_trial_waits(begin: Begin) -> None:
    study = begin(budget={"trials": 1})
    lost = lose(study)
    assert [reaped.trial for reaped in trials.reap(study, WorkerId.here("w1"))] == [0]
    by_hand.finish(study, lost, 0.4, ending=Ending.STOPPED, reason="its probe was not among the best")
    assert (stored(study).state, stored(study).value) == (TrialState.PRUNED, 0.4)
    assert by_hand.claim(study) is None
    assert trials.stop_reason(study) == "the budget of 1 trials is spent"


def test_a_late_result_of_an_ended_trial_is_dropped(begin: Begin) -> None:
    study = begin()
    lost = lose(study)
    by_hand.finish(study, by_hand.must_claim(study), 0.5)
    with pytest.raises(LeaseLost):
        by_hand.finish(study, lost, 0.9)
    assert stored(study).value == 0.5
    assert endings(study) == ["lost", "completed"]


def test_a_late_failure_counts_only_if_no_other_worker_has_the_trial(begin: Begin) -> None:
    study = begin()
    lost = lose(study)
    other = by_hand.must_claim(study)
    with pytest.raises(LeaseLost):
        trials.fail(study, lost, by_hand.failed(lost))
    assert endings(study) == ["lost", ""]
    trials.release(study, other)
    trials.fail(study, lost, by_hand.failed(lost))
    assert (stored(study).state, endings(study)) == (TrialState.FAIL, ["failed", "released"])


def test_a_result_without_an_acknowledgement_is_stored_once(begin: Begin) -> None:
    study = begin()
    claimed = by_hand.must_claim(study)
    by_hand.finish(study, claimed, 0.5)
    by_hand.finish(study, claimed, 0.5)
    failing = by_hand.must_claim(study)
    trials.fail(study, failing, by_hand.failed(failing))
    trials.fail(study, failing, by_hand.failed(failing))
    released = by_hand.must_claim(study)
    trials.release(study, released)
    trials.release(study, released)
    assert [stored(study, number).state for number in range(3)] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING]


def test_if_two_workers_finish_one_trial_at_once_exactly_one_result_counts(begin: Begin) -> None:
    study = begin(budget={"trials": 6})
    for number in range(6):
        pair = [lose(study), by_hand.must_claim(study)]
        assert [claimed.number for claimed in pair] == [number, number]
        start = threading.Barrier(2, timeout=120)
        said: list[float | None] = []

        def finish(claimed: Claim, value: float, start: threading.Barrier = start, said: list[float | None] = said) -> None:
            start.wait()
            try:
                by_hand.finish(study, claimed, value)
                said.append(value)
            except LeaseLost:
                said.append(None)

        threads = [threading.Thread(target=finish, args=(claimed, 0.1 * place)) for place, claimed in enumerate(pair, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (kept,) = [value for value in said if value is not None]
        assert said.count(None) == 1
        assert stored(study, number).value == kept
        assert Counter(endings(study, number))["completed"] == 1
    assert by_hand.claim(study) is None
    assert status.snapshot(study).num_completed == 6


def test_lost_workers_are_detected_without_a_claim(begin: Begin) -> None:
    study = begin()
    lost = lose(study)
    (reaped,) = trials.reap(study, WorkerId.here("w1"))
    assert (reaped.trial, reaped.is_failed) == (0, False)
    assert reaped.worker.endswith("/far")
    assert reaped.silent_seconds > leases.LEASE_SECONDS
    assert endings(study) == ["lost"]
    assert status.snapshot(study).num_waiting == 1
    assert trials.reap(study, WorkerId.here("w1")) == []
    again = by_hand.must_claim(study)
    assert (again.number, again.attempt, again.hyperparameters) == (0, 2, lost.hyperparameters)


def test_a_trial_that_lost_too_many_workers_fails_with_its_history(begin: Begin) -> None:
    study = begin(budget={"trials": 1})
    watcher = WorkerId.here("watcher")
    for _ in range(failure_table.MAX_LOSSES):
        lose(study)
        reaped = trials.reap(study, watcher)
    assert [each.is_failed for each in reaped] == [True]
    trial = stored(study)
    assert (trial.state, trial.user_attrs["error"], trial.user_attrs["attempts"]) == (
        TrialState.FAIL,
        "WorkerLost",
        failure_table.MAX_LOSSES,
    )
    assert trial.user_attrs["message"].count("/far, last seen 20") == failure_table.MAX_LOSSES
    assert endings(study) == ["lost"] * (failure_table.MAX_LOSSES - 1) + ["failed"]
    seen = status.snapshot(study)
    assert (seen.num_failed, seen.num_waiting, seen.running) == (1, 0, ())
    assert seen.stop_reason == "the budget of 1 trials is spent"


def make_earlier(study: Study) -> None:
    """Let every attempt begin two hours ago, with its last heartbeat 100 seconds after its start."""
    started_at, seen_at = tables.LEASES.c.started_at, tables.LEASES.c.seen_at
    earlier = sqlalchemy.update(tables.LEASES).where(tables.LEASES.c.study_id == study.id)
    # MariaDB uses a column's new value in the assignments after it
    shifted = earlier.ordered_values((seen_at, started_at - 7100), (started_at, started_at - 7200))
    study.storage.write(lambda connection: connection.execute(shifted))


def test_the_work_of_a_lost_worker_counts_until_it_was_last_seen(begin: Begin) -> None:
    study = begin()
    lose(study)
    make_earlier(study)
    trials.reap(study, WorkerId.here("w1"))
    assert status.snapshot(study).busy_seconds == pytest.approx(100, abs=2)


def test_looking_for_lost_workers_costs_one_statement_if_all_are_alive(begin: Begin, storage: Storage) -> None:
    study = begin()
    for _ in range(3):
        by_hand.must_claim(study)
    by_hand.must_claim(study, far_away())
    with by_hand.statements(storage) as seen:
        assert trials.reap(study, WorkerId.here("w1")) == []
    assert len([statement for statement in seen if not statement.startswith("BEGIN")]) == 1


def test_after_an_outage_other_workers_get_time_to_reconnect(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    study = begin()
    lose(study)
    monkeypatch.setattr(Storage, "steady_seconds", lambda storage: leases.GRACE_SECONDS - 1)
    assert trials.reap(study, WorkerId.here("w1")) == []
    assert by_hand.must_claim(study).number == 1
    monkeypatch.setattr(Storage, "steady_seconds", lambda storage: leases.GRACE_SECONDS)
    assert [reaped.trial for reaped in trials.reap(study, WorkerId.here("w1"))] == [0]


def test_the_spooled_work_of_a_worker_is_stored_once_and_its_absence_is_no_work(begin: Begin) -> None:
    study = begin(search={"probe_solver": "sgd"})
    claimed = lose(study)
    curve = by_hand.epochs(claimed, [0.5, 0.6, 0.7])
    trials.report(study, claimed, curve[:1])
    by_hand.grow_old(study, leases.LEASE_SECONDS + 1)
    make_earlier(study)
    for _ in range(2):
        delivery = trials.deliver(study, claimed, curve[1:], by_hand.finished(claimed, 0.7), device="cpu")
        assert delivery is Delivery.STORED
    assert (stored(study).state, stored(study).value) == (TrialState.COMPLETE, 0.7)
    assert stored(study).user_attrs["epochs"] == 3
    assert stored(study).intermediate_values == {1: 0.5, 2: 0.6, 3: 0.7}
    assert status.snapshot(study).busy_seconds == pytest.approx(100, abs=2)


@pytest.mark.parametrize("num_stored", [0, 1, 2])
def test_the_epochs_of_a_trial_with_an_exact_probe_are_all_counted(begin: Begin, num_stored: int) -> None:
    study = begin(search={"probe_solver": "lbfgs"})
    claimed = by_hand.must_claim(study)
    curve = by_hand.epochs(claimed, [0.5, 0.6, 0.7], first=by_hand.SHORT["probe_epochs"])
    trials.report(study, claimed, curve[:num_stored])
    trials.finish(study, claimed, by_hand.finished(claimed, 0.7), curve[num_stored:], device="cpu")
    assert stored(study).user_attrs["epochs"] == 3


def test_spooled_epochs_are_stored_although_another_worker_has_the_trial(begin: Begin) -> None:
    study = begin()
    claimed = lose(study)
    other = by_hand.must_claim(study)
    curve = by_hand.epochs(claimed, [0.5, 0.6, 0.7])
    trials.report(study, other, curve[2:])
    assert trials.deliver(study, claimed, curve[:2], None, device="cpu") is Delivery.STORED
    read = study.storage.read(lambda connection: epochs.read(connection, study.id, 0))
    assert [epoch.step for epoch in read] == [1, 2, 3]
    by_hand.finish(study, other, 0.7)
    assert trials.deliver(study, claimed, curve[:2], None, device="cpu") is Delivery.TOO_LATE


def test_a_spooled_failure_is_too_late_if_another_worker_has_the_trial(begin: Begin) -> None:
    study = begin()
    claimed = lose(study)
    other = by_hand.must_claim(study)
    assert trials.deliver(study, claimed, (), by_hand.failed(claimed), device="cpu") is Delivery.TOO_LATE
    by_hand.finish(study, other, 0.7)
    assert stored(study).value == 0.7


def test_spooled_work_of_a_deleted_study_is_unknown(begin: Begin) -> None:
    first = begin()
    claimed = by_hand.must_claim(first)
    optuna.delete_study(study_name=first.name, storage=first.storage.rdb)
    second = begin()
    by_hand.must_claim(second)
    assert trials.deliver(second, claimed, (), by_hand.finished(claimed, 0.7), device="cpu") is Delivery.UNKNOWN
    assert stored(second).state is TrialState.RUNNING


def test_after_waking_up_workers_of_one_machine_leave_each_others_trials_alone(begin: Begin) -> None:
    study = begin()
    first, second = WorkerId.here("w1"), WorkerId.here("w2")
    claimed = by_hand.must_claim(study, first)
    awake = [0.0]
    study.storage.heed_sleep(lambda: awake[0])
    try:
        by_hand.grow_old(study, 28_800)  # the machine slept for a night
        assert trials.reap(study, second) == []
        assert by_hand.must_claim(study, second).number == 1
        awake[0] = leases.GRACE_SECONDS - 1
        assert trials.reap(study, second) == []
        trials.beat(study, first, WorkerStatus())
        awake[0] = leases.GRACE_SECONDS + 1
        assert trials.reap(study, second) == []
        by_hand.finish(study, claimed, 0.5)
        assert endings(study) == ["completed"]
    finally:
        study.storage.heed_sleep(lambda: math.inf)  # other tests share the storage


def test_sleepers_whose_trial_was_given_to_another_host_do_not_make_it_fail(begin: Begin) -> None:
    study = begin()
    for _ in range(failure_table.MAX_LOSSES + 1):
        sleeper = lose(study)
        assert len(trials.reap(study, WorkerId.here("other"))) == 1
        with pytest.raises(LeaseLost):
            trials.report(study, sleeper, by_hand.epochs(sleeper, [0.5]))
        trials.yielded(study, sleeper)
    assert endings(study) == ["released"] * (failure_table.MAX_LOSSES + 1)
    resumed = by_hand.must_claim(study)
    assert resumed.number == 0
    trials.yielded(study, resumed)  # it still has the trial
    assert endings(study)[-1] == ""
