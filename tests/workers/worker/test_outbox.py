"""What a worker leaves that could not deliver, and what the next one makes of it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.studies import by_hand
from tuner.errors import StorageError
from tuner.studies import leases, reaper, trials
from tuner.workers.worker import spool, worker
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.rehearsal import Fault, Script

Make = Callable[..., Any]


def away(*given: object, **named: object) -> object:
    raise StorageError("the storage is away")


def spooled(bench: Any) -> list[Path]:
    return sorted((bench.folder / "artifacts" / "study" / "spool").glob("*"))


def leave_result(bench: Any, monkeypatch: pytest.MonkeyPatch, ending: str = "finish") -> str:
    """Have a worker end that could not deliver what came of its trial; its last words."""
    with monkeypatch.context() as patch:
        patch.setattr(trials, ending, away)
        patch.setattr(worker, "_STORAGE_PATIENCE_SECONDS", 0.0)
        with pytest.raises(StorageError) as raised:
            bench.work()
    return str(raised.value)


def test_a_worker_that_gives_the_storage_up_says_where_the_result_is_and_the_next_delivers_it(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(budget={"trials": 2}, training={"promote": 1.0})
    last_lines = leave_result(bench, monkeypatch)
    (path,) = spooled(bench)
    assert f"the reports of trial 0 are kept in {path}; the next worker of this machine delivers them" in last_lines
    checkpoint = path.parent.parent / "trial-00000" / "checkpoint"
    checkpoint.parent.mkdir(exist_ok=True)
    checkpoint.touch()
    again = bench.again()
    again.work()
    assert again.states() == ["COMPLETE", "COMPLETE"]
    assert not checkpoint.exists()
    assert again.happened(EventKind.DELIVERED) == [0]
    assert again.happened(EventKind.STARTED) == [1]
    assert again.happened(EventKind.RESUMED) == []
    assert bench.script.started == [0, 1]
    assert bench.steps(0) == [1, 2, 3, 4, 5]
    assert spooled(bench) == []


def test_a_trial_that_could_not_be_handed_back_leaves_no_file_and_goes_on_with_the_next_worker(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(budget={"trials": 1}, training={"promote": 1.0})
    bench.react = lambda event: bench.stopping.ask() if event.step == 3 else None
    assert "kept" not in leave_result(bench, monkeypatch, "release")
    assert spooled(bench) == []
    monkeypatch.setattr(leases, "PATIENCE_SECONDS", -1.0)
    again = bench.again()
    again.work()
    assert again.happened(EventKind.RESUMED) == [0]
    assert again.states() == ["COMPLETE"]
    assert bench.steps(0) == [1, 2, 3, 4, 5]


def test_a_failure_that_was_left_is_delivered_too(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(budget={"trials": 2}, training={"promote": 1.0})
    bench.script = Script(faults={0: [Fault.FAIL]})
    leave_result(bench, monkeypatch, "fail")
    again = bench.again()
    again.work()
    assert again.states() == ["FAIL", "COMPLETE"]
    assert again.happened(EventKind.FAILED) == [0]
    assert bench.script.started == [0, 1]


def test_what_is_left_of_a_trial_that_has_ended_meanwhile_is_dropped_with_a_line(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(budget={"trials": 1})
    leave_result(bench, monkeypatch)
    monkeypatch.setattr(leases, "PATIENCE_SECONDS", -1.0)
    other = by_hand.must_claim(bench.study)
    by_hand.finish(bench.study, other, 0.5)
    again = bench.again()
    again.work()
    assert again.happened(EventKind.LOST) == [0]
    assert again.study.optuna.get_trials()[0].value == 0.5
    assert spooled(bench) == []


def test_files_that_are_not_this_studys_are_left_and_told_of_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(budget={"trials": 3})
    leave_result(bench, monkeypatch)
    (path,) = spooled(bench)
    (left,) = spool.abandoned(path.parent)
    assert left.origin is not None
    assert left.outcome is not None
    stranger = dataclasses.replace(left.origin.claim, worker_key="of another study")
    kept = spool.Spool(path.parent, left.origin.model_copy(update={"claim": stranger}))
    kept.write([left.outcome])
    kept.close()
    path.write_text("nonsense")
    again = bench.again()
    again.work()
    told = [event.message for event in again.events if event.what is EventKind.TROUBLE]
    assert [str(file) in "".join(told) for file in (path, kept.path)] == [True, True]
    assert len(told) == 2
    assert spooled(bench) == sorted([path, kept.path])


def test_a_heartbeat_delivers_what_is_left_and_notices_workers_that_are_gone_while_all_that_live_are_busy(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(budget={"trials": 2}, training={"promote": 1.0})
    bench.script = Script(faults={0: [Fault.HANG]})
    far = dataclasses.replace(trials.WorkerId.here("far"), namespace="another boot")

    def react(event: Event) -> None:
        if event.what is EventKind.STARTED:
            claimed = by_hand.must_claim(bench.study, far)
            kept = spool.Spool(
                bench.folder / "artifacts" / "study" / "spool",
                spool.SpoolHeader(study="study", worker=far.name, device="cpu", claim=claimed),
            )
            kept.write(by_hand.epochs(claimed, [0.5, 0.6]))
            kept.close()
            by_hand.grow_old(bench.study, leases.LEASE_SECONDS + 1)
        elif event.what is EventKind.TROUBLE:
            bench.stopping.ask()
            bench.stopping.ask()

    bench.react = react
    monkeypatch.setattr(reaper, "REAP_SECONDS", 0.0)
    bench.work(beat_seconds=0.05)
    assert bench.happened(EventKind.DELIVERED) == [1]
    assert bench.steps(1) == [1, 2]
    (trouble,) = [event.message for event in bench.events if event.what is EventKind.TROUBLE]
    assert trouble.startswith(f"trial 1 lost {far.name}, last seen 6")
    assert trouble.endswith("it waits for a worker to resume it")


def test_a_worker_whose_trial_is_finished_by_one_that_was_given_up_drops_it(make: Make) -> None:
    bench = make(budget={"trials": 2}, training={"promote": 1.0})
    far = dataclasses.replace(trials.WorkerId.here("far"), namespace="another boot")
    late = by_hand.must_claim(bench.study, far)
    by_hand.grow_old(bench.study, leases.LEASE_SECONDS + 1)
    bench.react = lambda event: by_hand.finish(bench.study, late, 0.9) if (event.trial, event.step) == (0, 3) else None
    bench.work()
    assert bench.happened(EventKind.RESUMED) == [0]
    assert bench.happened(EventKind.LOST) == [0]
    assert bench.states() == ["COMPLETE", "COMPLETE"]
    assert bench.study.optuna.get_trials()[0].value == 0.9
