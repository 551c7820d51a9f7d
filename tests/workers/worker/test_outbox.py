"""Reports that a worker could not deliver, and their delivery by the next worker."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.studies import by_hand
from tuner.errors import StorageError
from tuner.studies import leases, trials
from tuner.workers.worker import outbox
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.rehearsal import Fault, Script
from tuner.workers.worker.worker import WorkerTiming

Make = Callable[..., Any]


def away(*given: object, **named: object) -> object:
    raise StorageError("the storage is away")


def spooled(runner: Any) -> list[Path]:
    return sorted((runner.folder / "artifacts" / "study" / "spool").glob("*"))


def leave_result(runner: Any, monkeypatch: pytest.MonkeyPatch, ending: str = "finish") -> str:
    """Run a worker that cannot deliver the outcome of its trial; return its error message."""
    with monkeypatch.context() as patch:
        patch.setattr(trials, ending, away)
        runner.timing = WorkerTiming(storage_patience_seconds=0.0)
        with pytest.raises(StorageError) as raised:
            runner.work()
    return str(raised.value)


def test_a_result_kept_on_disk_is_delivered_by_the_next_worker(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make(budget={"trials": 2}, training={"promote": 1.0})
    last_lines = leave_result(runner, monkeypatch)
    (path,) = spooled(runner)
    assert f"the reports of trial 0 are stored in {path}; the next worker of this machine delivers them" in last_lines
    checkpoint = path.parent.parent / "trial-00000" / "checkpoint"
    checkpoint.parent.mkdir(exist_ok=True)
    checkpoint.touch()
    again = runner.again()
    again.work()
    assert again.states() == ["COMPLETE", "COMPLETE"]
    assert not checkpoint.exists()
    assert again.happened(EventKind.DELIVERED) == [0]
    assert again.happened(EventKind.STARTED) == [1]
    assert again.happened(EventKind.RESUMED) == []
    assert runner.script.started == [0, 1]
    assert runner.steps(0) == [1, 2, 3, 4, 5]
    assert spooled(runner) == []


def test_a_trial_that_could_not_be_released_is_resumed_without_a_spool_file(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make(budget={"trials": 1}, training={"promote": 1.0})
    runner.react = lambda event: runner.stopping.ask() if event.step == 3 else None
    assert "kept" not in leave_result(runner, monkeypatch, "release")
    assert spooled(runner) == []
    by_hand.grow_old(runner.study, leases.PATIENCE_SECONDS + 1)
    again = runner.again()
    again.work()
    assert again.happened(EventKind.RESUMED) == [0]
    assert again.states() == ["COMPLETE"]
    assert runner.steps(0) == [1, 2, 3, 4, 5]


def test_a_failure_kept_on_disk_is_delivered(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make(budget={"trials": 2}, training={"promote": 1.0})
    runner.script = Script(faults={0: [Fault.FAIL]})
    leave_result(runner, monkeypatch, "fail")
    again = runner.again()
    again.work()
    assert again.states() == ["FAIL", "COMPLETE"]
    assert again.happened(EventKind.FAILED) == [0]
    assert runner.script.started == [0, 1]


def test_reports_of_a_trial_that_ended_meanwhile_are_dropped_with_an_event(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make(budget={"trials": 1})
    leave_result(runner, monkeypatch)
    by_hand.grow_old(runner.study, leases.PATIENCE_SECONDS + 1)
    other = by_hand.must_claim(runner.study)
    by_hand.finish(runner.study, other, 0.5)
    again = runner.again()
    again.work()
    assert again.happened(EventKind.LOST) == [0]
    assert again.study.optuna.get_trials()[0].value == 0.5
    assert spooled(runner) == []


def test_files_of_another_study_are_kept_and_reported_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make(budget={"trials": 3})
    leave_result(runner, monkeypatch)
    (path,) = spooled(runner)
    (left,) = outbox.abandoned_spools(path.parent)
    assert left.origin is not None
    assert left.outcome is not None
    stranger = dataclasses.replace(left.origin.claim, worker_key="of another study")
    kept = outbox.Spool(path.parent, left.origin.model_copy(update={"claim": stranger}))
    kept.write([left.outcome])
    kept.close()
    path.write_text("nonsense")
    again = runner.again()
    again.work()
    told = [event.message for event in again.events if event.what is EventKind.TROUBLE]
    assert [str(file) in "".join(told) for file in (path, kept.path)] == [True, True]
    assert len(told) == 2
    assert spooled(runner) == sorted([path, kept.path])


def test_a_heartbeat_delivers_abandoned_reports_and_reaps_lost_workers(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make(budget={"trials": 2}, training={"promote": 1.0})
    runner.script = Script(faults={0: [Fault.HANG]})
    far = dataclasses.replace(trials.WorkerId.here("far"), namespace="another boot")

    def react(event: Event) -> None:
        if event.what is EventKind.STARTED:
            claimed = by_hand.must_claim(runner.study, far)
            kept = outbox.Spool(
                runner.folder / "artifacts" / "study" / "spool",
                outbox.SpoolHeader(study="study", worker=far.name, device="cpu", claim=claimed),
            )
            kept.write(by_hand.epochs(claimed, [0.5, 0.6]))
            kept.close()
            by_hand.grow_old(runner.study, leases.LEASE_SECONDS + 1)
        elif event.what is EventKind.TROUBLE:
            runner.stopping.ask()
            runner.stopping.ask()

    runner.react = react
    runner.timing = WorkerTiming(beat_seconds=0.05, reap_seconds=0.0)
    runner.work()
    assert runner.happened(EventKind.DELIVERED) == [1]
    assert runner.steps(1) == [1, 2]
    (trouble,) = [event.message for event in runner.events if event.what is EventKind.TROUBLE]
    assert trouble.startswith(f"trial 1 lost {far.name}, last seen 6")
    assert trouble.endswith("it waits for a worker to resume it")


def test_a_worker_drops_a_trial_whose_earlier_result_is_delivered(make: Make) -> None:
    runner = make(budget={"trials": 2}, training={"promote": 1.0})
    far = dataclasses.replace(trials.WorkerId.here("far"), namespace="another boot")
    late = by_hand.must_claim(runner.study, far)
    by_hand.grow_old(runner.study, leases.LEASE_SECONDS + 1)
    runner.react = lambda event: by_hand.finish(runner.study, late, 0.9) if (event.trial, event.step) == (0, 3) else None
    runner.work()
    assert runner.happened(EventKind.RESUMED) == [0]
    assert runner.happened(EventKind.LOST) == [0]
    assert runner.states() == ["COMPLETE", "COMPLETE"]
    assert runner.study.optuna.get_trials()[0].value == 0.9
