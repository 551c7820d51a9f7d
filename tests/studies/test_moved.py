"""Moved studies: a study that optuna-dashboard renamed, or that Optuna copied, continues under its new name."""

import json
from collections.abc import Callable
from pathlib import Path

import a2wsgi
import optuna
import optuna_dashboard
import pytest
from starlette.testclient import TestClient

from tests import databases
from tests.results.new_versions import new_version
from tests.studies import by_hand
from tuner.errors import StudyError, VersionError
from tuner.results.versions import stages, versions
from tuner.results.versions.versions import NewReading, VersionStage
from tuner.storage import attributes
from tuner.storage import engine as storages
from tuner.storage.engine import Storage
from tuner.studies import data_check, moved, trials
from tuner.studies import retraining as retrainings
from tuner.studies import study as studies
from tuner.studies.study import Study
from tuner.views import status
from tuner.views import trial as views_trial

Begin = Callable[..., Study]
LOOK = NewReading(splits="5" * 64, by="ada", purpose="retrain", accuracy=0.9, num_images=200)


@pytest.fixture
def old(begin: Begin) -> Study:
    """A study with a completed, a running and an enqueued trial."""
    study = begin(name="old", budget={"trials": 3})
    first = by_hand.must_claim(study)
    trials.report(study, first, by_hand.epochs(first, [0.3, 0.4]))
    by_hand.finish(study, first, 0.5)
    running = by_hand.must_claim(study)
    trials.report(study, running, by_hand.epochs(running, [0.2]))
    study.optuna.enqueue_trial({"dropout": 0.25})
    return study


def rename(study: Study, name: str) -> None:
    """Rename a study as optuna-dashboard does."""
    client = TestClient(a2wsgi.WSGIMiddleware(optuna_dashboard.wsgi(study.storage.rdb)))  # type: ignore[arg-type]
    assert client.post(f"/api/studies/{study.id}/rename", json={"study_name": name}).status_code == 201


def copy(study: Study, name: str, to: Storage) -> None:
    optuna.copy_study(from_study_name=study.name, from_storage=study.storage.rdb, to_storage=to.rdb, to_study_name=name)


def check_that_it_continues(study: Study, attempt: int) -> None:
    """Check that the best trial is known, the running trial is resumed, and the enqueued one follows."""
    snapshot = status.snapshot(study)
    assert (snapshot.best_value, snapshot.num_completed, snapshot.num_waiting, snapshot.num_enqueued) == (0.5, 1, 1, 1)
    resumed = by_hand.must_claim(study)
    assert (resumed.number, resumed.attempt) == (1, attempt)
    trials.report(study, resumed, by_hand.epochs(resumed, [0.2, 0.3]))
    by_hand.finish(study, resumed, 0.6)
    enqueued = by_hand.must_claim(study)
    assert (enqueued.number, enqueued.of_images.dropout) == (2, 0.25)
    by_hand.finish(study, enqueued, 0.7)
    assert by_hand.claim(study) is None


def test_a_study_that_optuna_dashboard_renamed_continues_with_its_attempts_and_epochs(old: Study) -> None:
    was = views_trial.load(old, 0)
    rename(old, "new")
    assert studies.names(old.storage) == ["new"]
    new = studies.join(by_hand.spec(name="new", budget={"trials": 3}), old.storage)
    assert new.spec.name == "new"
    now = views_trial.load(new, 0)
    assert now.epochs == was.epochs
    assert now.attempts == was.attempts
    check_that_it_continues(new, 2)


def test_versions_of_a_renamed_study_and_its_retraining_get_its_new_name_and_the_old_one_is_still_understood(old: Study) -> None:
    data_check.admit(old, by_hand.PREPARED)
    again = retrainings.begin(old, retrainings.configs(old, 1), (1,), top=1).name
    verdict = {"study": "old", "retraining": again, "test_accuracy": 0.9}
    versions.add(old.storage, new_version(name="old", study="old"), reading=LOOK)
    versions.add(old.storage, new_version(name="old", study=again, metrics=verdict))
    versions.add(old.storage, new_version(name="other", study="other", fingerprint="e" * 64))
    stages.promote(old.storage, "old", 2, by="ada")
    rename(old, "new")
    with pytest.raises(StudyError, match="there is no study old in this storage.* Another program renamed it to new"):
        studies.load("old", old.storage)
    studies.follow_renames(old.storage)
    first, second = versions.all(old.storage, "new")
    assert (first.number, first.model.study, second.number, second.model.study) == (1, "new", 2, again)
    assert second.model.metrics == {"study": "new", "retraining": again, "test_accuracy": 0.9}
    assert second.stages == (VersionStage.PRODUCTION,)
    assert [reading.name for reading in versions.readings(old.storage)] == ["new"]
    assert [event.name for event in stages.history(old.storage, "new")] == ["new"]
    assert versions.find(old.storage, "other").number == 1
    retraining = studies.load(again, old.storage).spec.retraining
    assert retraining is not None
    assert retraining.study == "new"
    with pytest.raises(VersionError, match="there is no version of old: another program renamed this study to new"):
        versions.find(old.storage, "old")
    rename(studies.load("new", old.storage), "newest")
    studies.load("newest", old.storage)
    assert old.storage.read(lambda connection: moved.current_name(connection, "old")) == "newest"
    assert [version.number for version in versions.all(old.storage, "newest")] == [1, 2]


def test_versions_stay_with_the_original_of_a_copy_and_with_other_images(old: Study) -> None:
    data_check.admit(old, by_hand.PREPARED)
    versions.add(old.storage, new_version(name="old", study="old"))
    copy(old, "copy", old.storage)
    studies.load("copy", old.storage)
    assert [version.name for version in versions.all(old.storage)] == ["old"]
    with old.storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE tuner_versions SET fingerprint = 'e'")
    rename(old, "new")
    studies.load("new", old.storage)
    assert [version.name for version in versions.all(old.storage)] == ["old"]


def test_a_copy_in_the_same_database_starts_from_the_moment_of_copying(old: Study) -> None:
    copy(old, "copy", old.storage)
    # the original goes on before tuner sees the copy
    running = trials.Claim(**vars(by_hand.must_claim(old)))
    trials.report(old, running, by_hand.epochs(running, [0.2, 0.3, 0.4]))
    by_hand.finish(old, running, 0.9)
    check_that_it_continues(studies.load("copy", old.storage), 2)
    assert status.snapshot(old).best_value == 0.9


def test_a_copy_in_another_database_continues(old: Study, tmp_path: Path) -> None:
    other = storages.open(databases.sqlite(tmp_path, "other.db"))
    copy(old, "old", other)
    study = studies.load("old", other)
    assert status.snapshot(study).busy_seconds == 0.0
    assert views_trial.load(study, 0).attempts == ()
    check_that_it_continues(study, 2)
    other.close()


def test_attempts_of_another_study_are_not_taken_for_those_of_a_copy(old: Study, tmp_path: Path) -> None:
    other = storages.open(databases.sqlite(tmp_path, "other.db"))
    unrelated = studies.join(by_hand.spec(name="unrelated"), other)
    by_hand.finish(unrelated, by_hand.must_claim(unrelated), 0.1)
    by_hand.grow_old(unrelated, 3600)
    with other.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE tuner_leases SET ended_at = ended_at - 3600")
    copy(old, "copy", other)
    assert views_trial.load(studies.load("copy", other), 0).attempts == ()
    other.close()


@pytest.mark.parametrize("name", ["my study", "../x", "", "löwe", "[red]x"])
def test_a_name_that_cannot_be_a_folder_is_refused_with_the_cure(old: Study, name: str) -> None:
    rename(old, name)
    with pytest.raises(StudyError, match="has only letters, digits, dots, dashes and underscores.*Give it another name") as raised:
        studies.load(name, old.storage)
    assert len(str(raised.value).splitlines()) == 1


def test_a_worker_of_a_renamed_study_ends_with_the_reason(old: Study) -> None:
    rename(old, "new")
    with pytest.raises(StudyError, match="the study old was deleted while it was running"):
        by_hand.claim(old)


@pytest.mark.parametrize("stored", [None, 3, [], {}, "", "text", "{", "[]", "null", "{}"])
def test_a_study_with_a_broken_spec_is_refused_in_one_line(old: Study, stored: object) -> None:
    old.optuna.set_user_attr(attributes.SPEC, stored)
    with pytest.raises(StudyError) as raised:
        studies.load("old", old.storage)
    assert len(str(raised.value).splitlines()) == 1
    if stored is not None:  # a worker that has read the study before ends in the same way
        with pytest.raises(StudyError, match="cannot be read: its user attribute `spec`"):
            by_hand.claim(old)


def test_a_spec_that_was_cut_off_is_refused_in_one_line(old: Study) -> None:
    with old.storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE study_user_attributes SET value_json = substr(value_json, 1, 40) WHERE key = 'spec'")
    with pytest.raises(StudyError, match="cannot be read: its user attribute `spec`"):
        studies.load("old", old.storage)


def test_a_study_of_two_objectives_is_not_taken_for_one_of_tuner(old: Study) -> None:
    two = optuna.create_study(study_name="two", storage=old.storage.rdb, directions=["maximize", "maximize"])
    two.set_user_attr(attributes.SPEC, json.dumps(old.spec.model_dump(mode="json")))
    with pytest.raises(StudyError, match="has several objectives"):
        studies.load("two", old.storage)
