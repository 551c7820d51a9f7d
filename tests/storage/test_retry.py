"""The one retry policy."""

import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage
from sqlalchemy.exc import IntegrityError

from tuner.storage import engine as storages
from tuner.storage import retry
from tuner.storage.retry import Schedule


def test_work_that_itself_waits_past_the_time_limit_gets_its_least_tries() -> None:
    tries = itertools.count(1)

    def work() -> int:
        number = next(tries)
        time.sleep(0.05)
        if number < 3:
            raise TimeoutError
        return number

    assert retry.call(work, may_pass=lambda error: True, schedule=Schedule(seconds=0.01, pauses=(0.001, 0.001), least_tries=3)) == 3


def test_no_further_try_follows_the_time_limit_and_the_least_tries() -> None:
    tries = itertools.count(1)

    def work() -> int:
        next(tries)
        raise TimeoutError

    with pytest.raises(TimeoutError):
        retry.call(work, may_pass=lambda error: True, schedule=Schedule(seconds=0.0, pauses=(0.001, 0.001), least_tries=3))
    assert next(tries) == 4


def test_creating_tables_is_retried_though_the_first_try_waited_past_the_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, tries = storages._create, itertools.count(1)

    def lose_the_first_races(*arguments: Any) -> RDBStorage:
        if next(tries) < 3:
            raise IntegrityError("INSERT", {}, Exception("UNIQUE constraint failed: alembic_version.version_num"))
        return create(*arguments)

    monkeypatch.setattr(storages, "_create", lose_the_first_races)
    storages.open(f"sqlite:///{tmp_path / 'tuner.db'}", creation=replace(storages._CREATION, seconds=0.0)).close()
    assert next(tries) == 4
