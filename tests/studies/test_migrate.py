"""Migrating the trials of a study to a changed search space, on each kind of database."""

from collections.abc import Iterator
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import select

from tests.studies import by_hand
from tuner.errors import StudyError
from tuner.protocol.messages import Ending
from tuner.results import best as bests
from tuner.results import export
from tuner.spec.hyperparameters import Hyperparameters
from tuner.storage import engine as storages
from tuner.storage import epochs, tables
from tuner.storage.attributes import MIGRATED, PREPARED
from tuner.storage.engine import Storage
from tuner.studies import migrate as studies_migrate
from tuner.studies import progress as studies_progress
from tuner.studies import study as studies
from tuner.studies import trials
from tuner.studies.study import Study
from tuner.views import status
from tuner.views import studies as views_studies

SEARCH = {"optimizer": ["adamw", "sgd"], "dropout": [0.1, 0.5], "features": ["last", "several"]}
#: 2 of the old choices, a wider range, another scale, a new optimizer that the rule does not prefer
WIDER = {
    "optimizer": ["adamw", "sgd", "lion"],
    "dropout": [0, 0.7],
    "features": ["last", "several"],
    "weight_decay": {"range": [1e-6, 0.1], "log": False, "off": True},
}


CHOICES = export.fixed(Hyperparameters()).model_dump(mode="json") | {"dropout": {"choices": [0.1, 0.2]}}

#: for tests that do not depend on the kind of database
on_one = pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)


@pytest.fixture
def both(storage_url: str) -> Iterator[Storage]:
    opened = storages.open(storage_url)
    yield opened
    opened.close()


@pytest.fixture
def old(both: Storage) -> Study:
    """Return a study of TPE with completed, pruned and failed trials, and a running one."""
    study = studies.join(by_hand.spec(name="old", search=SEARCH, budget={"trials": 12}, sampler={"name": "tpe", "startup_trials": 2}), both)
    prepared = by_hand.PREPARED.model_dump(mode="json")
    both.write(lambda connection: tables.put(connection, tables.STUDY_USER, study.id, {PREPARED: prepared}))
    for number in range(8):
        claimed = by_hand.must_claim(study)
        if number == 5:
            trials.fail(study, claimed, by_hand.failed(claimed))
            continue
        trials.report(study, claimed, by_hand.epochs(claimed, [0.3, 0.4, 0.5 + number / 100]))
        by_hand.finish(study, claimed, 0.5 + number / 100, ending=Ending.STOPPED if number == 6 else Ending.COMPLETED)
    by_hand.must_claim(study)
    return study


def changed(**sections: Any) -> Any:
    given: dict[str, Any] = {"name": "new", "search": WIDER, "budget": {"trials": 12}, "sampler": {"name": "tpe", "startup_trials": 2}}
    return by_hand.spec(**given | sections)


def migrate(old: Study, **sections: Any) -> Study:
    return studies_migrate.carry(studies_migrate.decide(old, changed(**sections)), by="ada")


def all_of(study: Study) -> list[FrozenTrial]:
    return study.storage.rdb.get_all_trials(study.id)


def test_every_ended_trial_that_fits_is_carried_over_completely(old: Study) -> None:
    new = migrate(old)
    theirs, ours = all_of(old), all_of(new)
    assert [trial.number for trial in ours] == list(range(8))
    assert [trial.user_attrs["carried_from"] for trial in ours] == [f"trial {number} of old" for number in range(8)]
    for one, other in zip(ours, theirs, strict=False):
        assert (one.state, one.values, one.params, one.intermediate_values) == (
            other.state, other.values, other.params, other.intermediate_values
        )  # fmt: skip
        assert (one.datetime_start, one.datetime_complete) == (other.datetime_start, other.datetime_complete)
        assert {name: value for name, value in one.user_attrs.items() if name != "carried_from"} == other.user_attrs
        assert trials.hyperparameters(one) == trials.hyperparameters(other)
        curve = new.storage.read(lambda connection, number=one.number: epochs.read(connection, new.id, number))  # type: ignore[misc]
        assert curve == old.storage.read(lambda connection, number=one.number: epochs.read(connection, old.id, number))  # type: ignore[misc]
    assert ours[1].distributions["dropout"].high == 0.7  # type: ignore[attr-defined]


def test_migrating_does_not_change_the_old_study(old: Study) -> None:
    def everything() -> list[Any]:
        shown = []
        for table in (tables.TRIALS, tables.VALUES, tables.INTERMEDIATE, tables.TRIAL_USER, tables.TRIAL_SYSTEM, tables.PARAMETERS):
            ids = select(tables.TRIALS.c.trial_id).where(tables.TRIALS.c.study_id == old.id)
            query = select(table).where(table.c.trial_id.in_(ids)).order_by(*table.primary_key)
            shown.append(old.storage.read(lambda connection, query=query: connection.execute(query).all()))  # type: ignore[misc]
        for table in (tables.LEASES, tables.EPOCHS, tables.STUDY_USER, tables.STUDY_SYSTEM):
            query = select(table).where(table.c.study_id == old.id).order_by(*table.primary_key)
            shown.append(old.storage.read(lambda connection, query=query: connection.execute(query).all()))  # type: ignore[misc]
        return shown

    before = everything()
    migrate(old)
    assert everything() == before


@on_one
def test_trials_of_adam_with_weight_decay_do_not_migrate_to_a_study_where_it_has_none(both: Storage) -> None:
    search = {"optimizer": "adam", "weight_decay": {"range": [1e-5, 1e-2], "off": False}}
    old = studies.join(by_hand.spec(name="old", search=search), both)
    prepared = by_hand.PREPARED.model_dump(mode="json")
    both.write(lambda connection: tables.put(connection, tables.STUDY_USER, old.id, {PREPARED: prepared}))
    by_hand.finish(old, by_hand.must_claim(old), 0.5)
    alike = studies_migrate.decide(old, changed(search=search | {"dropout": [0, 0.7]}))
    assert [kept.number for kept in alike.carried] == [0]
    (left,) = studies_migrate.decide(old, changed(search=search | {"optimizer": ["adam", "adamw"]})).left_behind
    assert left.reason.startswith("weight_decay is ")
    assert left.reason.endswith("expected 0, because weight_decay does not act on adam in that study")


def test_a_trial_that_does_not_fit_is_left_behind_with_a_reason(old: Study) -> None:
    found = studies_migrate.decide(old, changed(search=SEARCH | {"optimizer": "adamw"}))
    optimizers = {trial.number: trial.params["optimizer"] for trial in all_of(old)}
    assert {kept.number for kept in found.carried} == {number for number, name in optimizers.items() if name == "adamw" and number < 8}
    reasons = {left.number: left.reason for left in found.left_behind}
    assert reasons.pop(8) == "it has not ended"
    assert set(reasons.values()) <= {"optimizer is 'sgd'; expected adamw, which is fixed in that study"}
    new = studies_migrate.carry(found, by="ada")
    assert (new.num_carried, new.num_left) == (len(found.carried), len(found.left_behind))
    said = new.storage.read(lambda connection: tables.get(connection, tables.STUDY_USER, new.id, MIGRATED))[MIGRATED]
    assert said["from"] == "old"
    assert said["by"] == "ada"
    assert [left["trial"] for left in said["left"]] == [left.number for left in found.left_behind]
    assert any(change.startswith("search.optimizer: ") for change in said["changes"])


def test_the_budget_counts_new_trials_only(old: Study) -> None:
    new = migrate(old, budget={"trials": 2})
    assert status.snapshot(new).stop_reason is None
    for value in (0.6, 0.7):
        by_hand.finish(new, by_hand.must_claim(new), value)
    assert by_hand.claim(new) is None
    assert trials.stop_reason(new) == "the budget of 2 trials (besides 8 migrated trials) is spent"
    seen = status.snapshot(new)
    assert (seen.num_ended, seen.num_carried, seen.num_spent) == (10, 8, 2)
    listed = new.storage.read(lambda connection: views_studies.one(connection, new.id))
    assert listed is not None
    assert listed.num_spent == 2
    view = new.storage.read(lambda connection: views_studies.StudyReader(storage=new.storage).at(connection, listed))
    assert view.outlook.trials_left == 0
    assert view.state is views_studies.State.DONE


@on_one
def test_work_in_the_old_study_does_not_count_in_the_new_one(old: Study) -> None:
    new = migrate(old, budget={"timeout": 100})
    _, progress = new.storage.read(lambda connection: studies_progress.read(connection, new))
    assert progress.busy_seconds == 0


def test_the_sampler_learns_from_migrated_trials(old: Study) -> None:
    new = migrate(old)
    claimed = by_hand.must_claim(new)
    assert claimed.number == 8
    with new.storage.engine.connect() as connection:
        seen = new.memory.history.read(connection, new.id)
    assert {trial.number for trial in seen if trial.state is not TrialState.RUNNING} == {0, 1, 2, 3, 4, 6, 7}
    # after its start-up trials, TPE with a history differs from TPE without one
    alone = studies.join(changed(name="alone"), new.storage)
    first = [by_hand.must_claim(alone, trials.WorkerId.here(f"w{number}")) for number in range(9)][8]
    assert claimed.hyperparameters != first.hyperparameters


def test_the_best_migrated_trial_keeps_its_seed(old: Study) -> None:
    new = migrate(old)
    ours, theirs = bests.best(new), bests.best(old)
    for name in ("value", "hyperparameters", "seed", "weights", "best_epoch"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.rule_value == theirs.rule_value == 0.5


@on_one
def test_a_changed_rule_is_trained_anew(old: Study) -> None:
    new = migrate(old, search=WIDER | {"weight_decay": {"range": [2e-4, 0.1], "off": True}, "label_smoothing": [0, 0.15]})
    first = all_of(new)[0]
    assert (first.state, first.user_attrs["origin"]) == (TrialState.WAITING, "rule")
    carried = [trial for trial in all_of(new) if "carried_from" in trial.user_attrs]
    assert [trial.number for trial in carried] == list(range(1, len(carried) + 1))
    claimed = by_hand.must_claim(new)
    assert claimed.number == 0
    assert claimed.of_images.weight_decay == 2e-4
    seeds = [trial.user_attrs["seed"] for trial in carried]
    old_seeds = {f"trial {trial.number} of old": trial.user_attrs["seed"] for trial in all_of(old)}
    assert seeds == [old_seeds[trial.user_attrs["carried_from"]] for trial in carried]


@on_one
@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"training": {"probe_epochs": 3, "epochs": 4}}, r"may change only its search, .*\n  training.probe_epochs: 2 -> 3"),
        ({"seed": 7}, r"\n  seed: 0 -> 7"),
        ({"data": {"source": "animals"}}, r"\n  data.source: 'digits' -> 'animals'"),
        ({"search": SEARCH}, "the search does not differ"),
        ({"sampler": "grid", "search": CHOICES}, "tries all combinations"),
    ],
)
def test_an_invalid_migration_is_refused_and_nothing_is_written(old: Study, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        migrate(old, **sections)
    assert studies.names(old.storage) == ["old"]


@on_one
def test_a_taken_name_is_refused_and_nothing_is_written(old: Study) -> None:
    studies.join(by_hand.spec(name="new"), old.storage)
    with pytest.raises(StudyError, match="already has a study named new"):
        migrate(old)
    assert all_of(studies.load("new", old.storage)) == []


@on_one
def test_a_study_without_an_ended_trial_cannot_be_migrated(both: Storage) -> None:
    with pytest.raises(StudyError, match="nothing to migrate"):
        studies_migrate.decide(studies.join(by_hand.spec(name="empty", search=SEARCH), both), changed())
