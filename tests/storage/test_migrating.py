"""Migrating databases of every age: none loses data, and all get the same tables."""

import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy import Column, Connection, create_engine, inspect, text

from tests.studies import by_hand
from tuner.errors import StorageError
from tuner.queue import entries
from tuner.queue.entries import QueueState, Submission
from tuner.storage import engine as storages
from tuner.storage import migrating, tables
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.views import status

#: the tables that `create_all` created before there were migration steps
OLD = """
CREATE TABLE tuner_leases (
 study_id INTEGER NOT NULL, trial_number INTEGER NOT NULL, attempt INTEGER NOT NULL, trial_id INTEGER NOT NULL,
 worker_key VARCHAR(32) NOT NULL, worker VARCHAR(200) NOT NULL, namespace VARCHAR(200) NOT NULL, pid INTEGER NOT NULL,
 process_started {double} NOT NULL, started_at {double} NOT NULL, seen_at {double} NOT NULL, ended_at {double},
 ending VARCHAR(32) NOT NULL, error VARCHAR(200) NOT NULL, PRIMARY KEY (study_id, trial_number, attempt));
CREATE TABLE tuner_epochs (
 study_id INTEGER NOT NULL, trial_number INTEGER NOT NULL, step INTEGER NOT NULL, stage VARCHAR(32) NOT NULL, loss {double},
 accuracy {double}, validation_loss {double}, validation_accuracy {double}, learning_rate {double}, seconds {double},
 PRIMARY KEY (study_id, trial_number, step));
CREATE TABLE tuner_audit (
 id {serial}, at {double} NOT NULL, who VARCHAR(200) NOT NULL, role VARCHAR(16) NOT NULL, method VARCHAR(16) NOT NULL,
 path VARCHAR(500) NOT NULL, status INTEGER NOT NULL, study VARCHAR(512) NOT NULL, address VARCHAR(64) NOT NULL, PRIMARY KEY (id));
CREATE INDEX ix_tuner_audit_at ON tuner_audit (at);
CREATE TABLE tuner_workers (
 study_id INTEGER NOT NULL, worker_key VARCHAR(32) NOT NULL, worker VARCHAR(200) NOT NULL, host VARCHAR(200) NOT NULL,
 namespace VARCHAR(200) NOT NULL, pid INTEGER NOT NULL, process_started {double} NOT NULL, device VARCHAR(200) NOT NULL,
 threads INTEGER, versions VARCHAR(500) NOT NULL, started_at {double} NOT NULL, seen_at {double} NOT NULL, ended_at {double},
 ending VARCHAR(200) NOT NULL, memory_bytes BIGINT, trainer_memory_bytes BIGINT, trial_number INTEGER, stage VARCHAR(32) NOT NULL,
 wish VARCHAR(32) NOT NULL, wished_by VARCHAR(200) NOT NULL, PRIMARY KEY (study_id, worker_key));
"""
ROWS = [
    "INSERT INTO tuner_leases VALUES (1, 0, 1, 1, 'key', 'host/1', 'space', 7, 1.5, 2.5, 3.5, 4.5, 'finished', '')",
    "INSERT INTO tuner_epochs VALUES (1, 0, 1, 'probe', 0.5, 0.75, 0.25, 0.875, 0.01, 2.0)",
    "INSERT INTO tuner_audit VALUES (3, 5.5, 'ada', 'admin', 'POST', '/api', 200, 'flowers', '127.0.0.1')",
    "INSERT INTO tuner_workers VALUES (1, 'key', 'host/1', 'h', 'space', 7, 1.5, 'cpu', 2, '{}', 2.5, 3.5, NULL, '', 9, 9, 0, '', '', '')",
]


def make_old(url: str) -> None:
    """Create a database from before the migration steps, with a row in each of its tables."""
    engine = RDBStorage(url).engine
    is_lite = engine.dialect.name == "sqlite"
    kinds = {"double": "DOUBLE", "serial": "INTEGER NOT NULL"} if is_lite else {"double": "DOUBLE PRECISION", "serial": "SERIAL"}
    with engine.begin() as connection:
        for statement in [*OLD.format(**kinds).split(";"), *ROWS]:
            if statement.strip():
                connection.execute(text(statement))
    engine.dispose()


def rows(storage: Storage, table: sqlalchemy.Table) -> list[tuple[Any, ...]]:
    return storage.read(lambda connection: [tuple(row) for row in connection.execute(sqlalchemy.select(table))])


def layout(storage: Storage) -> dict[str, Any]:
    """Return names, types, keys and indexes of tuner's tables as the database reports them."""
    seen = inspect(storage.engine)
    return {
        table: (
            {column["name"]: (str(column["type"]), column["nullable"]) for column in seen.get_columns(table)},
            seen.get_pk_constraint(table)["constrained_columns"],
            sorted((index["name"] or "", tuple(index["column_names"])) for index in seen.get_indexes(table)),
        )
        for table in seen.get_table_names()
        if table.startswith("tuner_")
    }


def test_an_old_database_opens_without_loss_of_data(storage_url: str) -> None:
    make_old(storage_url)
    storage = storages.open(storage_url)
    assert storage.read(migrating.version) == migrating.HEAD
    assert [row[4] for row in rows(storage, tables.LEASES)] == ["key"]
    assert rows(storage, tables.EPOCHS) == [(1, 0, 1, "probe", 0.5, 0.75, 0.25, 0.875, 0.01, 2.0, None, None)]
    assert rows(storage, tables.AUDIT) == [(3, 5.5, "ada", "admin", "POST", "/api", 200, "flowers", "127.0.0.1")]
    assert [row[2] for row in rows(storage, tables.WORKERS)] == ["host/1"]
    assert rows(storage, tables.VERSIONS) == []
    storage.close()


def test_an_old_database_gets_the_tables_of_a_new_one(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path}/{name}.db" for name in ("old", "new")]
    make_old(urls[0])
    old, new = (storages.open(url) for url in urls)
    assert layout(old) == layout(new)
    assert {*layout(new)} == {*tables.METADATA.tables, migrating.VERSION_TABLE}
    old.close()
    new.close()


def test_attributes_of_an_old_mysql_database_hold_more_than_64_kib(mariadb_url: str) -> None:
    make_old(mariadb_url)
    storage = storages.open(mariadb_url)
    kinds = {
        table: str(column["type"])
        for table in ("study_user_attributes", "study_system_attributes", "trial_user_attributes", "trial_system_attributes")
        for column in inspect(storage.engine).get_columns(table)
        if column["name"] == "value_json"
    }
    assert set(kinds.values()) == {"MEDIUMTEXT"}
    assert len(kinds) == 4
    storage.close()


def test_the_steps_create_the_tables_of_the_code(storage_url: str) -> None:
    storage = storages.open(storage_url)
    made = layout(storage)
    made.pop(migrating.VERSION_TABLE)

    def make_anew(connection: Connection) -> None:
        tables.METADATA.drop_all(connection)
        tables.METADATA.create_all(connection)

    storage.write(make_anew)
    named = layout(storage)
    named.pop(migrating.VERSION_TABLE)
    assert made == named
    storage.close()


def test_the_head_is_the_last_step() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    folder = Path(migrating.__file__).parent / "migrations"
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("version_locations", str(folder / "steps"))
    config.set_main_option("path_separator", "newline")
    assert ScriptDirectory.from_config(config).get_heads() == [migrating.HEAD]


def test_a_study_of_an_older_tuner_resumes(storage: Storage) -> None:
    study = studies.join(by_hand.spec(), storage)
    by_hand.finish(study, by_hand.must_claim(study), 0.5)

    def forget(connection: Connection) -> None:
        for name in (migrating.VERSION_TABLE, *(table.name for table in (tables.VERSIONS, tables.STAGES))):
            connection.execute(text(f"DROP TABLE {name}"))
        connection.execute(text("DROP TABLE tuner_test_readings"))

    storage.write(forget)
    again = storages.open(storage.url)
    study = studies.load("by-hand", again)
    by_hand.finish(study, by_hand.must_claim(study), 0.75)
    assert status.snapshot(study).num_completed == 2
    again.close()


def upgrade_to(url: str, step: str, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """Open a storage as the tuner did whose last step this was."""
    from alembic import command

    upgrade = command.upgrade
    with monkeypatch.context() as patched:
        patched.setattr(migrating, "HEAD", step)
        patched.setattr(command, "upgrade", lambda config, _: upgrade(config, step))
        return storages.open(url)


def test_a_worker_that_runs_continues_while_another_one_brings_the_storage_to_the_next_step(
    storage_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = upgrade_to(storage_url, "4", monkeypatch)
    assert not {"tuner_queue", "tuner_pool"} & {*inspect(before.engine).get_table_names()}
    monkeypatch.setattr(tables, "QUEUE", tables.LEASES)  # the earlier tuner knows no queue
    study = studies.join(by_hand.spec(), before)
    monkeypatch.undo()
    first = by_hand.must_claim(study)
    after = storages.open(storage_url)
    assert after.read(migrating.version) == "5"
    by_hand.finish(study, first, 0.5)
    by_hand.finish(study, by_hand.must_claim(study), 0.75)
    entries.submit(after, study.spec, Submission(owner="ann"))
    by_hand.finish(study, by_hand.must_claim(study), 0.25)
    assert status.snapshot(study).num_completed == 3
    assert entries.entry(after, study.name).state is QueueState.QUEUED
    before.close()
    after.close()


def test_a_database_of_a_newer_tuner_is_refused_and_does_not_change(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/tuner.db"
    storages.open(url).close()
    with sqlite3.connect(tmp_path / "tuner.db") as connection:
        connection.execute("UPDATE tuner_alembic SET version_num = '99'")
    connection.close()
    before = (tmp_path / "tuner.db").read_bytes()
    with pytest.raises(StorageError, match="last used by a newer tuner: its tables are at step 99, and this version supports up to step"):
        storages.open(url)
    assert (tmp_path / "tuner.db").read_bytes() == before


def test_many_processes_migrate_an_old_database_at_once(storage_url: str) -> None:
    make_old(storage_url)
    errors: list[StorageError] = []
    done: list[str] = []

    def work() -> None:
        try:
            barrier.wait()
            storages.open(storage_url).close()
            done.append("done")
        except StorageError as error:
            errors.append(error)

    barrier = threading.Barrier(8, timeout=120)
    hands = [threading.Thread(target=work) for _ in range(8)]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join()
    assert errors == []
    assert done == ["done"] * 8
    storage = storages.open(storage_url)
    assert rows(storage, tables.EPOCHS) == [(1, 0, 1, "probe", 0.5, 0.75, 0.25, 0.875, 0.01, 2.0, None, None)]
    assert storage.read(lambda connection: connection.execute(text("SELECT count(*) FROM tuner_alembic")).scalar()) == 1
    storage.close()


@pytest.mark.parametrize("storage_url", ["sqlite", "postgresql"], indirect=True)  # MariaDB commits each change of a table at once
def test_a_failed_step_is_rolled_back(storage_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_old(storage_url)
    upgrade = migrating._upgrade

    def upgrade_and_fail(connection: Connection) -> None:
        upgrade(connection)
        connection.execute(text("SELECT * FROM no_such_table"))

    with monkeypatch.context() as patched:
        patched.setattr(migrating, "_upgrade", upgrade_and_fail)
        with pytest.raises(StorageError):
            storages.open(storage_url)
    engine = create_engine(storage_url)
    assert not {"tuner_versions", "tuner_alembic"} & {*inspect(engine).get_table_names()}
    engine.dispose()
    storages.open(storage_url).close()


def test_an_interrupted_step_on_mariadb_is_finished_by_the_next_call(mariadb_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_old(mariadb_url)
    from alembic import op

    add = migrating.add_table

    def add_or_fail(name: str, *columns: Column[Any]) -> None:
        if name == "tuner_stages":
            op.get_bind().execute(text("SELECT * FROM no_such_table"))
        add(name, *columns)

    with monkeypatch.context() as patched:
        patched.setattr(migrating, "add_table", add_or_fail)
        with pytest.raises(StorageError):
            storages.open(mariadb_url)
    engine = create_engine(mariadb_url)
    assert {"tuner_versions", "tuner_stages"} & {*inspect(engine).get_table_names()} == {"tuner_versions"}
    engine.dispose()
    storage = storages.open(mariadb_url)
    assert storage.read(migrating.version) == migrating.HEAD
    assert {*layout(storage)} == {*tables.METADATA.tables, migrating.VERSION_TABLE}
    assert rows(storage, tables.EPOCHS) == [(1, 0, 1, "probe", 0.5, 0.75, 0.25, 0.875, 0.01, 2.0, None, None)]
    storage.close()


def test_other_processes_see_the_last_step_before_they_get_the_lock_on_mariadb(mariadb_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_old(mariadb_url)
    seen: list[str | None] = []
    unlock = migrating._unlock

    def look_and_unlock(connection: Connection) -> None:
        engine = create_engine(mariadb_url)
        with engine.connect() as other:
            seen.append(migrating.version(other))
        engine.dispose()
        unlock(connection)

    monkeypatch.setattr(migrating, "_unlock", look_and_unlock)
    storages.open(mariadb_url).close()
    assert seen == [migrating.HEAD]


def test_opening_an_up_to_date_storage_costs_few_statements(storage: Storage) -> None:
    with by_hand.statements(storage) as seen:
        assert storage.read(migrating.is_up_to_date)
    assert len(seen) <= 4, seen


def test_threads_of_one_process_migrate_several_databases_at_once(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path}/{number}.db" for number in range(4)]
    for url in urls:
        make_old(url)
    found: list[str | None] = []

    def work(url: str) -> None:
        storage = storages.open(url)
        found.append(storage.read(migrating.version))
        storage.close()

    hands = [threading.Thread(target=work, args=(url,)) for url in urls]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join()
    assert found == [migrating.HEAD] * 4
