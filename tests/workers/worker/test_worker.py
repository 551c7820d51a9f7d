"""The worker, with a trainer that plays a script."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from tests.studies import by_hand
from tuner.errors import DataError, LeaseLost, RequestError, StorageError, StudyError, TrainingError
from tuner.protocol import messages
from tuner.storage import epochs, tables
from tuner.storage.attributes import SHORTENED
from tuner.studies import continuation, leases, trials
from tuner.studies.claims import Claim
from tuner.studies.continuation import Promotion
from tuner.studies.study import Study
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.rehearsal import Fault, Rehearsal, Script
from tuner.workers.worker.trainer import Limits
from tuner.workers.worker.worker import WorkerTiming

Make = Callable[..., Any]


def test_a_worker_spends_the_budget_and_ends(make: Make) -> None:
    runner = make(training={"promote": 1.0})
    runner.work()
    assert runner.states() == ["COMPLETE"] * 4
    assert runner.happened(EventKind.STARTED) == [0, 1, 2, 3]
    assert runner.happened(EventKind.COMPLETED) == [0, 1, 2, 3]
    assert runner.events[-1].what is EventKind.ENDED
    assert "4 trials" in runner.events[-1].message


def test_a_trial_that_optuna_enqueued_with_unsearched_values_fails_and_the_worker_continues(make: Make) -> None:
    runner = make(training={"promote": 1.0})
    for _ in range(3):
        runner.study.optuna.enqueue_trial({"optimizer": "adam"})
    runner.work()
    assert runner.states() == ["FAIL"] * 3 + ["COMPLETE"]
    assert runner.happened(EventKind.FAILED) == [0, 1, 2]
    failed = [event.message for event in runner.events if event.what is EventKind.FAILED]
    assert all("optimizer is 'adam'; expected" in message for message in failed)
    assert runner.happened(EventKind.TROUBLE) == []


def test_a_worker_that_joins_a_finished_study_starts_nothing(make: Make) -> None:
    runner = make()
    runner.work()
    again = runner.again()
    again.work()
    assert again.happened(EventKind.STARTED) == []
    assert len(again.states()) == 4


def test_differences_from_the_origin_of_an_exported_study_file_are_reported_first(make: Make) -> None:
    trained = {"fingerprint": "1" * 64, "splits": "0" * 64, "versions": {"tuner": "9", "optuna": "5"}}
    runner = make(budget={"trials": 1}, result=trained)
    runner.work()
    told = [event.message for event in runner.events if event.what is EventKind.TROUBLE]
    assert told == [
        f"the images or their labels differ from those of the exported trial: {'1' * 64} -> {'0' * 64}",
        "the exported trial was trained with other versions, so numbers may differ slightly: tuner 9 -> 0",
    ]
    whats = [event.what for event in runner.events]
    assert whats.index(EventKind.TROUBLE) < whats.index(EventKind.STARTED)


def test_an_exported_study_file_without_differences_gives_no_warning(make: Make) -> None:
    runner = make(budget={"trials": 1}, result={"fingerprint": "0" * 64, "splits": "0" * 64, "versions": {"tuner": "0"}})
    runner.work()
    assert runner.happened(EventKind.TROUBLE) == []


def test_trials_whose_probe_is_not_promoted_are_pruned(make: Make) -> None:
    runner = make(budget={"trials": 12}, training={"promote": 0.1})
    runner.work()
    assert runner.states()[0] == "COMPLETE"
    assert runner.states().count("PRUNED") >= 6
    (reason, *_) = [event.message for event in runner.events if event.what is EventKind.PRUNED]
    assert reason


def test_one_trainer_trains_all_trials(make: Make) -> None:
    runner = make()
    runner.work()
    assert runner.script.num_started == 1


def test_the_epochs_of_a_trial_are_stored(make: Make) -> None:
    runner = make(budget={"trials": 1})
    runner.work()
    assert runner.steps(0) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("keeps_epochs", [False, True])
def test_a_trial_for_which_there_is_less_time_has_fewer_epochs_also_when_it_is_retried(
    make: Make, monkeypatch: pytest.MonkeyPatch, keeps_epochs: bool
) -> None:
    runner = make(budget={"trials": 1})
    # with checkpoints, the new trainer begins after the probe
    runner.script = Script(faults={0: [Fault.LATER_CRASH if keeps_epochs else Fault.LATE_CRASH]}, keeps_epochs=keeps_epochs)

    def shortened(connection: Connection, study: Study, claim: Claim, *, value: float) -> Promotion:
        tables.put(connection, tables.TRIAL_USER, claim.trial_id, {SHORTENED: 2})
        return Promotion(is_promoted=True, epochs=2)

    monkeypatch.setattr(continuation, "decide", shortened)
    runner.work()
    assert (runner.states(), runner.script.started) == (["COMPLETE"], [0, 0])
    assert runner.steps(0) == [1, 2, 3, 4]


def test_a_trial_is_retried_in_a_new_trainer_after_a_crash(make: Make) -> None:
    runner = make(budget={"trials": 2}, training={"promote": 1.0})
    runner.script = Script(faults={0: [Fault.LATE_CRASH]})
    runner.work()
    assert runner.states() == ["COMPLETE", "COMPLETE"]
    assert runner.script.started == [0, 0, 1]
    assert runner.script.num_started == 2
    assert runner.happened(EventKind.REPLACED) == [0]
    assert runner.steps(0) == [1, 2, 3, 4, 5]


def test_a_trial_that_crashes_twice_fails_with_the_end_of_the_log(make: Make) -> None:
    runner = make(budget={"trials": 2}, training={"promote": 1.0})
    runner.script = Script(faults={0: [Fault.CRASH, Fault.CRASH]})
    runner.work()
    assert runner.states() == ["FAIL", "COMPLETE"]
    (failure,) = [event for event in runner.events if event.what is EventKind.FAILED]
    assert "Segmentation fault" in failure.message


def test_weights_are_kept_of_the_rule_and_of_each_best_trial(make: Make) -> None:
    runner = make(budget={"trials": 8}, training={"promote": 1.0})
    runner.work()
    found = runner.study.optuna.get_trials(deepcopy=False)
    values = [trial.value for trial in found]
    expected = [number for number, value in enumerate(values) if number == 0 or value >= max(values[:number])]
    assert [trial.number for trial in found if "weights" in trial.user_attrs] == expected
    assert sorted(path.parent.name for path in runner.folder.rglob("*.weights")) == [f"trial-{number:05d}" for number in expected]


def test_the_best_fine_tuned_trials_keep_their_weights_and_all_keep_their_logits(make: Make) -> None:
    runner = make(budget={"trials": 8}, training={"promote": 1.0}, results={"keep": 3})
    runner.script = Script(writes_logits=True)
    runner.work()
    found = runner.study.optuna.get_trials(deepcopy=False)
    ranked = sorted(found, key=lambda trial: (-trial.value, trial.number))
    kept = sorted({0, *(trial.number for trial in ranked[:3])})
    assert [trial.number for trial in found if "weights" in trial.user_attrs] == kept
    assert sorted(path.parent.name for path in runner.folder.rglob("*.weights")) == [f"trial-{number:05d}" for number in kept]
    assert all(Path(trial.user_attrs["logits"]).is_file() for trial in found)


def test_fewer_trials_keep_their_weights_if_these_are_larger_than_the_limit(make: Make) -> None:
    runner = make(budget={"trials": 8}, training={"promote": 1.0}, results={"keep": 6, "keep_gb": 22e-9})
    runner.script = Script(writes_logits=True)
    runner.work()
    found = runner.study.optuna.get_trials(deepcopy=False)
    ranked = sorted(found, key=lambda trial: (-trial.value, trial.number))
    kept = sorted({0, *(trial.number for trial in ranked[:3])})  # weights of the rehearsal have 7 bytes
    assert [trial.number for trial in found if "weights" in trial.user_attrs] == kept
    assert [trial.user_attrs["weights_bytes"] for trial in found if "weights" in trial.user_attrs] == [7] * len(kept)
    assert sorted(path.parent.name for path in runner.folder.rglob("*.weights")) == [f"trial-{number:05d}" for number in kept]


def test_the_best_trial_keeps_its_weights_even_if_they_are_larger_than_the_limit(make: Make) -> None:
    runner = make(budget={"trials": 5}, training={"promote": 1.0}, results={"keep_gb": 1e-9})
    runner.script = Script(writes_logits=True)
    runner.work()
    found = runner.study.optuna.get_trials(deepcopy=False)
    best = max(found, key=lambda trial: (trial.value, -trial.number))
    assert {trial.number for trial in found if "weights" in trial.user_attrs} == {0, best.number}


def test_a_worker_deletes_no_weights_outside_the_folder_of_the_study(make: Make, tmp_path: Path) -> None:
    runner = make(budget={"trials": 4}, training={"promote": 1.0}, results={"keep": 1})
    runner.script = Script(writes_logits=True)
    other = tmp_path / "other.npz"
    other.write_bytes(b"not of this study")

    def rename(event: Event) -> None:
        if event.what is EventKind.COMPLETED and event.trial == 1:
            _put(runner.study, 1, {"weights": str(other), "logits": str(other)})

    runner.react = rename
    runner.work()
    assert other.exists()


def _put(study: Study, number: int, attributes: dict[str, Any]) -> None:
    def write(connection: Connection) -> None:
        tables.put(connection, tables.TRIAL_USER, tables.trial_id(connection, study.id, number), attributes)

    study.storage.write(write)


def test_a_failure_ends_only_its_trial(make: Make) -> None:
    runner = make(budget={"trials": 3}, training={"promote": 1.0})
    runner.script = Script(faults={1: [Fault.FAIL]})
    runner.work()
    assert runner.states() == ["COMPLETE", "FAIL", "COMPLETE"]
    assert runner.script.num_started == 1


def test_a_loss_that_is_not_finite_prunes_the_trial_with_the_reason(make: Make) -> None:
    runner = make(budget={"trials": 2}, training={"promote": 1.0})
    runner.script = Script(faults={1: [Fault.NOT_FINITE]})
    runner.work()
    assert runner.states() == ["COMPLETE", "PRUNED"]
    (pruned,) = [event for event in runner.events if event.what is EventKind.PRUNED]
    assert "not finite" in pruned.message


def test_a_trial_whose_trainer_hangs_is_retried_in_a_new_one(make: Make) -> None:
    runner = make(budget={"trials": 2}, training={"promote": 1.0})
    runner.script = Script(faults={0: [Fault.HANG]})
    runner.limits = Limits(hang_seconds=0.3)
    runner.work()
    assert runner.states() == ["COMPLETE", "COMPLETE"]
    assert runner.script.started == [0, 0, 1]
    assert runner.happened(EventKind.REPLACED) == [0]


@pytest.mark.parametrize("first", [Fault.HANG, Fault.CRASH])
def test_a_trial_whose_second_trainer_hangs_fails(make: Make, first: Fault) -> None:
    runner = make(budget={"trials": 2}, training={"promote": 1.0})
    runner.script = Script(faults={0: [first, Fault.HANG]})
    runner.limits = Limits(hang_seconds=0.3)
    runner.work()
    assert runner.states() == ["FAIL", "COMPLETE"]
    assert runner.script.started == [0, 0, 1]
    (failure,) = [event for event in runner.events if event.what is EventKind.FAILED]
    assert failure.message.startswith("hang")


def test_a_trainer_that_reports_that_it_is_busy_does_not_hang(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pass_time = Rehearsal._pass_time

    def computing(rehearsal: Rehearsal) -> Iterator[messages.Message | None]:
        for _ in pass_time(rehearsal):
            yield messages.Busy(trial=0)
            time.sleep(0.002)

    monkeypatch.setattr(Rehearsal, "_pass_time", computing)
    runner = make(budget={"trials": 1}, training={"promote": 1.0})
    runner.script = Script(epoch_seconds=1.0, fine_tune_epochs=1)
    runner.limits = Limits(hang_seconds=0.4)
    runner.work()
    assert runner.states() == ["COMPLETE"]


def test_three_failures_of_one_kind_stop_the_study(make: Make) -> None:
    runner = make(budget={"trials": 10})
    runner.script = Script(always=Fault.FAIL)
    runner.work()
    assert runner.states() == ["FAIL"] * 3
    assert "ValueError" in runner.events[-1].message


def test_a_stopped_study_continues_after_resume(make: Make) -> None:
    runner = make(budget={"trials": 5}, training={"promote": 1.0})
    runner.script = Script(faults={0: [Fault.FAIL], 1: [Fault.FAIL], 2: [Fault.FAIL]})
    runner.work()
    assert len(runner.states()) == 3
    trials.resume(runner.study)
    runner.again().work()
    assert runner.states() == ["FAIL", "FAIL", "FAIL", "COMPLETE", "COMPLETE"]


def test_a_trainer_above_its_memory_limit_is_replaced_between_trials(make: Make) -> None:
    runner = make(budget={"trials": 3})
    runner.script = Script(memory_bytes=2 * 2**30)
    runner.limits = Limits(memory_bytes=2**30)
    seen: list[Event] = []

    def shrink(event: Event) -> None:
        seen.append(event)
        if event.what is EventKind.REPLACED:
            runner.script.memory_bytes = 0

    runner.react = shrink
    runner.work()
    assert runner.script.num_started == 2
    assert len(runner.states()) == 3


def test_the_next_worker_resumes_the_trial_of_a_stopped_worker(make: Make) -> None:
    runner = make(budget={"trials": 2}, training={"promote": 1.0})
    runner.react = lambda event: runner.stopping.ask() if (event.trial, event.step) == (0, 3) else None
    runner.work()
    assert runner.states() == ["RUNNING"]
    assert runner.happened(EventKind.SUSPENDED) == [0]
    again = runner.again()
    again.work()
    assert again.states() == ["COMPLETE", "COMPLETE"]
    assert again.happened(EventKind.RESUMED) == [0]
    assert [event.step for event in again.events if event.what is EventKind.EPOCH and event.trial == 0] == [4, 5]
    assert runner.steps(0) == [1, 2, 3, 4, 5]


def test_a_resumed_trial_counts_no_epoch_twice(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make(budget={"trials": 1}, training={"promote": 1.0})
    runner.script = Script(keeps_epochs=True)
    runner.react = lambda event: runner.stopping.ask() if (event.trial, event.step) == (0, 3) else None
    runner.work()
    stored = runner.study.storage.read(lambda connection: epochs.read(connection, runner.study.id, 0))
    real, reports = trials.report, []

    def report(study: Study, claim: trials.Claim, epochs: Sequence[messages.Epoch]) -> None:
        reports.append([epoch.step for epoch in epochs])
        real(study, claim, epochs)

    monkeypatch.setattr(trials, "report", report)
    again = runner.again()
    again.work()
    assert reports == [[1, 2, 3], [4], [5]]
    told = [event for event in again.events if event.what is EventKind.EPOCH]
    assert [event.step for event in told] == [4, 5]
    assert runner.steps(0) == [1, 2, 3, 4, 5]
    assert runner.study.storage.read(lambda connection: epochs.read(connection, runner.study.id, 0))[:3] == stored
    [trial] = runner.study.optuna.get_trials()
    assert trial.user_attrs["epochs"] == 5


def test_a_worker_stopped_at_the_probe_releases_its_trial(make: Make) -> None:
    runner = make(budget={"trials": 2}, training={"promote": 1.0})
    runner.react = lambda event: runner.stopping.ask() if (event.trial, event.step) == (0, 2) else None
    runner.work()
    assert runner.states() == ["RUNNING"]
    runner.again().work()
    assert runner.states() == ["COMPLETE", "COMPLETE"]


def test_an_urgent_stop_does_not_wait_for_the_trainer(make: Make) -> None:
    runner = make(budget={"trials": 2})
    runner.script = Script(faults={0: [Fault.HANG]})

    def hurry(event: Event) -> None:
        if event.what is EventKind.EPOCH:
            runner.stopping.ask()
            runner.stopping.ask()

    runner.react = hurry
    runner.work()
    assert runner.states() == ["RUNNING"]


def test_unusable_data_end_the_worker_with_a_request_error(make: Make) -> None:
    runner = make()
    runner.script = Script(refusal="no images of cats")
    with pytest.raises(DataError, match="no images of cats"):
        runner.work()
    assert runner.states() == []


def test_a_trial_with_an_encrypted_checkpoint_waits_for_a_worker_with_the_key(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make(budget={"trials": 2}, training={"promote": 1.0})
    runner.script = Script(faults={0: [Fault.FAIL]})

    def find_locked(self: Rehearsal, fault: Fault, train: messages.Train) -> Iterator[messages.Message]:
        Path(train.checkpoint).parent.mkdir(parents=True)
        Path(train.checkpoint).write_bytes(b"encrypted")
        yield messages.Failed(trial=train.trial, error="NoKey", message="set TUNER_ARTIFACT_KEY", is_request=True)

    with monkeypatch.context() as patched:
        patched.setattr(Rehearsal, "_play_fault", find_locked)
        with pytest.raises(RequestError, match="set TUNER_ARTIFACT_KEY"):
            runner.work()
    (checkpoint,) = (runner.folder / "artifacts").rglob("checkpoint")
    assert checkpoint.read_bytes() == b"encrypted"
    assert (runner.states(), runner.happened(EventKind.SUSPENDED), runner.happened(EventKind.FAILED)) == (["RUNNING"], [0], [])
    checkpoint.unlink()
    runner.again().work()
    assert runner.states() == ["COMPLETE", "COMPLETE"]


def test_a_worker_drops_a_trial_that_was_given_to_another_worker(make: Make) -> None:
    runner = make(budget={"trials": 2}, training={"promote": 1.0})
    others = trials.WorkerId.here("other")

    def steal(event: Event) -> None:
        if (event.trial, event.step) == (0, 3):
            by_hand.grow_old(runner.study, leases.PATIENCE_SECONDS + 1)
            trials.claim(runner.study, others, num_train=80, num_classes=2, epochs=3)

    runner.react = steal
    runner.work()
    assert runner.happened(EventKind.LOST) == [0]
    assert runner.happened(EventKind.COMPLETED) == [1]
    assert runner.states() == ["RUNNING", "COMPLETE"]


def test_a_worker_keeps_the_checkpoint_of_a_trial_that_it_lost(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make(budget={"trials": 1})
    checkpoint = runner.folder / "artifacts" / "study" / "trial-00000" / "checkpoint"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text('{"step": 0}')

    def lose(*given: object) -> None:
        raise LeaseLost("it was given to another worker")

    runner.timing = WorkerTiming(report_seconds=-1.0)
    monkeypatch.setattr(trials, "report", lose)
    monkeypatch.setattr(trials, "release", lose)
    runner.react = lambda event: runner.stopping.ask() if event.what is EventKind.LOST else None
    runner.work()
    assert runner.happened(EventKind.LOST) == [0]
    assert checkpoint.exists()


def test_a_worker_keeps_the_weights_of_a_trial_that_it_lost(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make(budget={"trials": 8}, training={"promote": 1.0})
    real = trials.finish

    def lose(study: Study, claim: trials.Claim, finished: messages.Finished, *given: Any, **named: Any) -> None:
        if finished.weights is None:
            raise LeaseLost("it was given to another worker")
        real(study, claim, finished, *given, **named)

    monkeypatch.setattr(trials, "finish", lose)
    runner.react = lambda event: runner.stopping.ask() if event.what is EventKind.LOST else None
    runner.work()
    (lost,) = runner.happened(EventKind.LOST)
    assert list((runner.folder / "artifacts" / "study" / f"trial-{lost:05d}").glob("*.weights"))


@pytest.mark.parametrize(
    ("seconds", "num_reports"),
    [
        (3600.0, 3),  # the epochs of the probe arrive with the decision on it
        (-1.0, 5),  # one report for each
    ],
)
def test_fast_epochs_of_a_probe_share_a_report(make: Make, monkeypatch: pytest.MonkeyPatch, seconds: float, num_reports: int) -> None:
    runner = make(budget={"trials": 1}, pruner="none")
    reports: list[int] = []
    real = trials.report

    def report(study: Any, claim: Any, epochs: Any) -> None:
        reports.append(len(epochs))
        real(study, claim, epochs)

    runner.timing = WorkerTiming(report_seconds=seconds)
    monkeypatch.setattr(trials, "report", report)
    runner.work()
    assert reports == [1] * num_reports
    [trial] = runner.study.optuna.get_trials()
    assert sorted(trial.intermediate_values) == [1, 2, 3, 4, 5]


def test_reports_wait_for_an_unreachable_storage(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make(budget={"trials": 1})
    real, outages = trials.report, iter([True, True, True])

    def report(*given: object) -> None:
        if next(outages, False):
            raise StorageError("away")
        real(*given)  # type: ignore[arg-type]

    runner.timing = WorkerTiming(report_seconds=-1.0)
    monkeypatch.setattr(trials, "report", report)
    runner.work()
    assert runner.states() == ["COMPLETE"]
    assert runner.steps(0) == [1, 2, 3, 4, 5]
    assert len(runner.happened(EventKind.TROUBLE)) == 1


def test_a_result_waits_for_an_unreachable_storage(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make(budget={"trials": 1})
    real, outages = trials.finish, iter([True])

    def finish(*given: object, **named: object) -> None:
        if next(outages, False):
            raise StorageError("away")
        real(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(trials, "finish", finish)
    runner.work()
    assert runner.states() == ["COMPLETE"]


def test_a_worker_waits_for_its_next_trial_while_the_storage_is_unreachable(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make(budget={"trials": 1})
    real, outages = trials.claim, iter([True])

    def claim(*given: object, **named: object) -> object:
        if next(outages, False):
            raise StorageError("away")
        return real(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(trials, "claim", claim)
    runner.work()
    assert runner.states() == ["COMPLETE"]
    assert [event.message for event in runner.events if event.what is EventKind.TROUBLE] == [
        "the next trial waits until the storage answers: away"
    ]


def test_a_worker_that_waits_for_the_storage_can_be_stopped(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*given: object, **named: object) -> object:
        raise StorageError("away")

    runner = make()
    runner.react = lambda event: runner.stopping.ask() if event.what is EventKind.TROUBLE else None
    monkeypatch.setattr(trials, "claim", away)
    runner.work()
    assert runner.events[-1].what is EventKind.ENDED


def test_an_outage_after_the_last_result_does_not_fail_the_worker(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*given: object) -> None:
        raise StorageError("away")

    runner = make(budget={"trials": 1})
    monkeypatch.setattr(trials, "stop_reason", away)
    runner.work()
    assert runner.states() == ["COMPLETE"]
    assert runner.events[-1].what is EventKind.ENDED


def test_a_trainer_that_cannot_be_prepared_is_a_training_error(make: Make) -> None:
    from tuner.workers.worker import trainer as worker_trainer
    from tuner.workers.worker.rehearsal import Rehearsal
    from tuner.workers.worker.trainer import TrainerDied

    class Stillborn(Rehearsal):
        def receive(self, timeout_seconds: float) -> None:
            raise TrainerDied("left with exit code 1", "ImportError: no keras")

    runner = make()
    trainer = worker_trainer.WarmTrainer(lambda: Stillborn(runner.script), runner.limits, runner.stopping)
    with pytest.raises(TrainingError, match="no keras"):
        trainer.warm_up(messages.Prepare(spec=runner.study.spec.model_dump_json(), cache="."))
    assert runner.script.num_started == 2


def test_a_trainer_with_other_images_is_refused_before_it_trains(make: Make) -> None:
    runner = make(budget={"trials": 2})
    runner.work()
    longer = runner.again()
    longer.study = make(budget={"trials": 4}).study
    longer.script = Script(fine_tune_epochs=5)
    with pytest.raises(StudyError, match="started with other images:\n  epochs of fine-tuning: 3 -> 5"):
        longer.work()
    assert longer.script.started == []
    assert len(longer.states()) == 2


def test_a_study_with_a_timeout_ends_before_it_and_says_why(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    search = {"unfreeze": 1.0, "probe_solver": "sgd"}
    runner = make(budget={"trials": None, "timeout": 300}, search=search, training={"probe_epochs": 2})
    runner.script = Script(probe_seconds=4.0, fine_tune_seconds=60.0)
    passed = [0.0]

    def pass_time(event: Event) -> None:
        seconds = {EventKind.STARTED: 4.0, EventKind.PROMOTED: 60.0}
        passed[0] += seconds.get(event.what, 0.0)
        monkeypatch.setitem(tables._CLOCKS, "sqlite", f"({1_000_000 + passed[0]})")

    monkeypatch.setitem(tables._CLOCKS, "sqlite", "1000000")
    runner.react = pass_time
    runner.work()
    assert runner.states().count("COMPLETE") == 4
    assert 240 <= passed[0] <= 300
    reasons = {event.message for event in runner.events if event.what is EventKind.PRUNED}
    assert reasons == {"its probe is not among the best, for which the time is kept"}
    assert runner.events[-1].message.endswith("are too few for another trial, which takes at least about 1 min 10 s")
