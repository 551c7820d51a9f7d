"""Every private name of Optuna that tuner uses exists and means what we think."""

import ast
import importlib
import inspect
import io
import json
import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.artifacts import FileSystemArtifactStore
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import QMCSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from optuna_dashboard import _note
from optuna_dashboard.artifact import _backend

from tuner.storage import engine as storages
from tuner.storage import optuna_private
from tuner.storage.engine import Storage

SOURCE = Path(optuna_private.__file__)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return storages.open(f"sqlite:///{tmp_path / 'tuner.db'}")


@pytest.fixture
def study(storage: Storage) -> optuna.Study:
    return optuna.create_study(storage=storage.rdb, study_name="private", direction="maximize")


def rows(storage: Storage, table: sqlalchemy.Table) -> list[dict[str, Any]]:
    return storage.read(lambda connection: [dict(row) for row in connection.execute(sqlalchemy.select(table)).mappings()])


def test_each_imported_private_module_exists() -> None:
    imports = [node for node in ast.walk(ast.parse(SOURCE.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
    private = [node for node in imports if "._" in (node.module or "")]
    assert {node.module for node in private} == {"optuna.artifacts._protocol", "optuna.storages._rdb", "optuna.study._frozen"}
    for node in private:
        assert all(hasattr(importlib.import_module(str(node.module)), alias.name) or alias.name == "models" for alias in node.names)


def test_a_database_is_up_to_date_as_optuna_says(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = storage.rdb._version_manager
    assert versions.get_current_version() == versions.get_head_version() == optuna_private._REVISION
    assert storage.read(optuna_private.is_up_to_date)
    with monkeypatch.context() as patched:  # a version of Optuna with one migration more
        patched.setattr(optuna_private, "_MIGRATIONS", optuna_private._MIGRATIONS - {"v3.2.0.a_.py"})
        assert not storage.read(optuna_private.is_up_to_date)
    for statement in ("UPDATE alembic_version SET version_num = 'v3.0.0.d'", "DELETE FROM alembic_version", "DROP TABLE alembic_version"):
        storage.write(lambda connection, statement=statement: connection.exec_driver_sql(statement))  # type: ignore[misc]
        assert not storage.read(optuna_private.is_up_to_date)


def test_the_tables_are_those_that_optuna_writes(storage: Storage, study: optuna.Study) -> None:
    study.set_user_attr("a", 1)
    storage.rdb.set_study_system_attr(study._study_id, "b", 2)
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.report(0.25, 3)
    trial.set_user_attr("c", 3)
    storage.rdb.set_trial_system_attr(trial._trial_id, "d", 4)
    study.tell(trial, 0.5)
    [row] = rows(storage, optuna_private.STUDIES)
    assert row == {"study_id": study._study_id, "study_name": "private"}
    assert [row["direction"] for row in rows(storage, optuna_private.DIRECTIONS)] == [study.direction]
    assert [(row["key"], row["value_json"]) for row in rows(storage, optuna_private.STUDY_USER)] == [("a", "1")]
    assert ("b", "2") in [(row["key"], row["value_json"]) for row in rows(storage, optuna_private.STUDY_SYSTEM)]
    [row] = rows(storage, optuna_private.TRIALS)
    assert (row["number"], row["state"], row["study_id"]) == (0, TrialState.COMPLETE, study._study_id)
    assert [(row["key"], row["value_json"]) for row in rows(storage, optuna_private.TRIAL_USER)] == [("c", "3")]
    assert ("d", "4") in [(row["key"], row["value_json"]) for row in rows(storage, optuna_private.TRIAL_SYSTEM)]
    assert [row["param_name"] for row in rows(storage, optuna_private.PARAMETERS)] == ["x"]
    [row] = rows(storage, optuna_private.VALUES)
    assert (row["value"], row["value_type"], row["objective"]) == (0.5, optuna_private.FINITE, 0)
    [row] = rows(storage, optuna_private.INTERMEDIATE)
    assert (row["step"], row["intermediate_value"], row["intermediate_value_type"]) == (3, 0.25, optuna_private.FINITE_INTERMEDIATE)
    [row] = rows(storage, optuna_private.VERSION_INFO)
    assert row["library_version"] == optuna.__version__
    assert set(optuna_private.METADATA.tables) >= {"studies", "trials", "trial_values", "version_info"}


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_an_infinite_value_is_stored_as_null_of_another_type(value: float, storage: Storage, study: optuna.Study) -> None:
    study.add_trial(optuna.trial.create_trial(value=value))
    [row] = rows(storage, optuna_private.VALUES)
    assert row["value"] is None
    assert row["value_type"] != optuna_private.FINITE


def test_the_id_of_a_trial_is_that_of_the_database(storage: Storage, study: optuna.Study) -> None:
    study.add_trial(optuna.trial.create_trial(value=0.5))
    [row] = rows(storage, optuna_private.TRIALS)
    assert optuna_private.trial_id(study.trials[0]) == row["trial_id"]


@pytest.mark.parametrize(
    ("distribution", "inside", "outside"),
    [
        (FloatDistribution(0.0, 1.0), 0.5, 1.5),
        (IntDistribution(1, 3), 2, 4),
        (CategoricalDistribution(["a", "b"]), "b", None),
    ],
)
def test_a_distribution_contains_what_it_can_give(distribution: BaseDistribution, inside: Any, outside: Any) -> None:
    assert optuna_private.contains(distribution, inside)
    if outside is not None:
        assert not optuna_private.contains(distribution, outside)


def test_fixed_params_hold_what_was_enqueued(storage: Storage, study: optuna.Study) -> None:
    study.enqueue_trial({"x": 0.25})
    assert study.trials[0].system_attrs[optuna_private.FIXED_PARAMS] == {"x": 0.25}


def test_constraints_of_a_trial_are_read_from_their_keys(storage: Storage, study: optuna.Study) -> None:
    trial = study.ask()
    storage.rdb.set_trial_system_attr(trial._trial_id, f"{optuna_private.CONSTRAINTS}size_mb", 2.5)
    assert study.trials[0].constraints == {"size_mb": 2.5}


def test_metric_names_are_stored_under_their_key(storage: Storage, study: optuna.Study) -> None:
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        study.set_metric_names(["accuracy"])
    assert storage.rdb.get_study_system_attrs(study._study_id)[optuna_private.METRIC_NAMES] == ["accuracy"]


def test_tpe_tells_others_what_it_has_drawn_under_its_key(storage: Storage) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = TPESampler(n_startup_trials=1, multivariate=True, constant_liar=True, seed=0)
    study = optuna.create_study(storage=storage.rdb, sampler=sampler)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    trial = study.ask(fixed_distributions={"x": FloatDistribution(0, 1)})
    assert any(key.startswith(optuna_private.TPE_RELATIVE_PARAMS) for key in storage.rdb.get_trial(trial._trial_id).system_attrs)


def test_the_numbered_sampler_overrides_what_optuna_counts_by(storage: Storage) -> None:
    theirs, ours = (inspect.signature(kind._find_sample_id) for kind in (QMCSampler, optuna_private.NumberedQMCSampler))
    assert list(theirs.parameters) == list(ours.parameters)

    def third(number: int) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna_private.NumberedQMCSampler(
                number, qmc_type="halton", seed=0, independent_sampler=RandomSampler(seed=0), warn_independent_sampling=False
            )
        study = optuna.create_study(storage=storage.rdb, sampler=sampler)
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
        return float(study.trials[2].params["x"])

    assert third(7) == third(7)
    assert third(7) != third(8)


def test_optuna_dashboard_reads_a_note_from_our_keys(storage: Storage, study: optuna.Study) -> None:
    study.add_trial(optuna.trial.create_trial(value=0.5))
    trial = study.trials[0]
    for trial_id, body in ((None, "of the study"), (trial._trial_id, "of the trial")):
        owner = optuna_private.note_owner(trial_id)
        storage.rdb.set_study_system_attr(study._study_id, optuna_private.note_version_key(owner), 1)
        storage.rdb.set_study_system_attr(study._study_id, f"{optuna_private.note_page_prefix(owner)}0", body)
        attributes = storage.rdb.get_study_system_attrs(study._study_id)
        assert _note.get_note_from_system_attrs(attributes, trial_id) == {"version": 1, "body": body}
    assert _note.SYSTEM_ATTR_MAX_LENGTH == optuna_private.NOTE_PAGE_LENGTH


def test_the_keys_of_a_study_with_ids_of_trials_get_other_ids() -> None:
    ids = {17: 3, 170: 4}
    parents = f"{optuna.samplers.NSGAIISampler._get_parent_cache_key_prefix()}2"
    for key, text, expected in (
        (_note.note_ver_key(17), "1", (_note.note_ver_key(3), "1")),
        (f"{_note.note_str_key_prefix(170)}12", '"a"', (f"{_note.note_str_key_prefix(4)}12", '"a"')),
        (f"{_backend.DASHBOARD_ARTIFACTS_ATTR_PREFIX}17:x", "{}", (f"{_backend.DASHBOARD_ARTIFACTS_ATTR_PREFIX}3:x", "{}")),
        (parents, "[170, 17]", (parents, "[4, 3]")),
        # without the id of a trial
        (_note.note_ver_key(None), "1", (_note.note_ver_key(None), "1")),
        (f"{optuna_private.ARTIFACTS_ATTR_PREFIX}17", "{}", (f"{optuna_private.ARTIFACTS_ATTR_PREFIX}17", "{}")),
        # of a trial that the study does not have
        (_note.note_ver_key(5), "1", None),
    ):
        assert optuna_private.with_other_ids(key, text, ids) == expected


def test_optuna_finds_an_artifact_under_our_prefix(storage: Storage, study: optuna.Study, tmp_path: Path) -> None:
    trial, path = study.ask(), tmp_path / "picture.png"
    path.write_bytes(b"png")
    store = FileSystemArtifactStore(tmp_path)
    artifact_id = optuna.artifacts.upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=trial, storage=storage.rdb)
    stored = storage.rdb.get_trial(trial._trial_id).system_attrs[optuna_private.ARTIFACTS_ATTR_PREFIX + artifact_id]
    assert json.loads(stored)["artifact_id"] == artifact_id


def test_a_file_system_store_has_the_methods_of_the_protocol(tmp_path: Path) -> None:
    store: optuna_private.ArtifactStore = FileSystemArtifactStore(tmp_path)
    store.write("one", io.BytesIO(b"content"))
    with store.open_reader("one") as reader:
        assert reader.read() == b"content"
    store.remove("one")
    assert not list(tmp_path.iterdir())
