"""PostgreSQL behind PgBouncer: transactions of one client run on any connection of the pool, and no setting passes to another client."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from tests.pgbouncer import PgBouncer
from tests.studies import by_hand
from tuner.errors import StorageError
from tuner.storage import engine as storages
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.studies import trials
from tuner.studies.study import Study

#: after so many times, psycopg would prepare a statement
REPETITIONS = 8
Pool = Callable[..., str]


@pytest.fixture
def pool(postgresql_server: Any, postgresql_url: str, tmp_path: Path) -> Iterator[Pool]:
    """Start a PgBouncer in front of an empty database, and return the URL of the database through it."""
    started: list[PgBouncer] = []

    def start(**settings: Any) -> str:
        started.append(PgBouncer(tmp_path, postgresql_server.get_uri(), **settings))
        return started[-1].get_uri(str(make_url(postgresql_url).database))

    yield start
    for each in started:
        each.remove()


def train_by_hand(study: Study, value: float) -> None:
    claimed = by_hand.must_claim(study)
    trials.report(study, claimed, by_hand.epochs(claimed, [value / 2, value]))
    by_hand.finish(study, claimed, value)


@pytest.mark.parametrize("settings", [{}, {"pool_size": 3}, {"mode": "session", "pool_size": 20}])
def test_workers_share_a_pool(pool: Pool, settings: dict[str, Any]) -> None:
    url = pool(**settings)
    spec = by_hand.spec(budget={"trials": 4 * REPETITIONS})
    opened = [storages.open(url) for _ in range(4)]
    joined = [studies.join(spec, storage) for storage in opened]
    failed: list[BaseException] = []

    def work(study: Study) -> None:
        try:
            for number in range(REPETITIONS):
                train_by_hand(study, 0.5 + number / 100)
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=work, args=(study,)) for study in joined]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(joined[0].optuna.get_trials()) == 4 * REPETITIONS
    assert joined[0].optuna.best_value == 0.5 + (REPETITIONS - 1) / 100
    for storage in opened:
        storage.close()


def idle_limit(storage: Storage) -> str:
    return str(storage.read(lambda connection: connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar_one()))


@pytest.mark.parametrize("behind_a_pool", [True, False])
def test_the_limit_of_an_idle_transaction_holds_in_every_transaction_and_is_gone_after_it(
    pool: Pool, postgresql_url: str, behind_a_pool: bool
) -> None:
    url = pool() if behind_a_pool else postgresql_url
    storage = storages.open(f"{url}{'&' if '?' in url else '?'}tcp_user_timeout=7000")
    assert [idle_limit(storage) for _ in range(REPETITIONS)] == ["7s"] * REPETITIONS
    if behind_a_pool:
        with psycopg.connect(url, autocommit=True) as other:  # it gets the one connection of the pool
            assert other.execute("SHOW idle_in_transaction_session_timeout").fetchone() == ("0",)
    storage.close()


def test_no_statement_is_prepared_on_the_server(pool: Pool) -> None:
    url = pool()
    storage = storages.open(url)
    for _ in range(REPETITIONS):
        storage.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar_one())
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as other:
        assert other.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
    storage.close()


def test_a_pool_that_allows_no_transactions_is_explained(pool: Pool) -> None:
    with pytest.raises(StorageError, match="PgBouncer allows no transactions here; set pool_mode = transaction") as raised:
        storages.open(pool(mode="statement"))
    assert len(str(raised.value).splitlines()) == 1


def test_an_option_that_pgbouncer_refuses_is_explained(pool: Pool) -> None:
    with pytest.raises(StorageError, match="PgBouncer does not pass on the options of the URL; remove them") as raised:
        storages.open(f"{pool()}?options=-csearch_path%3Dtuner")
    assert len(str(raised.value).splitlines()) == 1
