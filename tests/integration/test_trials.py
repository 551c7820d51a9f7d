"""The life of a trial in the storage, on each kind of database."""

import dataclasses
import itertools
import math
import os
from collections.abc import Callable
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState
from optuna_dashboard._note import get_note, get_note_from_system_attrs, save_note

from tests.integration.conftest import Begin
from tests.studies import by_hand
from tuner.errors import LeaseLost, StudyError
from tuner.protocol import messages
from tuner.protocol.messages import Ending
from tuner.storage import epochs, tables
from tuner.storage.attributes import PREPARED
from tuner.storage.engine import Storage
from tuner.storage.epochs import EpochRow
from tuner.studies import claims, data_check, leases, trials
from tuner.studies import study as studies
from tuner.studies.study import Study
from tuner.studies.trials import WorkerId
from tuner.studies.workers import WorkerStatus
from tuner.views import status


def stored(study: Study, number: int = 0) -> FrozenTrial:
    """Return a trial as plain Optuna reads it."""
    return optuna.load_study(study_name=study.name, storage=study.storage.rdb).get_trials()[number]


def test_optuna_reads_a_completed_trial_as_its_own(begin: Begin) -> None:
    study = begin()
    worker = WorkerId.here("w1")
    claimed = by_hand.must_claim(study, worker)
    curve = by_hand.epochs(claimed, [0.5, 0.6, 0.4, 0.7])
    trials.report(study, claimed, curve[:3])
    trials.finish(study, claimed, by_hand.finished(claimed, 0.7), curve, device=by_hand.PREPARED.device)
    trial = stored(study)
    assert (trial.state, trial.value, trial.number) == (TrialState.COMPLETE, 0.7, 0)
    assert trial.intermediate_values == {1: 0.5, 2: 0.6, 3: 0.6, 4: 0.7}
    assert trial.params["optimizer"] == "adamw"
    assert trial.distributions["dropout"] == optuna.distributions.FloatDistribution(0.0, 0.5)
    assert trials.hyperparameters(trial) == claimed.hyperparameters
    assert trial.user_attrs["seed"] == claimed.seed
    assert trial.user_attrs["worker"] == worker.name
    assert trial.user_attrs["stage"] == "fine_tune"
    assert trial.user_attrs["seconds"] == 10.0
    assert trial.duration is not None and 0 <= trial.duration.total_seconds() < 60


def test_a_value_that_is_not_finite_is_not_stored_as_an_attribute(begin: Begin) -> None:
    study = begin()
    claimed = by_hand.must_claim(study)
    curve = [epoch.model_copy(update={"validation_loss": math.nan, "accuracy": math.inf}) for epoch in by_hand.epochs(claimed, [0.5])]
    trials.finish(study, claimed, by_hand.finished(claimed, 0.5), curve, device="cpu")
    trials.keep_test(study, messages.Evaluated(trial=0, accuracy=0.5, loss=math.nan, num_images=2, confusion=((1,),)))
    query = sqlalchemy.select(tables.TRIAL_USER.c.value_json).where(tables.TRIAL_USER.c.trial_id == claimed.trial_id)
    written = study.storage.read(lambda connection: connection.execute(query).scalars().all())
    assert not [text for text in written if "NaN" in text or "Infinity" in text]
    assert stored(study).user_attrs["test"] == {"accuracy": 0.5, "num_images": 2}


def test_the_curve_is_stored_as_measured(begin: Begin) -> None:
    study = begin()
    claimed = by_hand.must_claim(study)
    measured = by_hand.epochs(claimed, [0.5, 0.6, 0.4])
    measured[1] = measured[1].model_copy(update={"loss": float("nan")})
    trials.report(study, claimed, measured)
    read = study.storage.read(lambda connection: epochs.read(connection, study.id, 0))
    assert [epoch.validation_accuracy for epoch in read] == [0.5, 0.6, 0.4]
    assert read[0] == EpochRow.of(measured[0])
    assert read[1].loss is None


def test_a_trial_resumed_in_a_fresh_trainer_has_its_whole_curve(begin: Begin) -> None:
    study = begin()
    claimed = by_hand.must_claim(study)
    trials.report(study, claimed, by_hand.epochs(claimed, [0.5, 0.6, 0.7]))
    later = by_hand.epochs(claimed, [0.6, 0.65], first=4)
    trials.finish(study, claimed, by_hand.finished(claimed, 0.7), later, device="cpu")
    [trial] = study.storage.rdb.get_all_trials(study.id)
    assert trial.user_attrs["epochs"] == 5
    assert trial.user_attrs["stage"] == "fine_tune"


def test_a_step_that_is_reported_again_is_not_overwritten(begin: Begin) -> None:
    study = begin()
    claimed = by_hand.must_claim(study)
    trials.report(study, claimed, by_hand.epochs(claimed, [0.5, 0.6]))
    trials.report(study, claimed, by_hand.epochs(claimed, [0.9, 0.9, 0.7]))
    assert stored(study).intermediate_values == {1: 0.5, 2: 0.6, 3: 0.7}


def test_a_pruned_trial_has_its_reason_and_its_best_value(begin: Begin) -> None:
    study = begin()
    by_hand.finish(study, by_hand.must_claim(study), 0.4, ending=Ending.STOPPED, reason="its probe was not among the best")
    trial = stored(study)
    assert (trial.state, trial.value) == (TrialState.PRUNED, 0.4)
    assert trial.user_attrs["reason"] == "its probe was not among the best"


def test_a_loss_that_is_not_finite_prunes_the_trial(begin: Begin) -> None:
    study = begin()
    by_hand.finish(study, by_hand.must_claim(study), None, ending=Ending.NOT_FINITE, reason="the loss is nan")
    assert (stored(study).state, stored(study).value) == (TrialState.PRUNED, None)


def test_a_failed_trial_keeps_its_error(begin: Begin) -> None:
    study = begin()
    claimed = by_hand.must_claim(study)
    trials.fail(study, claimed, by_hand.failed(claimed))
    trial = stored(study)
    assert trial.state is TrialState.FAIL
    assert (trial.user_attrs["error"], trial.user_attrs["message"]) == ("MemoryError", "it was too much")


def test_trial_zero_is_the_rule(begin: Begin) -> None:
    study = begin()
    first, second = by_hand.must_claim(study), by_hand.must_claim(study)
    assert (first.number, second.number) == (0, 1)
    assert (first.of_images.optimizer, first.of_images.learning_rate) == ("adamw", 3e-4)
    assert stored(study).user_attrs["origin"] == "rule"
    assert second.hyperparameters != first.hyperparameters


def test_another_worker_resumes_a_suspended_trial_as_the_same_trial(begin: Begin) -> None:
    study = begin()
    claimed = by_hand.must_claim(study)
    trials.report(study, claimed, by_hand.epochs(claimed, [0.5]))
    by_hand.finish(study, claimed, None, ending=Ending.SUSPENDED)
    again = by_hand.must_claim(study)
    assert (again.number, again.seed, again.hyperparameters) == (claimed.number, claimed.seed, claimed.hyperparameters)
    assert again.attempt == 2
    assert stored(study).user_attrs["attempts"] == 2
    assert stored(study).state is TrialState.RUNNING


def test_a_trial_may_be_suspended_any_number_of_times(begin: Begin) -> None:
    study = begin()
    for attempt in range(1, 7):
        claimed = by_hand.must_claim(study)
        assert (claimed.number, claimed.attempt) == (0, attempt)
        trials.release(study, claimed)


def far_away() -> WorkerId:
    """Return a worker of another host, whose process this host cannot see."""
    return dataclasses.replace(WorkerId.here("far"), namespace="another boot")


def test_the_trial_of_a_silent_worker_goes_to_another_worker(begin: Begin) -> None:
    study = begin()
    lost = by_hand.must_claim(study, far_away())
    by_hand.grow_old(study, leases.LEASE_SECONDS + 1)
    again = by_hand.must_claim(study)
    assert (again.number, again.attempt, again.hyperparameters) == (0, 2, lost.hyperparameters)


def test_a_living_worker_of_this_host_may_be_silent_for_ten_minutes(begin: Begin) -> None:
    study = begin()
    by_hand.must_claim(study)
    by_hand.grow_old(study, leases.PATIENCE_SECONDS - 5)
    assert by_hand.must_claim(study).number == 1
    by_hand.grow_old(study, leases.PATIENCE_SECONDS + 1)
    assert by_hand.must_claim(study).number == 0


def test_a_lost_worker_that_returns_without_a_result_changes_nothing(begin: Begin) -> None:
    study = begin()
    lost = by_hand.must_claim(study, far_away())
    by_hand.grow_old(study, leases.LEASE_SECONDS + 1)
    again = by_hand.must_claim(study)
    steps: list[Callable[[], Any]] = [
        lambda: trials.report(study, lost, by_hand.epochs(lost, [0.9])),
        lambda: trials.promotion(study, lost, messages.Probed(trial=0, value=0.9)),
        lambda: trials.fail(study, lost, by_hand.failed(lost)),
        lambda: by_hand.finish(study, lost, None, ending=Ending.SUSPENDED),
        lambda: trials.release(study, lost),
    ]
    for step in steps:
        with pytest.raises(LeaseLost):
            step()
    assert stored(study).state is TrialState.RUNNING
    assert stored(study).intermediate_values == {}
    by_hand.finish(study, again, 0.5)
    assert stored(study).value == 0.5


def test_a_slow_worker_keeps_its_trial(begin: Begin) -> None:
    study = begin()
    claimed = by_hand.must_claim(study)
    by_hand.grow_old(study, leases.LEASE_SECONDS + 1)
    by_hand.finish(study, claimed, 0.9)
    assert stored(study).value == 0.9


def test_a_heartbeat_keeps_the_lease(begin: Begin) -> None:
    study = begin()
    worker = far_away()
    by_hand.must_claim(study, worker)
    by_hand.grow_old(study, leases.LEASE_SECONDS - 5)
    trials.beat(study, worker, WorkerStatus())
    by_hand.grow_old(study, 10)
    assert by_hand.must_claim(study).number == 1


def test_a_trial_that_a_user_ended_through_optuna_is_dropped(begin: Begin) -> None:
    study = begin()
    claimed = by_hand.must_claim(study)
    optuna.load_study(study_name=study.name, storage=study.storage.rdb).tell(0, state=TrialState.FAIL)
    with pytest.raises(LeaseLost):
        trials.report(study, claimed, by_hand.epochs(claimed, [0.5]))
    with pytest.raises(LeaseLost):
        by_hand.finish(study, claimed, 0.5)
    assert by_hand.must_claim(study).number == 1


def test_deleting_a_study_under_its_workers_gives_a_plain_error(begin: Begin) -> None:
    study = begin()
    optuna.delete_study(study_name=study.name, storage=study.storage.rdb)
    with pytest.raises(StudyError, match="was deleted"):
        by_hand.claim(study)


def test_a_study_with_the_id_of_a_deleted_one_starts_empty(begin: Begin) -> None:
    first = begin()
    by_hand.must_claim(first)
    optuna.delete_study(study_name=first.name, storage=first.storage.rdb)
    second = begin()
    assert by_hand.must_claim(second).number == 0
    assert status.snapshot(second).running[0].number == 0


def test_a_zombie_process_counts_as_lost(begin: Begin) -> None:
    study = begin()
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    try:
        leased = WorkerId.here("w1")
        gone = WorkerId(key="gone", name="box/gone", namespace=leased.namespace, pid=child, process_started=leased.process_started)
        by_hand.must_claim(study, gone)
        assert by_hand.must_claim(study).attempt == 2
    finally:
        os.waitpid(child, 0)


def test_a_worker_of_another_host_is_lost_only_after_its_lease(begin: Begin) -> None:
    study = begin()
    elsewhere = dataclasses.replace(far_away(), process_started=0.0)
    by_hand.must_claim(study, elsewhere)
    assert by_hand.must_claim(study).number == 1


def test_a_trial_that_lost_its_worker_before_its_values_were_chosen_gets_them_from_the_next(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = begin()
    by_hand.must_claim(study, far_away())

    def die(*args: Any) -> Any:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("tuner.studies.claims._suggest", die)
        with pytest.raises(SystemExit):
            by_hand.claim(study, far_away())
    assert stored(study, 1).params == {}
    by_hand.grow_old(study, leases.LEASE_SECONDS + 1)
    taken = {claimed.number: claimed for claimed in (by_hand.must_claim(study), by_hand.must_claim(study))}
    assert taken[1].attempt == 2
    assert stored(study, 1).params["optimizer"] == taken[1].of_images.optimizer


def test_a_worker_whose_sampler_took_too_long_claims_the_next_trial(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    study = begin()
    slow, suggest = far_away(), claims._suggest
    taken: list[Any] = []

    def think(*args: Any) -> Any:
        if not taken:
            by_hand.grow_old(study, leases.LEASE_SECONDS + 1)
            taken.append(None)
            taken[0] = by_hand.must_claim(study)
        return suggest(*args)

    monkeypatch.setattr("tuner.studies.claims._suggest", think)
    claimed = by_hand.must_claim(study, slow)
    assert (taken[0].number, claimed.number) == (0, 1)


def test_a_claim_without_an_acknowledgement_is_made_once(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    study = begin()
    transact, tries = Storage.transact, itertools.count(1)

    def forget(storage: Storage, work: Callable[[Any], Any], **options: Any) -> Any:
        done = transact(storage, work, **options)
        if not options and next(tries) % 2:
            raise optuna.exceptions.StorageInternalError("server closed the connection unexpectedly")
        return done

    monkeypatch.setattr(Storage, "transact", forget)
    claimed = by_hand.must_claim(study)
    assert (claimed.number, next(tries)) == (0, 5)
    assert trials.hyperparameters(stored(study)) == claimed.hyperparameters


def test_all_workers_share_the_budget(begin: Begin) -> None:
    study = begin(budget={"trials": 2})
    for _ in range(2):
        by_hand.finish(study, by_hand.must_claim(study), 0.5)
    assert by_hand.claim(study) is None
    assert trials.stop_reason(study) == "the budget of 2 trials is spent"
    larger = begin(budget={"trials": 3})
    assert trials.stop_reason(larger) is None
    assert by_hand.must_claim(larger).number == 2
    assert studies.load(study.name, study.storage).spec.budget.trials == 3


def test_a_changed_budget_applies_to_running_workers(begin: Begin) -> None:
    early = begin(budget={"trials": 1})
    by_hand.finish(early, by_hand.must_claim(early), 0.5)
    begin(budget={"trials": 2})
    assert (trials.stop_reason(early), status.snapshot(early).stop_reason) == (None, None)
    by_hand.finish(early, by_hand.must_claim(early), 0.6)
    begin(budget={"trials": 9, "target": 0.55})
    assert by_hand.claim(early) is None
    assert trials.stop_reason(early) == status.snapshot(early).stop_reason == "the target 0.55 is reached: 0.6000"


def test_a_suspended_trial_is_resumed_after_the_budget_of_trials_is_spent(begin: Begin) -> None:
    study = begin(budget={"trials": 1})
    trials.release(study, by_hand.must_claim(study))
    assert by_hand.must_claim(study).number == 0


def test_the_target_ends_the_study(begin: Begin) -> None:
    study = begin(budget={"target": 0.9})
    by_hand.finish(study, by_hand.must_claim(study), 0.95, ending=Ending.STOPPED)
    by_hand.finish(study, by_hand.must_claim(study), 0.91)
    assert by_hand.claim(study) is None
    assert trials.stop_reason(study) == "the target 0.9 is reached: 0.9100"


def test_the_timeout_counts_the_work_of_all_attempts(begin: Begin) -> None:
    study = begin(budget={"trials": None, "timeout": "1h"})
    by_hand.finish(study, by_hand.must_claim(study), 0.5)
    earlier = (
        sqlalchemy.update(tables.LEASES).where(tables.LEASES.c.study_id == study.id).values(started_at=tables.LEASES.c.started_at - 3600)
    )
    study.storage.write(lambda connection: connection.execute(earlier))
    assert by_hand.claim(study) is None
    assert str(trials.stop_reason(study)).startswith("the time limit is reached")


def test_three_equal_failures_in_a_row_stop_the_study_until_it_is_resumed(begin: Begin) -> None:
    study = begin()

    def fail(error: str) -> None:
        claimed = by_hand.must_claim(study)
        trials.fail(study, claimed, by_hand.failed(claimed, error))

    fail("MemoryError")
    fail("MemoryError")
    fail("ValueError")
    fail("MemoryError")
    by_hand.finish(study, by_hand.must_claim(study), 0.5)
    fail("MemoryError")
    fail("MemoryError")
    assert trials.stopped(study) is None
    fail("MemoryError")
    assert by_hand.claim(study) is None
    assert "3 trials in a row failed with MemoryError: it was too much" in str(trials.stop_reason(study))
    trials.resume(study)
    assert trials.stopped(study) is None
    fail("MemoryError")
    assert trials.stopped(study) is None


def test_a_mistake_in_the_study_file_stops_the_study_at_once(begin: Begin) -> None:
    study = begin()
    claimed = by_hand.must_claim(study)
    trials.fail(study, claimed, by_hand.failed(claimed, "DataError", is_request=True))
    assert "no worker can train this study" in str(trials.stopped(study))


def test_probes_are_promoted_by_rank_and_the_answer_is_stored(begin: Begin) -> None:
    study = begin(training=by_hand.SHORT | {"promote": 0.25})
    answers = []
    for value in (0.5, 0.4, 0.3, 0.2, 0.9, 0.1):
        claimed = by_hand.must_claim(study)
        answers.append(trials.promotion(study, claimed, messages.Probed(trial=claimed.number, value=value)).is_promoted)
    assert answers == [True, False, False, False, True, False]
    again = messages.Probed(trial=5, value=0.99)
    assert not trials.promotion(study, claimed, again).is_promoted
    assert stored(study, 4).user_attrs["probe_accuracy"] == 0.9


def test_trial_zero_is_always_promoted(begin: Begin) -> None:
    study = begin()
    first, second = by_hand.must_claim(study), by_hand.must_claim(study)
    assert trials.promotion(study, second, messages.Probed(trial=1, value=0.9)).is_promoted
    assert trials.promotion(study, first, messages.Probed(trial=0, value=0.1)).is_promoted


def test_a_trial_behind_the_others_is_pruned_in_the_second_half_of_its_fine_tuning(begin: Begin) -> None:
    study = begin(pruner={"name": "median", "startup_trials": 2})
    for _ in range(2):
        claimed = by_hand.must_claim(study)
        trials.report(study, claimed, by_hand.epochs(claimed, [0.5, 0.5, 0.6, 0.7, 0.8, 0.9]))
        by_hand.finish(study, claimed, 0.9)
    poor = by_hand.must_claim(study)
    verdicts = []
    for step in range(1, 6):
        trials.report(study, poor, by_hand.epochs(poor, [0.1], first=step))
        verdicts.append(trials.should_prune(study, poor))
    assert verdicts == [False, False, False, False, True]


def test_the_dashboard_shows_notes_of_study_and_trial(begin: Begin) -> None:
    study = begin()
    attributes = study.storage.rdb.get_study_system_attrs(study.id)
    assert attributes["study:metric_names"] == ["validation accuracy"]
    assert "Best so far" not in get_note_from_system_attrs(attributes, None)["body"]
    for value in (0.5, 0.8, 0.7):
        by_hand.finish(study, by_hand.must_claim(study), value)
    attributes = study.storage.rdb.get_study_system_attrs(study.id)
    note = get_note_from_system_attrs(attributes, None)["body"]
    assert "Best so far: **0.8000** by trial 1" in note
    assert "| dropout | 0 to 0.5 |" in note
    assert f"](/tuner/studies/{study.id})" in note
    trial = stored(study, 1)
    assert get_note_from_system_attrs(attributes, trial._trial_id)["body"].startswith("**completed with 0.8000**")


def test_a_note_of_a_user_is_not_overwritten(begin: Begin) -> None:
    study = begin()
    study.storage.rdb.set_study_system_attr(study.id, "dashboard:note_str:0", "mine")
    by_hand.finish(study, by_hand.must_claim(study), 0.5)
    assert get_note_from_system_attrs(study.storage.rdb.get_study_system_attrs(study.id), None)["body"].startswith("mine")


def test_a_note_that_a_user_changed_is_not_overwritten(begin: Begin) -> None:
    study = begin()
    first, second = by_hand.must_claim(study), by_hand.must_claim(study)
    optuna_study = optuna.load_study(study_name=study.name, storage=study.storage.rdb)
    changed = get_note(optuna_study) + "\n\nmine"
    save_note(optuna_study, changed)
    study.storage.rdb.set_study_system_attr(study.id, f"dashboard:{first.trial_id}:note_ver", 1)
    study.storage.rdb.set_study_system_attr(study.id, f"dashboard:{first.trial_id}:note_str:0", "look at this one")
    for claimed in (first, second):
        by_hand.finish(study, claimed, 0.5)
    attributes = study.storage.rdb.get_study_system_attrs(study.id)
    assert get_note_from_system_attrs(attributes, None)["body"] == changed
    assert get_note_from_system_attrs(attributes, first.trial_id)["body"] == "look at this one"
    assert get_note_from_system_attrs(attributes, second.trial_id)["body"].startswith("**completed")


def test_the_findings_of_the_first_trainer_are_stored_with_the_study(begin: Begin) -> None:
    study = begin()
    data_check.admit(study, by_hand.PREPARED)
    data_check.admit(study, by_hand.PREPARED.model_copy(update={"device": "another", "seconds": 9.0}))
    kept = study.storage.rdb.get_study_user_attrs(study.id)[PREPARED]
    assert messages.Prepared.model_validate(kept) == by_hand.PREPARED


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"fingerprint": "a" * 64}, ["images and labels (fingerprint): " + "f" * 64 + " -> " + "a" * 64]),
        # the same images in other splits
        ({"splits": "6" * 64, "num_train": 999, "num_test": 201}, ["images to train on: 1000 -> 999", "test images: 200 -> 201", "splits"]),
        ({"classes": ("cat", "hen")}, ["classes: cat, dog -> cat, hen"]),
        ({"epochs": 5}, ["epochs of fine-tuning: 4 -> 5"]),
    ],
)
def test_a_trainer_with_other_images_is_refused_with_the_differences(begin: Begin, found: dict[str, Any], words: list[str]) -> None:
    study = begin()
    data_check.admit(study, by_hand.PREPARED)
    with pytest.raises(StudyError) as raised:
        data_check.admit(study, by_hand.PREPARED.model_copy(update=found))
    for word in [*words, "Restore the images", "another name"]:
        assert word in str(raised.value)


def test_the_score_on_the_test_split_is_stored_with_the_trial(begin: Begin) -> None:
    study = begin()
    by_hand.finish(study, by_hand.must_claim(study), 0.5)
    score = messages.Evaluated(trial=0, accuracy=0.48, loss=1.1, num_images=200, confusion=((1,),))
    trials.keep_test(study, score)
    trials.keep_test(study, score)
    assert stored(study).user_attrs["test"] == {"accuracy": 0.48, "loss": 1.1, "num_images": 200}


def test_a_snapshot_holds_the_state_of_the_study(begin: Begin) -> None:
    study = begin(budget={"trials": 10})
    empty = status.snapshot(study)
    assert (empty.running, empty.best_value, empty.eta_seconds, empty.num_ended, empty.stop_reason) == ((), None, None, 0, None)
    worker = WorkerId.here("w1")
    for value in (0.5, 0.9):
        claimed = by_hand.must_claim(study)
        trials.report(study, claimed, by_hand.epochs(claimed, [0.3, 0.3, value]))
        by_hand.finish(study, claimed, value)
    by_hand.finish(study, by_hand.must_claim(study), 0.4, ending=Ending.STOPPED)
    failing = by_hand.must_claim(study)
    trials.fail(study, failing, by_hand.failed(failing))
    waiting = by_hand.must_claim(study)
    running = by_hand.must_claim(study, worker)
    trials.report(study, running, by_hand.epochs(running, [0.2, 0.6, 0.5]))
    trials.release(study, waiting)
    seen = status.snapshot(study)
    assert (seen.num_completed, seen.num_pruned, seen.num_failed, seen.num_waiting) == (2, 1, 1, 1)
    assert (seen.best_value, seen.best_number) == (0.9, 1)
    assert seen.best_parameters == stored(study, 1).params
    (only,) = seen.running
    assert (only.number, only.worker, only.stage, only.epoch, only.value) == (5, worker.name, "fine_tune", 3, 0.6)
    assert (seen.probe_seconds, seen.fine_tune_seconds) == (12.0, 6.0)
    assert seen.busy_seconds > 0
    assert seen.eta_seconds is not None


def test_a_trial_costs_few_statements(begin: Begin, storage: Storage) -> None:
    study = begin(sampler={"name": "tpe", "startup_trials": 2})
    for _ in range(4):
        by_hand.finish(study, by_hand.must_claim(study), 0.5)
    with by_hand.statements(storage) as seen:
        claimed = by_hand.must_claim(study)
    # plain Optuna needs about 4 statements for each of some 25 hyperparameters
    assert len(seen) <= 22
    with by_hand.statements(storage) as seen:
        trials.report(study, claimed, by_hand.epochs(claimed, [0.5]))
    assert len(seen) <= 5
    with by_hand.statements(storage) as seen:
        by_hand.finish(study, claimed, 0.4)
    assert len(seen) <= 12
