"""Requests to a running study: stop, suspend, resume, budget, enqueue."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import databases
from tests.studies import by_hand
from tuner.errors import Dismissed, SpecError, StudyError, TrialStopped
from tuner.storage import engine as storages
from tuner.storage import migrating, tables
from tuner.storage.engine import Storage
from tuner.studies import control, enqueue, trials, workers
from tuner.studies import study as studies
from tuner.studies.study import Study
from tuner.studies.trials import WorkerId
from tuner.studies.workers import WorkerRequest, WorkerStatus
from tuner.views import status
from tuner.views import trial as views_trial

Begin = Callable[..., Study]

#: for tests whose SQL differs between databases
on_each = pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])


@pytest.fixture
def kind() -> str:
    return "sqlite"


@pytest.fixture
def storage(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    url = databases.sqlite(tmp_path) if kind == "sqlite" else str(request.getfixturevalue(f"{kind}_url"))
    opened = storages.open(url)
    yield opened
    opened.close()


def appear(study: Study, name: str = "w1") -> WorkerId:
    worker = WorkerId.here(name)
    study.storage.write(lambda connection: workers.register(connection, study, worker, WorkerStatus(), threads=2))
    return worker


@on_each
def test_a_stopped_study_starts_no_trial_until_it_is_resumed(study: Study) -> None:
    running = by_hand.must_claim(study)
    control.stop(study, by="ann")
    assert by_hand.claim(study, WorkerId.here("other")) is None
    assert trials.stop_reason(study) == "it was stopped by ann"
    by_hand.finish(study, running, 0.5)  # a running trial is trained to its end
    with pytest.raises(StudyError, match="stopped already, by ann"):
        control.stop(study, by="bob")
    assert status.snapshot(study).halted_by == "ann"
    control.resume(study)
    assert by_hand.claim(study) is not None
    with pytest.raises(StudyError, match="was not stopped"):
        control.resume(study)


def test_a_later_run_resumes_a_stopped_study(study: Study) -> None:
    control.stop(study, by="ann")
    trials.resume(study)
    assert by_hand.claim(study) is not None


@on_each
def test_suspending_a_study_asks_its_workers_to_suspend_their_trials(study: Study) -> None:
    worker = appear(study)
    assert control.suspend(study, by="ann") == 1
    assert trials.beat(study, worker, WorkerStatus()).request is WorkerRequest.SUSPEND
    control.resume(study)
    assert trials.beat(study, worker, WorkerStatus()).request is WorkerRequest.NONE


@on_each
def test_a_raised_budget_applies_to_the_next_claim_and_outlives_a_run_of_the_same_file(begin: Begin) -> None:
    study = begin(budget={"trials": 1})
    by_hand.finish(study, by_hand.must_claim(study), 0.5)
    assert by_hand.claim(study) is None
    assert control.set_budget(study, trials=3).trials == 3
    assert begin(budget={"trials": 1}).spec.budget.trials == 3
    assert by_hand.claim(study) is not None
    assert begin(budget={"trials": 2}).spec.budget.trials == 2  # a changed budget in the file takes precedence
    assert begin(budget={"trials": 1}).spec.budget.trials == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trials": 0}, "budget.trials"),
        ({"timeout": "soon"}, "budget.timeout is 'soon'; expected a duration"),
        ({"target": 95}, "budget.target"),
        ({"trials": None}, "the study would never end"),
    ],
)
def test_an_invalid_budget_is_refused_in_one_line(study: Study, changes: dict[str, object], words: str) -> None:
    with pytest.raises(StudyError) as refused:
        control.set_budget(study, **changes)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@on_each
def test_a_stopped_trial_is_pruned_with_its_best_value_and_its_worker_gets_the_author(study: Study) -> None:
    claimed = by_hand.must_claim(study)
    trials.report(study, claimed, by_hand.epochs(claimed, [0.4, 0.7, 0.6]))
    assert control.stop_trial(study, 0, by="ann") == 0.7
    with pytest.raises(TrialStopped, match="stopped by ann"):
        trials.report(study, claimed, by_hand.epochs(claimed, [0.8], first=4))
    with pytest.raises(TrialStopped):
        by_hand.finish(study, claimed, 0.9)
    found = views_trial.load(study, 0)
    assert (found.state, found.value, found.attributes["reason"]) == ("pruned", 0.7, "stopped by ann")
    assert [epoch.step for epoch in found.epochs] == [1, 2, 3]
    assert [made.ending for made in found.attempts] == ["pruned"]
    with pytest.raises(StudyError, match="has ended already: pruned"):
        control.stop_trial(study, 0, by="ann")
    with pytest.raises(StudyError, match="no trial 7; it has trials 0 to 0"):
        control.stop_trial(study, 7, by="ann")


@on_each
def test_a_worker_that_is_asked_to_leave_claims_no_further_trial(study: Study) -> None:
    worker, other = appear(study), appear(study, "w2")
    control.stop_worker(study, worker.name, by="ann")
    with pytest.raises(Dismissed, match="asked to end by ann"):
        by_hand.claim(study, worker)
    assert by_hand.claim(study, other) is not None
    with pytest.raises(StudyError, match="no active worker nobody"):
        control.stop_worker(study, "nobody", by="ann")


def test_workers_are_listed_and_rows_of_long_ended_ones_are_deleted(study: Study) -> None:
    worker = appear(study)
    trials.beat(study, worker, WorkerStatus(device="cpu", versions={"keras": "3"}, memory_bytes=5, trial=3))
    (seen,) = workers.of_study(study)
    assert (seen.name, seen.device, seen.trial, seen.threads, seen.is_present) == (worker.name, "cpu", 3, 2, True)
    study.storage.write(lambda connection: workers.leave(connection, study.id, worker, "the budget is spent"))
    (seen,) = workers.of_storage(study.storage)
    assert (seen.is_present, seen.ending, seen.trial) == (False, "the budget is spent", None)
    aged = tables.WORKERS.update().values(seen_at=tables.WORKERS.c.seen_at - 2 * workers.MAX_AGE_SECONDS)
    study.storage.write(lambda connection: connection.execute(aged))
    fresh = appear(study, "w2")
    assert [seen.key for seen in workers.of_study(study)] == [fresh.key]


def test_a_heartbeat_costs_two_statements(study: Study) -> None:
    worker = appear(study)
    with by_hand.statements(study.storage) as seen:
        trials.beat(study, worker, WorkerStatus())
    assert [statement.split()[0] for statement in seen if not statement.startswith("BEGIN")] == ["UPDATE", "UPDATE"]


@on_each
def test_an_enqueued_config_is_claimed_next_and_counts_once(begin: Begin) -> None:
    study = begin(budget={"trials": 3}, search={"dropout": [0.1, 0.5], "optimizer": ["adamw", "sgd"]})
    number = enqueue.enqueue(study, {"dropout": 0.25, "optimizer": "sgd", "learning_rate": 0.01, "head_units": [64]}, by="ann")
    assert number == 1  # the study has no trial yet, so the rule comes first
    assert status.snapshot(study).num_enqueued == 2
    claimed = [by_hand.must_claim(study, WorkerId.here(name)) for name in ("a", "b", "c")]
    assert [claim.number for claim in claimed] == [0, 1, 2]
    own = claimed[1].of_images
    assert (own.dropout, own.optimizer, own.head_units) == (0.25, "sgd", (64,))
    assert own.unfreeze == 0.0 or own.learning_rate == 0.01
    assert by_hand.claim(study, WorkerId.here("d")) is None
    found = views_trial.load(study, 1)
    assert (found.origin, found.attributes["enqueued_by"]) == ("enqueued", "ann")
    with pytest.raises(StudyError, match="budget is 3 trials; raise it first"):
        enqueue.enqueue(study, {"dropout": 0.2}, by="ann")


def test_an_enqueued_config_outlives_its_first_worker(begin: Begin) -> None:
    study = begin(search={"dropout": [0.1, 0.5]})
    by_hand.finish(study, by_hand.must_claim(study), 0.5)
    enqueue.enqueue(study, {"dropout": 0.3}, by="ann")
    claimed = by_hand.must_claim(study)
    trials.release(study, claimed)
    again = by_hand.must_claim(study, WorkerId.here("other"))
    assert (again.number, again.attempt, again.hyperparameters) == (1, 2, claimed.hyperparameters)
    assert again.of_images.dropout == 0.3


@on_each
def test_an_enqueued_trial_can_be_cancelled(begin: Begin) -> None:
    study = begin()
    by_hand.finish(study, by_hand.must_claim(study), 0.5)
    number = enqueue.enqueue(study, {"dropout": 0.3}, by="ann")
    assert control.stop_trial(study, number, by="ann") is None
    assert by_hand.must_claim(study).number == number + 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "names no hyperparameter"),
        ({"dropuot": 0.3}, "dropuot is not a hyperparameter"),
        ({"dropout": 0.8}, "dropout is 0.8; expected 0.1 to 0.5, as in the study by-hand"),
        ({"dropout": [0.1, 0.2]}, "dropout has several values"),
        ({"optimizer": "lion"}, "optimizer is 'lion'; expected"),
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"ema": 0.5}, "ema is 0.5; expected 0.99"),
    ],
)
def test_a_config_outside_of_the_search_space_is_refused(begin: Begin, given: dict[str, object], words: str) -> None:
    study = begin(search={"dropout": [0.1, 0.5], "optimizer": ["adamw", "sgd"]})
    with pytest.raises(SpecError) as refused:
        enqueue.enqueue(study, given, by="ann", origin="mine.yaml")
    assert str(refused.value).startswith("mine.yaml: ")
    assert words in str(refused.value)


ADAM_BESIDE_ADAMW = {"optimizer": ["adam", "adamw"]}
ADAM_WITH_DECAY = {"optimizer": "adam", "weight_decay": {"range": [1e-5, 1e-2], "off": False}}


def test_an_enqueued_weight_decay_is_refused_where_it_does_not_act_on_adam(begin: Begin) -> None:
    study = begin(search=ADAM_BESIDE_ADAMW)
    with pytest.raises(SpecError, match="weight_decay does not act on adam, and optimizer lists no other"):
        enqueue.enqueue(study, {"optimizer": "adam", "weight_decay": 1e-3}, by="ann")
    enqueue.enqueue(study, {"optimizer": "adam", "weight_decay": 0}, by="ann")
    enqueue.enqueue(study, {"optimizer": "adamw", "weight_decay": 1e-3}, by="ann")
    _, adam, adamw = (by_hand.must_claim(study, WorkerId.here(name)).of_images for name in "abc")
    assert [(own.optimizer, own.weight_decay) for own in (adam, adamw)] == [("adam", 0), ("adamw", 1e-3)]


def test_an_enqueued_weight_decay_acts_on_adam_where_the_study_says_so(begin: Begin) -> None:
    study = begin(search=ADAM_WITH_DECAY)
    enqueue.enqueue(study, {"weight_decay": 1e-3}, by="ann")
    _, own = (by_hand.must_claim(study, WorkerId.here(name)).of_images for name in "ab")
    assert (own.optimizer, own.weight_decay) == ("adam", 1e-3)


def test_a_study_that_tries_all_combinations_refuses_a_config(begin: Begin) -> None:
    study = begin(sampler="grid", search=by_hand_grid())
    with pytest.raises(StudyError, match="tries all combinations"):
        enqueue.enqueue(study, {"dropout": 0.1}, by="ann")


def by_hand_grid() -> dict[str, object]:
    off = dict.fromkeys(("rotation", "zoom", "translation", "brightness", "contrast", "erasing", "mixup"), 0)
    fixed = {"optimizer": "adamw", "learning_rate": 1e-4, "probe_learning_rate": 1e-3, "weight_decay": 0, "features": "last"}
    fixed |= {"head_units": [], "label_smoothing": 0, "unfreeze": 1.0, "layer_decay": 0.9, "augmentation": off}
    return {**fixed, "dropout": {"choices": [0.1, 0.3]}}


def test_failures_are_grouped_with_the_last_lines_of_the_log(study: Study) -> None:
    for error, log in (("OutOfMemory", "first"), ("OutOfMemory", "x" * 9000 + "last"), ("ValueError", "")):
        claimed = by_hand.must_claim(study)
        trials.fail(study, claimed, by_hand.failed(claimed, error, log=log))
    memory, value = study.storage.read(lambda connection: status.failures(connection, study.id))
    assert (memory.error, memory.num_trials, memory.last_number, len(memory.log), memory.log[-4:]) == ("OutOfMemory", 2, 1, 4096, "last")
    assert (value.error, value.log) == ("ValueError", "")


def test_an_old_database_gets_the_table_of_workers(study: Study) -> None:
    by_hand.finish(study, by_hand.must_claim(study), 0.5)
    for table in (tables.WORKERS, tables.READINGS, tables.STAGES, tables.VERSIONS):
        study.storage.write(lambda connection, table=table: table.drop(connection))  # type: ignore[misc]
    study.storage.write(lambda connection: connection.exec_driver_sql(f"DROP TABLE {migrating.VERSION_TABLE}"))
    opened = storages.open(study.storage.url)
    again = studies.load(study.name, opened)
    assert workers.of_study(again) == []
    assert status.snapshot(again).best_value == 0.5
    opened.close()
