"""Copying a study between databases of every kind, also with a process that is killed in the middle."""

import contextlib
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.engine import make_url

from tests import databases
from tests.integration import worker_processes
from tests.studies import furnished
from tuner.cli import main
from tuner.errors import StudyError
from tuner.storage import engine as storages
from tuner.storage import optuna_private, tables
from tuner.storage.engine import Storage
from tuner.studies import copying, retraining
from tuner.studies import study as studies

KINDS = ("sqlite", "postgresql", "mariadb")
#: a storage with two searches, a retraining and its versions, a suspended trial and a checkpoint
OLD = Path(__file__).parents[1] / "compatibility" / "e093cb4" / "work"
#: figures that depend on the moment
_PASSING = ("eta_seconds", "busy_seconds")
#: moments and ids of a report
_VARYING = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d(?::\d\d)?")


def address(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    """Return the URL of an empty database of a kind."""
    return databases.sqlite(folder, f"{kind}.db") if kind == "sqlite" else str(request.getfixturevalue(f"{kind}_url"))


@contextlib.contextmanager
def opened(*urls: str) -> Iterator[list[Storage]]:
    found = [storages.open(url) for url in urls]
    yield found
    for storage in found:
        storage.close()


def num_rows(storage: Storage) -> dict[str, int]:
    """Return the number of rows in each table of studies."""
    known = [*optuna_private.METADATA.sorted_tables, *tables.METADATA.sorted_tables]
    counts = [(table.name, select(func.count()).select_from(table)) for table in known if table.name != "version_info"]
    return storage.read(lambda connection: {name: connection.execute(query).scalar_one() for name, query in counts})


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(KINDS, 2)))
def test_a_study_is_the_same_in_every_other_kind_of_database(
    source: str, target: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with opened(address(source, request, tmp_path), address(target, request, tmp_path)) as (old, new):
        study = furnished.begin(old)
        copied = copying.copy(study, new, name=study.name, by="eve", batch=4)
        rounds = "mariadb" in (source, target)
        assert furnished.contents(copied.study, rounds=rounds) == furnished.contents(study, rounds=rounds)
        (again,), (copied_again,) = retraining.existing(study), retraining.existing(copied.study)
        assert furnished.contents(copied_again, rounds=rounds) == furnished.contents(again, rounds=rounds)
        assert not copying.copy(study, new, name=study.name, by="eve", batch=4).is_new


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_that_was_killed_leaves_nothing_and_the_next_one_is_whole(
    kind: str, processes: ForkServerContext, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source, target = databases.sqlite(tmp_path, "source.db"), address(kind, request, tmp_path)
    with opened(source, target) as (old, new):
        study = furnished.begin(old)
        empty = num_rows(new)
        before = furnished.contents(study)
        receiving, sending = processes.Pipe(duplex=False)
        killed = processes.Process(target=worker_processes.copy_and_wait, args=(source, study.name, target, sending))
        killed.start()
        assert receiving.recv() == 4  # of 9 trials
        assert studies.names(new) == []
        killed.kill()
        killed.join()
        assert num_rows(new) == empty
        rounds = kind == "mariadb"
        copied = copying.copy(study, new, name=study.name, by="eve").study
        assert furnished.contents(copied, rounds=rounds) == furnished.contents(study, rounds=rounds)
        assert num_rows(new) == num_rows(old) | {"study_user_attributes": num_rows(old)["study_user_attributes"] + 1, "tuner_audit": 1}
        assert furnished.contents(study) == before


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_text_that_is_too_long_for_the_target_is_refused(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    with opened(databases.sqlite(tmp_path), str(request.getfixturevalue(f"{kind}_url"))) as (old, new):
        study = furnished.begin(old)
        old.write(lambda connection: connection.execute(tables.WORKERS.update().values(device="d" * 300)))
        with pytest.raises(StudyError, match=r"refuses a row of tuner_workers, where the longest text has 300 characters: .*too long"):
            copying.copy(study, new, name=study.name, by="eve")
        assert studies.names(new) == []


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_one_database_is_recognized_under_another_url(kind: str, request: pytest.FixtureRequest) -> None:
    url = make_url(str(request.getfixturevalue(f"{kind}_url")))
    again = url.update_query_dict({"application_name": "other"} if kind == "postgresql" else {"charset": "utf8mb4"})
    with opened(*(each.render_as_string(hide_password=False) for each in (url, again))) as (one, other):
        study = furnished.begin(one)
        with pytest.raises(StudyError, match="is the database that the study flowers is in"):
            copying.copy(study, other, name="roses", by="eve")


@contextlib.contextmanager
def neighbour(storage: Storage) -> Iterator[Storage]:
    """Give another database of the same server."""
    url = make_url(storage.url)
    name = f"{url.database}_2"
    for_servers = storage.engine.execution_options(isolation_level="AUTOCOMMIT")
    with for_servers.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    with opened(url.set(database=name).render_as_string(hide_password=False)) as (found,):
        yield found
    with for_servers.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name}")


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_another_database_of_the_same_server_is_a_target(kind: str, request: pytest.FixtureRequest) -> None:
    with opened(str(request.getfixturevalue(f"{kind}_url"))) as (one,), neighbour(one) as other:
        study = furnished.begin(one)
        copied = copying.copy(study, other, name=study.name, by="eve").study
        assert furnished.contents(copied) == furnished.contents(study)


@pytest.mark.parametrize("kind", KINDS)
def test_every_command_says_the_same_of_a_copy(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    used: list[Storage] = []
    open_storage = storages.open

    def open_and_remember(url: str) -> Storage:
        used.append(open_storage(url))
        return used[-1]

    monkeypatch.setattr(storages, "open", open_and_remember)
    shutil.copyfile(OLD / "storage.sqlite3", tmp_path / "old.db")
    urls = {"old": "sqlite:///old.db", "new": address(kind, request, tmp_path)}

    def said(*arguments: str) -> str:
        assert main.main([*arguments]) == 0, capsys.readouterr().err
        while used:  # in a program, the end of the process closes them
            used.pop().close()
        return capsys.readouterr().out

    for study in ("paused", "digits", "shapes"):
        said("copy", study, "--storage", urls["old"], "--to", urls["new"])
    for study in ("paused", "digits", "shapes", "shapes-retrain-1"):
        for command in ("status", "watch", "best", "versions", "export", "report"):
            if command == "versions" and study != "shapes":
                continue
            told = {which: _told(said, command, study, url, tmp_path / f"{which}-{command}") for which, url in urls.items()}
            assert told["new"] == told["old"], (command, study)


def _told(said: Any, command: str, study: str, url: str, path: Path) -> Any:
    """Return what a command says or writes about a study, without what depends on the moment."""
    if command in ("export", "report"):
        target = path.with_suffix(".json" if command == "export" else ".md")
        said(command, study, "--storage", url, "--to", str(target), "--force")
        return _VARYING.sub("", target.read_text())
    found = json.loads(said(command, study, "--storage", url, "--json"))
    return {key: value for key, value in found.items() if key not in _PASSING} if isinstance(found, dict) else found
