"""A worker that is asked, through the storage, to give up its trial or its work."""

from collections.abc import Callable
from typing import Any

from tuner.studies import control, workers
from tuner.views import failures
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.rehearsal import Fault, Script

Make = Callable[..., Any]


def test_a_worker_drops_a_trial_that_someone_stopped_and_takes_the_next(make: Make) -> None:
    bench = make(budget={"trials": 2}, training={"promote": 1.0})
    bench.script = Script(epoch_seconds=0.05)

    def react(event: Event) -> None:
        if event.what is EventKind.EPOCH and event.trial == 0 and event.step == 1:
            control.stop_trial(bench.study, 0, by="ann")

    bench.react = react
    bench.work(beat_seconds=0.1)
    assert bench.states() == ["PRUNED", "COMPLETE"]
    (pruned,) = [event for event in bench.events if event.what is EventKind.PRUNED]
    assert (pruned.trial, pruned.message) == (0, "stopped by ann")


def test_a_beat_tells_of_a_stopped_trial_though_nothing_is_reported(make: Make) -> None:
    bench = make(budget={"trials": 2}, training={"promote": 1.0})
    bench.script = Script(epoch_seconds=30.0)  # an epoch is cut short by a message, so that only a beat can bring one

    def react(event: Event) -> None:
        if event.what is EventKind.STARTED and event.trial == 0:
            control.stop_trial(bench.study, 0, by="ann")
        if event.what is EventKind.PRUNED:
            bench.script.epoch_seconds = 0.0

    bench.react = react
    bench.work(beat_seconds=0.1)
    assert bench.states() == ["PRUNED", "COMPLETE"]


def test_a_worker_ends_after_its_trial_when_it_is_asked_to(make: Make) -> None:
    bench = make(budget={"trials": 3}, training={"promote": 1.0})

    def react(event: Event) -> None:
        if event.what is EventKind.STARTED:
            (worker,) = workers.of_study(bench.study)
            control.stop_worker(bench.study, worker.key, by="ann")

    bench.react = react
    bench.work()
    assert bench.states() == ["COMPLETE"]
    assert bench.events[-1].message == "asked to end by ann"
    assert bench.stopping.is_asked  # so that whoever started it does not start it again
    (worker,) = workers.of_study(bench.study)
    assert (worker.ending, worker.is_present, worker.trial) == ("asked to end by ann", False, None)


def test_a_worker_hands_its_trial_back_when_its_study_is_suspended(make: Make) -> None:
    bench = make(budget={"trials": 3}, training={"promote": 1.0})
    bench.script = Script(epoch_seconds=30.0)

    def react(event: Event) -> None:
        if event.what is EventKind.STARTED:
            control.suspend(bench.study, by="ann")

    bench.react = react
    bench.work(beat_seconds=0.1)
    assert bench.states() == ["RUNNING"]
    assert bench.happened(EventKind.SUSPENDED) == [0]
    assert bench.events[-1].message == "asked to end by ann"
    control.resume(bench.study)
    again = bench.again()
    again.script = Script()
    again.work()
    assert again.happened(EventKind.RESUMED) == [0]
    assert again.states() == ["COMPLETE"] * 3


def test_a_failed_trial_keeps_the_last_lines_of_its_trainers_log(make: Make) -> None:
    bench = make(budget={"trials": 1})
    bench.script = Script(faults={0: [Fault.CRASH, Fault.CRASH]})
    bench.work()
    (failed,) = bench.study.storage.read(lambda connection: failures.read(connection, bench.study.id))
    assert (failed.num_trials, failed.last_number, failed.log) == (1, 0, "Fatal Python error: Segmentation fault")
