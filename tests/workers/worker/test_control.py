"""Requests to a worker through the storage: stop a trial, end the worker, suspend the study."""

from collections.abc import Callable
from typing import Any

from tests.waiting import WaitPoint
from tuner.studies import control, workers
from tuner.views import status
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.rehearsal import Fault, Script
from tuner.workers.worker.worker import WorkerTiming

Make = Callable[..., Any]


def test_a_worker_drops_a_trial_that_someone_stopped_and_takes_the_next(make: Make) -> None:
    runner = make(budget={"trials": 2}, training={"promote": 1.0})
    runner.script = Script(**WaitPoint(runner.folder, "trial 0 epoch 2").script)

    def react(event: Event) -> None:
        if event.what is EventKind.EPOCH and event.trial == 0 and event.step == 1:
            control.stop_trial(runner.study, 0, by="ann")

    runner.react = react
    runner.timing = WorkerTiming(beat_seconds=0.1)
    runner.work()
    assert runner.states() == ["PRUNED", "COMPLETE"]
    (pruned,) = [event for event in runner.events if event.what is EventKind.PRUNED]
    assert (pruned.trial, pruned.message) == (0, "stopped by ann")


def test_a_heartbeat_notices_a_stopped_trial_without_a_report(make: Make) -> None:
    runner = make(budget={"trials": 2}, training={"promote": 1.0})
    runner.script = Script(epoch_seconds=30.0)  # a message ends an epoch early, and only a heartbeat can send one

    def react(event: Event) -> None:
        if event.what is EventKind.STARTED and event.trial == 0:
            control.stop_trial(runner.study, 0, by="ann")
        if event.what is EventKind.PRUNED:
            runner.script.epoch_seconds = 0.0

    runner.react = react
    runner.timing = WorkerTiming(beat_seconds=0.1)
    runner.work()
    assert runner.states() == ["PRUNED", "COMPLETE"]


def test_a_worker_that_is_asked_to_end_ends_after_its_trial(make: Make) -> None:
    runner = make(budget={"trials": 3}, training={"promote": 1.0})

    def react(event: Event) -> None:
        if event.what is EventKind.STARTED:
            (worker,) = workers.of_study(runner.study)
            control.stop_worker(runner.study, worker.key, by="ann")

    runner.react = react
    runner.work()
    assert runner.states() == ["COMPLETE"]
    assert runner.events[-1].message == "asked to end by ann"
    assert runner.stopping.is_asked  # so that its engine does not start it again
    (worker,) = workers.of_study(runner.study)
    assert (worker.ending, worker.is_present, worker.trial) == ("asked to end by ann", False, None)


def test_a_worker_releases_its_trial_when_its_study_is_suspended(make: Make) -> None:
    runner = make(budget={"trials": 3}, training={"promote": 1.0})
    runner.script = Script(epoch_seconds=30.0)

    def react(event: Event) -> None:
        if event.what is EventKind.STARTED:
            control.suspend(runner.study, by="ann")

    runner.react = react
    runner.timing = WorkerTiming(beat_seconds=0.1)
    runner.work()
    assert runner.states() == ["RUNNING"]
    assert runner.happened(EventKind.SUSPENDED) == [0]
    assert runner.events[-1].message == "asked to end by ann"
    control.resume(runner.study)
    again = runner.again()
    again.script = Script()
    again.work()
    assert again.happened(EventKind.RESUMED) == [0]
    assert again.states() == ["COMPLETE"] * 3


def test_a_failed_trial_keeps_the_last_lines_of_its_trainers_log(make: Make) -> None:
    runner = make(budget={"trials": 1})
    runner.script = Script(faults={0: [Fault.CRASH, Fault.CRASH]})
    runner.work()
    (failed,) = runner.study.storage.read(lambda connection: status.failures(connection, runner.study.id))
    assert (failed.num_trials, failed.last_number, failed.log) == (1, 0, "Fatal Python error: Segmentation fault")
