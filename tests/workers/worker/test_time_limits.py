"""Time limits of one trial, with a trainer that plays a script."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuner.errors import TrainingError
from tuner.protocol import messages
from tuner.spec import file as study_file
from tuner.workers.bucket.transfer import Folders
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.process import Assignment
from tuner.workers.worker.rehearsal import Fault, Rehearsal, Script
from tuner.workers.worker.stopping import Stopping
from tuner.workers.worker.trainer import Limits, WarmTrainer

Make = Callable[..., Any]
SPEC = '{"name": "x", "data": {"source": "digits"}}'
REASON = "it reached the time limit of 0.1 s for one trial (budget.trial_timeout)"


def limited(make: Make, *, timeout: float = 0.1, trials: int = 1) -> Any:
    return make(budget={"trials": trials, "trial_timeout": timeout}, training={"promote": 1.0, "epochs": 1000})


def test_a_trial_that_takes_longer_than_its_limit_is_pruned_with_its_best_value(make: Make) -> None:
    runner = limited(make, trials=2)
    runner.script = Script(fine_tune_epochs=1000, epoch_seconds=0.01)
    runner.work()
    assert runner.states() == ["PRUNED", "PRUNED"]
    assert [event.message for event in runner.events if event.what is EventKind.PRUNED] == [REASON, REASON]
    assert (runner.script.started, runner.script.num_started) == ([0, 1], 1)
    assert all(trial.value is not None for trial in runner.study.optuna.get_trials())


def test_an_objective_may_compute_for_hours_without_a_report_unless_a_limit_is_given() -> None:
    given = {"name": "mine", "task": "objective", "function": "mine.py:f", "objective": "minimize"}

    def limit(hang_limit: float | None, **sections: Any) -> float:
        spec = study_file.parse(given | sections, "mine.yaml")
        folders = Folders(cache=Path("cache"), artifacts=Path("artifacts"))
        return Assignment(
            study="mine", spec=spec, storage="sqlite://", worker="w", folders=folders, threads=1, hang_limit_seconds=hang_limit
        ).limits.hang_seconds

    assert limit(None) == math.inf
    assert limit(60.0) == 60.0
    custom = {"task": "custom", "model": {"build": "m.py:b"}, "data": {"load": "m.py:l"}, "objective": "val_loss"}
    given = {"name": "mine"}
    assert limit(None, **custom) == 1800.0


def test_a_trainer_that_does_not_obey_is_killed_and_the_trial_is_not_tried_again(make: Make) -> None:
    runner = limited(make)
    runner.script = Script(faults={0: [Fault.HANG]})
    runner.limits = Limits(obey_seconds=0.1)
    runner.work()
    assert (runner.states(), runner.script.started) == (["PRUNED"], [0])
    (event,) = [event for event in runner.events if event.what is EventKind.PRUNED]
    assert (event.message, event.value is not None) == (REASON, True)  # the best value of its first epoch


def test_the_time_of_an_earlier_attempt_counts(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make(budget={"trials": 1}, training={"promote": 1.0})
    runner.script = Script(fine_tune_epochs=50, epoch_seconds=0.001)

    def suspend(event: Event) -> None:
        if event.what is EventKind.EPOCH and event.step == 10:
            runner.stopping.ask()

    runner.react = suspend
    runner.work()
    num_before = len(runner.steps(0))
    assert runner.states() == ["RUNNING"]
    monkeypatch.setattr(WarmTrainer, "seconds", lambda trainer: 0.0)  # only the earlier epochs, of 0.01 s each, take time
    again = runner.again()
    budget = again.study.spec.budget.model_copy(update={"trial_timeout": 0.01 * num_before - 0.001})
    monkeypatch.setattr(again.study.spec, "__dict__", again.study.spec.__dict__ | {"budget": budget})
    again.work()
    assert again.states() == ["PRUNED"]
    assert len(again.steps(0)) <= num_before + 2


def test_a_trial_of_a_study_without_a_limit_may_take_any_time(make: Make) -> None:
    runner = make(budget={"trials": 1}, training={"promote": 1.0})
    assert runner.study.spec.budget.trial_timeout is None
    runner.work()
    assert runner.states() == ["COMPLETE"]


def test_silence_longer_than_the_stall_timeout_ends_a_trainer_whatever_its_epochs_took(make: Make) -> None:
    runner = make(budget={"trials": 1}, training={"promote": 1.0})
    runner.script = Script(faults={0: [Fault.HANG, Fault.HANG]}, epoch_seconds=0.05)
    runner.limits = Limits(stall_seconds=0.3)
    runner.work()
    assert (runner.states(), runner.script.started) == (["FAIL"], [0, 0])
    (failure,) = [event.message for event in runner.events if event.what is EventKind.FAILED]
    assert re.match(r"hang: the code reported nothing for 0\.\d s, longer than training.stall_timeout; look for an endless loop", failure)


def test_an_endless_loop_at_the_import_of_the_code_ends_with_its_place() -> None:
    class Importing(Rehearsal):
        def receive(self, timeout_seconds: float) -> messages.Message | None:
            return None

        def place(self) -> str:
            return "mine.py, line 1, in <module>"

    script = Script()
    trainer = WarmTrainer(lambda: Importing(script), Limits(stall_seconds=0.01, start_seconds=0.02), Stopping())
    with pytest.raises(TrainingError, match=r"importing the code .* took longer than \d.* s \(it is at mine.py, line 1, in <module>"):
        trainer.warm_up(messages.Prepare(spec=SPEC, cache=""))
    assert script.num_started == 2
