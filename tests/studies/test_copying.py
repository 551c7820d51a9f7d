"""Copying a whole study into another database: what it carries, what it refuses, and what it leaves alone."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna_dashboard
import pytest
import sqlalchemy
from sqlalchemy import select

from tests import databases
from tests.studies import by_hand, furnished
from tuner.errors import StudyError
from tuner.results.versions import versions
from tuner.storage import engine as storages
from tuner.storage import tables
from tuner.storage.attributes import COPIED
from tuner.storage.engine import Storage
from tuner.studies import control, copying, retraining, trials
from tuner.studies import study as studies
from tuner.studies.copying import CopiedStudy
from tuner.studies.study import Study
from tuner.studies.trials import Delivery, WorkerId


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Storage]:
    opened = storages.open(databases.sqlite(tmp_path, "target.db"))
    # so that no id is the same by chance
    crowd = studies.join(by_hand.spec(name="crowd"), opened)
    for _ in range(3):
        by_hand.finish(crowd, by_hand.must_claim(crowd), 0.5)
    yield opened
    opened.close()


@pytest.fixture
def flowers(storage: Storage) -> Study:
    return furnished.begin(storage)


def copy(source: Study, target: Storage, *, name: str = "", tell: Any = lambda *_: None) -> CopiedStudy:
    return copying.copy(source, target, name=name or source.name, by="eve", batch=3, tell=tell)


def test_a_copy_has_everything_and_the_source_stays_as_it_was(flowers: Study, target: Storage) -> None:
    (again,) = retraining.existing(flowers)
    before = [furnished.contents(study) for study in (flowers, again)]
    made = copy(flowers, target)
    assert made.is_new
    assert [furnished.contents(study) for study in (flowers, again)] == before
    (copied_again,) = retraining.existing(made.study)
    assert [furnished.contents(study) for study in (made.study, copied_again)] == before
    assert before[0]["notes"][1] == furnished.NOTE
    assert (before[0]["parents"], before[0]["attachments"]) == ([1, 2], [1])
    assert len(before[0]["audit"]) == 1
    assert studies.names(target) == [again.name, "flowers", "crowd"]


def test_the_record_of_a_copy_counts_what_was_copied(flowers: Study, target: Storage) -> None:
    record = copy(flowers, target).record
    assert (record["from"], record["by"], record["versions"]) == ("flowers", "eve", 3)
    assert record["studies"] == [
        {"name": "flowers", "from": "flowers", "trials": 9, "epochs": 16, "unfinished": 2},
        {"name": "flowers-retrain-1", "from": "flowers-retrain-1", "trials": 4, "epochs": 0, "unfinished": 0},
    ]


def test_the_note_of_a_copy_links_to_its_own_page(flowers: Study, target: Storage) -> None:
    made = copy(flowers, target).study
    assert f"/tuner/studies/{made.id})" in optuna_dashboard.get_note(made.optuna)
    assert made.id != flowers.id


def test_a_note_of_the_study_that_a_person_wrote_is_copied_as_it_is(flowers: Study, target: Storage) -> None:
    optuna_dashboard.save_note(flowers.optuna, "my words")
    assert optuna_dashboard.get_note(copy(flowers, target).study.optuna) == "my words"


def test_the_same_copy_again_writes_nothing_and_a_changed_study_is_refused(flowers: Study, target: Storage) -> None:
    first = copy(flowers, target)
    before = furnished.contents(first.study)
    again = copy(flowers, target)
    assert (again.is_new, again.record) == (False, first.record)
    assert furnished.contents(again.study) == before
    control.resume(flowers)
    with pytest.raises(StudyError, match=r"has a copy of flowers from .* UTC; the study has changed since then.*--name NAME"):
        copy(flowers, target)
    assert furnished.contents(first.study) == before


def test_a_copy_under_another_name_takes_its_retraining_and_versions_with_it(flowers: Study, target: Storage) -> None:
    copy(flowers, target)
    made = copy(flowers, target, name="roses").study
    assert made.spec.name == "roses"
    (again,) = retraining.existing(made)
    assert (again.name, again.spec.retraining is not None and again.spec.retraining.study) == ("roses-retrain-1", "roses")
    theirs, ours = versions.all(target, "flowers", deleted=True), versions.all(target, "roses", deleted=True)
    assert [version.model.study for version in ours] == ["roses-retrain-1", "roses", "roses"]
    assert [(version.number, version.stages, version.deleted_at) for version in ours] == [
        (version.number, version.stages, version.deleted_at) for version in theirs
    ]
    assert ours[0].model.metrics == {"study": "roses", "retraining": "roses-retrain-1", "test_accuracy": 0.9}
    assert {key: value for key, value in furnished.contents(made).items() if key not in CHANGED_BY_A_NAME} == {
        key: value for key, value in furnished.contents(flowers).items() if key not in CHANGED_BY_A_NAME
    }


#: what names the study
CHANGED_BY_A_NAME = {"user", "versions", "stages", "readings", "audit"}


def test_a_name_that_is_taken_is_refused_with_the_option_for_another(flowers: Study, target: Storage) -> None:
    with pytest.raises(StudyError, match=r"target\.db already has a study named crowd, so flowers is not copied.*--name NAME"):
        copy(flowers, target, name="crowd")
    studies.join(by_hand.spec(name="roses-retrain-1"), target)
    with pytest.raises(StudyError, match="already has a study named roses-retrain-1"):
        copy(flowers, target, name="roses")
    versions.add(target, dataclasses.replace(versions.all(flowers.storage, "flowers")[0].model, name="tulips"))
    with pytest.raises(StudyError, match="already has versions named tulips, of a study that was deleted"):
        copy(flowers, target, name="tulips")
    assert set(studies.names(target)) == {"crowd", "roses-retrain-1"}


def test_the_same_database_is_refused_whatever_its_url_is(flowers: Study, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    other = storages.open(f"sqlite:///{tmp_path}/link/../link/tuner.db")
    with pytest.raises(StudyError, match=r"is the database that the study flowers is in.*tuner migrate flowers FILE"):
        copy(flowers, other, name="roses")
    other.close()


def test_a_study_with_an_active_worker_is_refused(storage: Storage, target: Storage) -> None:
    study = studies.join(by_hand.spec(name="busy"), storage)
    by_hand.must_claim(study, dataclasses.replace(WorkerId.here("w1"), namespace="another boot"))
    with pytest.raises(StudyError, match=r"busy has 1 active worker \(.*/w1\).*tuner stop busy --now"):
        copy(study, target)
    by_hand.grow_old(study, 61)
    copy(study, target)


def test_a_worker_of_another_host_is_active_for_the_length_of_a_lease(
    storage: Storage, target: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNER_LEASE_SECONDS", "300")
    study = studies.join(by_hand.spec(name="busy"), storage)
    by_hand.must_claim(study, dataclasses.replace(WorkerId.here("w1"), namespace="another boot"))
    by_hand.grow_old(study, 61)
    with pytest.raises(StudyError, match="counts as active for 300 seconds"):
        copy(study, target)
    by_hand.grow_old(study, 301)
    copy(study, target)


@pytest.mark.parametrize("is_alive", [True, False])
def test_a_worker_of_this_host_counts_as_long_as_its_process_lives(is_alive: bool, storage: Storage, target: Storage) -> None:
    study = studies.join(by_hand.spec(name="busy"), storage)
    here = WorkerId.here("w1")
    by_hand.must_claim(study, here if is_alive else dataclasses.replace(here, process_started=1.0))
    if not is_alive:
        copy(study, target)
        return
    by_hand.grow_old(study, 61)
    with pytest.raises(StudyError, match="1 active worker"):
        copy(study, target)


def test_a_worker_that_begins_during_the_copy_ends_it_without_a_trace(flowers: Study, target: Storage) -> None:
    control.resume(flowers)
    with pytest.raises(StudyError, match="1 active worker"):
        copy(flowers, target, tell=lambda name, num_trials: by_hand.claim(flowers))
    assert studies.names(target) == ["crowd"]
    assert versions.all(target) == []


def test_a_retraining_is_copied_only_with_its_study(flowers: Study, target: Storage) -> None:
    (again,) = retraining.existing(flowers)
    with pytest.raises(StudyError, match=r"flowers-retrain-1 is a retraining of flowers.*tuner copy flowers"):
        copy(again, target)


def test_a_copy_that_the_target_stores_otherwise_is_given_up(flowers: Study, target: Storage) -> None:
    """A database may shorten or round what it is given without an error, as MySQL does in some modes."""
    trigger = (
        "CREATE TRIGGER shortens AFTER INSERT ON trial_user_attributes WHEN NEW.key = 'origin' BEGIN "
        "UPDATE trial_user_attributes SET value_json = '\"r\"' WHERE trial_user_attribute_id = NEW.trial_user_attribute_id; END"
    )
    target.write(lambda connection: connection.exec_driver_sql(trigger))
    with pytest.raises(StudyError, match=r"another value_json in trial_user_attributes of trial 0 than it was given: '\"r\"' for"):
        copy(flowers, target)
    assert studies.names(target) == ["crowd"]


def test_a_copy_continues_as_the_source_would(storage: Storage, target: Storage) -> None:
    study = studies.join(by_hand.spec(sampler={"name": "tpe", "startup_trials": 2}, budget={"trials": 12}), storage)
    for value in (0.5, 0.6, 0.7, 0.4):
        by_hand.finish(study, by_hand.must_claim(study), value)
    suspended = by_hand.must_claim(study)
    trials.release(study, suspended)
    made = copy(study, target).study
    for _ in range(2):  # the suspended trial, then a new one
        ours, theirs = by_hand.must_claim(made), by_hand.must_claim(study)
        assert (ours.number, ours.attempt, ours.seed, ours.hyperparameters) == (
            theirs.number, theirs.attempt, theirs.seed, theirs.hyperparameters
        )  # fmt: skip
        by_hand.finish(made, ours, 0.8)
        by_hand.finish(study, theirs, 0.8)


def test_a_report_that_waited_on_disk_is_delivered_to_the_copy(storage: Storage, target: Storage) -> None:
    study = studies.join(by_hand.spec(), storage)
    lost = by_hand.must_claim(study, dataclasses.replace(WorkerId.here("w1"), namespace="another boot"))
    by_hand.grow_old(study, 61)
    made = copy(study, target).study
    curve = by_hand.epochs(lost, [0.2, 0.9])
    assert trials.deliver(made, lost, curve, by_hand.finished(lost, 0.9), device="cpu") is Delivery.STORED
    assert made.optuna.best_value == 0.9
    crowd = select(tables.VALUES.c.value).join(tables.TRIALS, tables.TRIALS.c.trial_id == tables.VALUES.c.trial_id)
    others = target.read(lambda connection: connection.execute(crowd.where(tables.TRIALS.c.study_id != made.id)).scalars().all())
    assert list(others) == [0.5, 0.5, 0.5]


def test_a_copy_of_a_copy_has_a_record_of_its_own(flowers: Study, target: Storage, tmp_path: Path) -> None:
    first = copy(flowers, target)
    third = storages.open(databases.sqlite(tmp_path, "third.db"))
    second = copy(first.study, third)
    assert furnished.contents(second.study) == furnished.contents(flowers)
    assert second.record["storage"].endswith("target.db")
    stored = third.read(lambda connection: tables.get(connection, tables.STUDY_USER, second.study.id, COPIED))
    assert stored[COPIED] == second.record
    third.close()


def test_the_places_of_weights_are_folders_of_studies_and_urls(flowers: Study) -> None:
    assert copying.places(flowers) == {"/": 2, "/w/flowers": 1}


@pytest.mark.parametrize(
    ("weights", "place"),
    [
        ("/srv/a b/flowers/trial-00007/weights.npz", "/srv/a b/flowers"),
        ("/srv/flowers-retrain-1/weights.npz", "/srv/flowers-retrain-1"),
        ("s3://bucket/team/flowers/trial-00007/weights.npz", "s3://bucket/team/flowers"),
        ("/trial-1/w.npz", "/trial-1"),
    ],
)
def test_the_weights_of_a_trial_are_in_the_folder_of_its_study(weights: str, place: str, flowers: Study) -> None:
    versions.add(flowers.storage, dataclasses.replace(versions.all(flowers.storage, "flowers")[0].model, artifact=weights))
    assert place in copying.places(flowers)


def test_nothing_but_the_new_study_changes_in_the_target(flowers: Study, target: Storage) -> None:
    crowd = studies.load("crowd", target)
    before = furnished.contents(crowd)
    copy(flowers, target)
    assert furnished.contents(crowd) == before
    owned = sqlalchemy.select(sqlalchemy.func.count()).select_from(tables.AUDIT)
    assert target.read(lambda connection: connection.execute(owned).scalar()) == 1
