"""The loop of a worker, with a trainer that plays a script."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tuner.errors import DataError, LeaseLost, RequestError, StorageError, StudyError, TrainingError
from tuner.protocol import messages
from tuner.storage import epochs
from tuner.studies import trials
from tuner.studies.study import Study
from tuner.workers.worker import supervision
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.rehearsal import Fault, Rehearsal, Script
from tuner.workers.worker.trainer import Limits

Make = Callable[..., Any]


def test_a_worker_spends_the_budget_and_ends(make: Make) -> None:
    bench = make(training={"promote": 1.0})
    bench.work()
    assert bench.states() == ["COMPLETE"] * 4
    assert bench.happened(EventKind.STARTED) == [0, 1, 2, 3]
    assert bench.happened(EventKind.COMPLETED) == [0, 1, 2, 3]
    assert bench.events[-1].what is EventKind.ENDED
    assert "4 trials" in bench.events[-1].message


def test_a_worker_that_joins_a_finished_study_starts_nothing(make: Make) -> None:
    bench = make()
    bench.work()
    again = bench.again()
    again.work()
    assert again.happened(EventKind.STARTED) == []
    assert len(again.states()) == 4


def test_what_differs_from_what_an_exported_config_was_trained_with_is_told_before_it_is_trained(make: Make) -> None:
    trained = {"fingerprint": "1" * 64, "splits": "0" * 64, "versions": {"tuner": "9", "optuna": "5"}}
    bench = make(budget={"trials": 1}, result=trained)
    bench.work()
    told = [event.message for event in bench.events if event.what is EventKind.TROUBLE]
    assert told == [
        f"the images or their labels are not those that the exported trial was trained on: {'1' * 64} -> {'0' * 64}",
        "the exported trial was trained with other versions, so that numbers may differ a little: tuner 9 -> 0",
    ]
    whats = [event.what for event in bench.events]
    assert whats.index(EventKind.TROUBLE) < whats.index(EventKind.STARTED)


def test_nothing_is_told_of_an_exported_config_where_all_is_as_it_was(make: Make) -> None:
    bench = make(budget={"trials": 1}, result={"fingerprint": "0" * 64, "splits": "0" * 64, "versions": {"tuner": "0"}})
    bench.work()
    assert bench.happened(EventKind.TROUBLE) == []


def test_probes_that_do_not_earn_fine_tuning_are_pruned(make: Make) -> None:
    bench = make(budget={"trials": 12}, training={"promote": 0.1})
    bench.work()
    assert bench.states()[0] == "COMPLETE"
    assert bench.states().count("PRUNED") >= 6
    (reason, *_) = [event.message for event in bench.events if event.what is EventKind.PRUNED]
    assert reason


def test_trials_are_trained_with_one_warm_trainer(make: Make) -> None:
    bench = make()
    bench.work()
    assert bench.script.num_started == 1


def test_the_epochs_of_a_trial_are_stored(make: Make) -> None:
    bench = make(budget={"trials": 1})
    bench.work()
    assert bench.steps(0) == [1, 2, 3, 4, 5]


def test_a_crash_is_tried_again_in_a_fresh_trainer(make: Make) -> None:
    bench = make(budget={"trials": 2}, training={"promote": 1.0})
    bench.script = Script(faults={0: [Fault.LATE_CRASH]})
    bench.work()
    assert bench.states() == ["COMPLETE", "COMPLETE"]
    assert bench.script.started == [0, 0, 1]
    assert bench.script.num_started == 2
    assert bench.happened(EventKind.REPLACED) == [0]
    assert bench.steps(0) == [1, 2, 3, 4, 5]


def test_a_second_crash_of_a_trial_is_a_failure_with_its_last_words(make: Make) -> None:
    bench = make(budget={"trials": 2}, training={"promote": 1.0})
    bench.script = Script(faults={0: [Fault.CRASH, Fault.CRASH]})
    bench.work()
    assert bench.states() == ["FAIL", "COMPLETE"]
    (failure,) = [event for event in bench.events if event.what is EventKind.FAILED]
    assert "Segmentation fault" in failure.message


def test_weights_are_kept_of_the_rule_and_of_trials_that_were_the_best_when_they_ended(make: Make) -> None:
    bench = make(budget={"trials": 8}, training={"promote": 1.0})
    bench.work()
    found = bench.study.optuna.get_trials(deepcopy=False)
    values = [trial.value for trial in found]
    expected = [number for number, value in enumerate(values) if number == 0 or value >= max(values[:number])]
    assert [trial.number for trial in found if "weights" in trial.user_attrs] == expected
    assert sorted(path.parent.name for path in bench.folder.rglob("*.weights")) == [f"trial-{number:05d}" for number in expected]


def test_a_failure_costs_one_trial(make: Make) -> None:
    bench = make(budget={"trials": 3}, training={"promote": 1.0})
    bench.script = Script(faults={1: [Fault.FAIL]})
    bench.work()
    assert bench.states() == ["COMPLETE", "FAIL", "COMPLETE"]
    assert bench.script.num_started == 1


def test_a_loss_that_is_not_finite_prunes_the_trial_with_the_reason(make: Make) -> None:
    bench = make(budget={"trials": 2}, training={"promote": 1.0})
    bench.script = Script(faults={1: [Fault.NOT_FINITE]})
    bench.work()
    assert bench.states() == ["COMPLETE", "PRUNED"]
    (pruned,) = [event for event in bench.events if event.what is EventKind.PRUNED]
    assert "not finite" in pruned.message


def test_a_trial_whose_trainer_hangs_is_tried_again_in_a_fresh_one(make: Make) -> None:
    bench = make(budget={"trials": 2}, training={"promote": 1.0})
    bench.script = Script(faults={0: [Fault.HANG]})
    bench.limits = Limits(hang_seconds=0.3)
    bench.work()
    assert bench.states() == ["COMPLETE", "COMPLETE"]
    assert bench.script.started == [0, 0, 1]
    assert bench.happened(EventKind.REPLACED) == [0]


@pytest.mark.parametrize("first", [Fault.HANG, Fault.CRASH])
def test_a_trial_whose_second_trainer_hangs_has_failed(make: Make, first: Fault) -> None:
    bench = make(budget={"trials": 2}, training={"promote": 1.0})
    bench.script = Script(faults={0: [first, Fault.HANG]})
    bench.limits = Limits(hang_seconds=0.3)
    bench.work()
    assert bench.states() == ["FAIL", "COMPLETE"]
    assert bench.script.started == [0, 0, 1]
    (failure,) = [event for event in bench.events if event.what is EventKind.FAILED]
    assert failure.message.startswith("hang")


def test_a_trainer_that_says_that_it_is_busy_is_not_taken_to_hang(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pass_time = Rehearsal._pass_time

    def computing(rehearsal: Rehearsal) -> Iterator[messages.Message | None]:
        for number, _ in enumerate(pass_time(rehearsal)):
            yield messages.Busy(trial=0) if number % 10 == 0 else None

    monkeypatch.setattr(Rehearsal, "_pass_time", computing)
    bench = make(budget={"trials": 1}, training={"promote": 1.0})
    bench.script = Script(epoch_seconds=1.0, fine_tune_epochs=1)
    bench.limits = Limits(hang_seconds=0.4)
    bench.work()
    assert bench.states() == ["COMPLETE"]


def test_three_failures_of_one_kind_stop_the_study(make: Make) -> None:
    bench = make(budget={"trials": 10})
    bench.script = Script(always=Fault.FAIL)
    bench.work()
    assert bench.states() == ["FAIL"] * 3
    assert "ValueError" in bench.events[-1].message


def test_a_study_that_stopped_goes_on_when_it_is_resumed(make: Make) -> None:
    bench = make(budget={"trials": 5}, training={"promote": 1.0})
    bench.script = Script(faults={0: [Fault.FAIL], 1: [Fault.FAIL], 2: [Fault.FAIL]})
    bench.work()
    assert len(bench.states()) == 3
    trials.resume(bench.study)
    bench.again().work()
    assert bench.states() == ["FAIL", "FAIL", "FAIL", "COMPLETE", "COMPLETE"]


def test_a_trainer_that_outgrows_its_limit_is_replaced_between_trials(make: Make) -> None:
    bench = make(budget={"trials": 3})
    bench.script = Script(memory_bytes=2 * 2**30)
    bench.limits = Limits(memory_bytes=2**30)
    seen: list[Event] = []

    def shrink(event: Event) -> None:
        seen.append(event)
        if event.what is EventKind.REPLACED:
            bench.script.memory_bytes = 0

    bench.react = shrink
    bench.work()
    assert bench.script.num_started == 2
    assert len(bench.states()) == 3


def test_a_stopped_worker_hands_its_trial_back_and_the_next_goes_on_from_there(make: Make) -> None:
    bench = make(budget={"trials": 2}, training={"promote": 1.0})
    bench.react = lambda event: bench.stopping.ask() if (event.trial, event.step) == (0, 3) else None
    bench.work()
    assert bench.states() == ["RUNNING"]
    assert bench.happened(EventKind.SUSPENDED) == [0]
    again = bench.again()
    again.work()
    assert again.states() == ["COMPLETE", "COMPLETE"]
    assert again.happened(EventKind.RESUMED) == [0]
    assert [event.step for event in again.events if event.what is EventKind.EPOCH and event.trial == 0] == [4, 5]
    assert bench.steps(0) == [1, 2, 3, 4, 5]


def test_a_trial_that_is_taken_up_counts_no_epoch_twice(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(budget={"trials": 1}, training={"promote": 1.0})
    bench.script = Script(keeps_epochs=True)
    bench.react = lambda event: bench.stopping.ask() if (event.trial, event.step) == (0, 3) else None
    bench.work()
    stored = bench.study.storage.read(lambda connection: epochs.read(connection, bench.study.id, 0))
    real, reports = trials.report, []

    def report(study: Study, claim: trials.Claim, epochs: Sequence[messages.Epoch]) -> None:
        reports.append([epoch.step for epoch in epochs])
        real(study, claim, epochs)

    monkeypatch.setattr(trials, "report", report)
    again = bench.again()
    again.work()
    assert reports == [[1, 2, 3], [4], [5]]
    told = [event for event in again.events if event.what is EventKind.EPOCH]
    assert [event.step for event in told] == [4, 5]
    assert bench.steps(0) == [1, 2, 3, 4, 5]
    assert bench.study.storage.read(lambda connection: epochs.read(connection, bench.study.id, 0))[:3] == stored
    [trial] = bench.study.optuna.get_trials()
    assert trial.user_attrs["epochs"] == 5


def test_a_worker_that_is_stopped_at_the_probe_hands_its_trial_back(make: Make) -> None:
    bench = make(budget={"trials": 2}, training={"promote": 1.0})
    bench.react = lambda event: bench.stopping.ask() if (event.trial, event.step) == (0, 2) else None
    bench.work()
    assert bench.states() == ["RUNNING"]
    bench.again().work()
    assert bench.states() == ["COMPLETE", "COMPLETE"]


def test_a_worker_in_a_hurry_waits_for_nothing(make: Make) -> None:
    bench = make(budget={"trials": 2})
    bench.script = Script(faults={0: [Fault.HANG]})

    def hurry(event: Event) -> None:
        if event.what is EventKind.EPOCH:
            bench.stopping.ask()
            bench.stopping.ask()

    bench.react = hurry
    bench.work()
    assert bench.states() == ["RUNNING"]


def test_data_that_cannot_be_used_ends_the_worker_with_the_request_error(make: Make) -> None:
    bench = make()
    bench.script = Script(refusal="no images of cats")
    with pytest.raises(DataError, match="no images of cats"):
        bench.work()
    assert bench.states() == []


def test_a_trial_whose_checkpoint_is_encrypted_with_a_key_that_is_not_here_waits_for_who_has_it(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(budget={"trials": 2}, training={"promote": 1.0})
    bench.script = Script(faults={0: [Fault.FAIL]})

    def find_locked(self: Rehearsal, fault: Fault, train: messages.Train) -> Iterator[messages.Message]:
        Path(train.checkpoint).parent.mkdir(parents=True)
        Path(train.checkpoint).write_bytes(b"encrypted")
        yield messages.Failed(trial=train.trial, error="NoKey", message="set TUNER_ARTIFACT_KEY", is_request=True)

    with monkeypatch.context() as patched:
        patched.setattr(Rehearsal, "_play_fault", find_locked)
        with pytest.raises(RequestError, match="set TUNER_ARTIFACT_KEY"):
            bench.work()
    (checkpoint,) = (bench.folder / "artifacts").rglob("checkpoint")
    assert checkpoint.read_bytes() == b"encrypted"
    assert (bench.states(), bench.happened(EventKind.SUSPENDED), bench.happened(EventKind.FAILED)) == (["RUNNING"], [0], [])
    checkpoint.unlink()
    bench.again().work()
    assert bench.states() == ["COMPLETE", "COMPLETE"]


def test_a_trial_that_was_given_to_another_worker_is_dropped(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(budget={"trials": 2}, training={"promote": 1.0})
    others = trials.WorkerId.here("other")

    def steal(event: Event) -> None:
        if (event.trial, event.step) == (0, 3):
            from tuner.studies import leases

            monkeypatch.setattr(leases, "PATIENCE_SECONDS", -1.0)
            trials.claim(bench.study, others, num_train=80, num_classes=2, epochs=3)
            monkeypatch.undo()

    bench.react = steal
    bench.work()
    assert bench.happened(EventKind.LOST) == [0]
    assert bench.happened(EventKind.COMPLETED) == [1]
    assert bench.states() == ["RUNNING", "COMPLETE"]


def test_the_checkpoint_of_a_lost_trial_stays_with_the_worker_that_has_it_now(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(budget={"trials": 1})
    checkpoint = bench.folder / "artifacts" / "study" / "trial-00000" / "checkpoint"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text('{"step": 0}')

    def lose(*given: object) -> None:
        raise LeaseLost("it was given to another worker")

    monkeypatch.setattr(supervision, "REPORT_SECONDS", -1.0)
    monkeypatch.setattr(trials, "report", lose)
    monkeypatch.setattr(trials, "release", lose)
    bench.react = lambda event: bench.stopping.ask() if event.what is EventKind.LOST else None
    bench.work()
    assert bench.happened(EventKind.LOST) == [0]
    assert checkpoint.exists()


def test_the_weights_of_a_lost_trial_stay_with_the_worker_that_has_it_now(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(budget={"trials": 8}, training={"promote": 1.0})
    real = trials.finish

    def lose(study: Study, claim: trials.Claim, finished: messages.Finished, *given: Any, **named: Any) -> None:
        if finished.weights is None:
            raise LeaseLost("it was given to another worker")
        real(study, claim, finished, *given, **named)

    monkeypatch.setattr(trials, "finish", lose)
    bench.react = lambda event: bench.stopping.ask() if event.what is EventKind.LOST else None
    bench.work()
    (lost,) = bench.happened(EventKind.LOST)
    assert list((bench.folder / "artifacts" / "study" / f"trial-{lost:05d}").glob("*.weights"))


@pytest.mark.parametrize(
    ("seconds", "num_reports"),
    [
        (3600.0, 3),  # those of the probe come with the decision on it
        (-1.0, 5),  # each by itself
    ],
)
def test_epochs_of_a_probe_that_come_fast_share_a_report(
    make: Make, monkeypatch: pytest.MonkeyPatch, seconds: float, num_reports: int
) -> None:
    bench = make(budget={"trials": 1}, pruner="none")
    reports: list[int] = []
    real = trials.report

    def report(study: Any, claim: Any, epochs: Any) -> None:
        reports.append(len(epochs))
        real(study, claim, epochs)

    monkeypatch.setattr(supervision, "REPORT_SECONDS", seconds)
    monkeypatch.setattr(trials, "report", report)
    bench.work()
    assert reports == [1] * num_reports
    [trial] = bench.study.optuna.get_trials()
    assert sorted(trial.intermediate_values) == [1, 2, 3, 4, 5]


def test_reports_wait_for_a_storage_that_is_away(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(budget={"trials": 1})
    real, outages = trials.report, iter([True, True, True])

    def report(*given: object) -> None:
        if next(outages, False):
            raise StorageError("away")
        real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(supervision, "REPORT_SECONDS", -1.0)
    monkeypatch.setattr(trials, "report", report)
    bench.work()
    assert bench.states() == ["COMPLETE"]
    assert bench.steps(0) == [1, 2, 3, 4, 5]
    assert len(bench.happened(EventKind.TROUBLE)) == 1


def test_a_result_waits_for_a_storage_that_is_away(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(budget={"trials": 1})
    real, outages = trials.finish, iter([True])

    def finish(*given: object, **named: object) -> None:
        if next(outages, False):
            raise StorageError("away")
        real(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(trials, "finish", finish)
    bench.work()
    assert bench.states() == ["COMPLETE"]


def test_a_worker_waits_for_its_next_trial_while_the_storage_is_away(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(budget={"trials": 1})
    real, outages = trials.claim, iter([True])

    def claim(*given: object, **named: object) -> object:
        if next(outages, False):
            raise StorageError("away")
        return real(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(trials, "claim", claim)
    bench.work()
    assert bench.states() == ["COMPLETE"]
    assert [event.message for event in bench.events if event.what is EventKind.TROUBLE] == [
        "the next trial waits until the storage is back: away"
    ]


def test_a_worker_that_waits_for_the_storage_ends_when_it_is_asked_to(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*given: object, **named: object) -> object:
        raise StorageError("away")

    bench = make()
    bench.react = lambda event: bench.stopping.ask() if event.what is EventKind.TROUBLE else None
    monkeypatch.setattr(trials, "claim", away)
    bench.work()
    assert bench.events[-1].what is EventKind.ENDED


def test_a_storage_that_is_away_once_all_is_written_takes_nothing_from_a_good_end(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*given: object) -> None:
        raise StorageError("away")

    bench = make(budget={"trials": 1})
    monkeypatch.setattr(trials, "stop_reason", away)
    bench.work()
    assert bench.states() == ["COMPLETE"]
    assert bench.events[-1].what is EventKind.ENDED


def test_a_trainer_that_cannot_be_made_ready_is_a_training_error(make: Make) -> None:
    from tuner.workers.worker import trainer as worker_trainer
    from tuner.workers.worker.rehearsal import Rehearsal
    from tuner.workers.worker.trainer import TrainerDied

    class Stillborn(Rehearsal):
        def receive(self, timeout_seconds: float) -> None:
            raise TrainerDied("left with exit code 1", "ImportError: no keras")

    bench = make()
    trainer = worker_trainer.WarmTrainer(lambda: Stillborn(bench.script), bench.limits, bench.stopping)
    with pytest.raises(TrainingError, match="no keras"):
        trainer.warm_up(messages.Prepare(spec=bench.study.spec.model_dump_json(), cache="."))
    assert bench.script.num_started == 2


def test_a_trainer_that_finds_other_images_than_the_first_is_refused_before_it_trains(make: Make) -> None:
    bench = make(budget={"trials": 2})
    bench.work()
    longer = bench.again()
    longer.study = make(budget={"trials": 4}).study
    longer.script = Script(fine_tune_epochs=5)
    with pytest.raises(StudyError, match="begun with other images:\n  epochs of fine-tuning: 3 -> 5"):
        longer.work()
    assert longer.script.started == []
    assert len(longer.states()) == 2
