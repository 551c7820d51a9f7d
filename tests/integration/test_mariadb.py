"""What only a MariaDB server does: refuse a user, restart, close connections."""

import secrets
from collections.abc import Iterator

import optuna
import pytest
from sqlalchemy import Connection
from sqlalchemy.engine import make_url

from tests.mariadb import Server
from tests.studies import by_hand
from tuner.errors import StorageError
from tuner.storage import engine as storages
from tuner.storage import tables
from tuner.studies import data_check, leases, retraining, trials
from tuner.studies import study as studies
from tuner.views import status


@pytest.fixture
def guest(mariadb_server: Server, mariadb_url: str) -> Iterator[str]:
    """A user with read access only and the password `sesame`."""
    name = f"guest_{secrets.token_hex(3)}"
    mariadb_server.execute(f"CREATE USER {name} IDENTIFIED BY 'sesame'")
    mariadb_server.execute(f"GRANT SELECT ON {make_url(mariadb_url).database}.* TO {name}")
    yield name
    mariadb_server.execute(f"DROP USER {name}")


def with_user(url: str, user: str, password: str | None = None) -> str:
    """Return the URL of the same database for another user."""
    return make_url(url)._replace(username=user, password=password).render_as_string(hide_password=False)


def explained(url: str) -> str:
    with pytest.raises(StorageError) as raised:
        storages.open(url)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert "sesame" not in message
    return message


@pytest.mark.parametrize("scheme", ["mysql", "mariadb", "mysql+pymysql", "mariadb+pymysql"])
def test_every_documented_scheme_opens_a_storage_that_keeps_a_trial(mariadb_url: str, scheme: str) -> None:
    storage = storages.open(make_url(mariadb_url).set(drivername=scheme).render_as_string(hide_password=False))
    study = studies.join(by_hand.spec(), storage)
    by_hand.finish(study, by_hand.must_claim(study), 0.5)
    assert study.optuna.best_value == 0.5
    storage.close()


def test_a_wrong_password_is_explained(mariadb_url: str, guest: str) -> None:
    message = explained(with_user(mariadb_url, guest, "wrong-sesame"))
    assert f"{guest}:***@" in message
    assert "the user or the password is wrong" in message


def test_an_unknown_user_is_explained(mariadb_url: str) -> None:
    assert "the user or the password is wrong" in explained(with_user(mariadb_url, "nobody_here"))


def test_a_user_who_may_not_create_tables_is_told_so(mariadb_url: str, guest: str) -> None:
    assert "may not write there" in explained(with_user(mariadb_url, guest, "sesame"))


def test_a_user_who_may_only_read_is_told_so(mariadb_url: str, guest: str) -> None:
    storages.open(mariadb_url).close()
    assert "may not write there" in explained(with_user(mariadb_url, guest, "sesame"))


def test_an_unknown_database_is_explained(mariadb_server: Server) -> None:
    assert "there is no such database" in explained(mariadb_server.get_uri("no_such_database"))


@pytest.mark.parametrize("scheme", ["mysql", "mariadb"])
def test_a_url_without_a_database_is_explained(mariadb_server: Server, scheme: str) -> None:
    url = make_url(mariadb_server.get_uri()).set(drivername=scheme).render_as_string()
    assert "names no database; write" in explained(url)
    with pytest.raises(StorageError, match="names no database; write"):
        storages.holds(url, "studies")


def test_a_port_on_which_nothing_listens_is_explained() -> None:
    assert "no server listens there" in explained("mysql://root@127.0.0.1:1/tuner")


@pytest.mark.parametrize("end", [Server.stop, Server.kill])
def test_a_worker_continues_after_a_restart_of_the_server(mariadb: Server, end: object) -> None:
    assert callable(end)
    storage = storages.open(mariadb.get_uri("tuner"))
    study = studies.join(by_hand.spec(), storage)
    claimed = by_hand.must_claim(study)
    trials.report(study, claimed, by_hand.epochs(claimed, [0.5]))
    end(mariadb)
    with pytest.raises(StorageError, match="no server listens there"):
        trials.report(study, claimed, by_hand.epochs(claimed, [0.6], first=2))
    mariadb.start()
    trials.report(study, claimed, by_hand.epochs(claimed, [0.6], first=2))
    by_hand.finish(study, claimed, 0.6)
    assert study.optuna.get_trials()[0].intermediate_values == {1: 0.5, 2: 0.6}
    assert study.optuna.best_value == 0.6
    storage.close()


def test_a_cut_connection_is_replaced(mariadb_server: Server, mariadb_url: str) -> None:
    storage = storages.open(mariadb_url)
    study = studies.join(by_hand.spec(), storage)
    with storage.engine.connect() as connection:
        thread = connection.connection.driver_connection.thread_id()  # type: ignore[union-attr]
        mariadb_server.execute(f"KILL {thread}")
    by_hand.finish(study, by_hand.must_claim(study), 0.5)
    storage.close()


def test_the_clock_of_the_database_counts_fractions_of_a_second(mariadb_url: str) -> None:
    storage = storages.open(mariadb_url)
    seen = storage.read(lambda connection: [tables.clock(connection) for _ in range(20)])
    assert seen == sorted(seen)
    assert any(moment % 1 for moment in seen)
    storage.close()


#: in 2026, summer time begins at the first moment and ends at the second, both at 01:00 UTC
SPRING, AUTUMN = 1774746000, 1792890000


@pytest.mark.parametrize("change", [SPRING, AUTUMN])
@pytest.mark.parametrize("hours", [-1.5, -0.5, 0.0, 0.5, 1.5])
def test_the_clock_of_the_database_takes_no_part_in_summer_time(mariadb_url: str, change: int, hours: float) -> None:
    storage = storages.open(mariadb_url)
    moment = change + 3600 * hours

    def read(connection: Connection) -> tuple[str, float]:
        connection.exec_driver_sql(f"SET timestamp = {moment}")
        try:
            zone = connection.exec_driver_sql("SELECT @@system_time_zone, @@time_zone").one()
            return str(zone[1]), tables.clock(connection)
        finally:
            connection.exec_driver_sql("SET timestamp = DEFAULT")

    assert storage.read(read) == ("SYSTEM", moment)
    storage.close()


def test_a_lease_lasts_through_the_end_of_summer_time(mariadb_url: str) -> None:
    storage = storages.open(mariadb_url)
    study = studies.join(by_hand.spec(), storage)

    def at(seconds: float) -> None:
        storage.write(lambda connection: connection.exec_driver_sql(f"SET timestamp = {AUTUMN + seconds}"))

    storage.engine.dispose()  # from here on there is one connection, whose clock is set
    at(-10)
    claimed = by_hand.must_claim(study)
    at(10)
    (lease,) = storage.read(lambda connection: leases.of_running_trials(connection, study.id))
    assert lease.is_live(AUTUMN + 10)
    by_hand.finish(study, claimed, 0.5)
    assert round(status.snapshot(study).busy_seconds) == 20
    at(0)
    storage.close()


def test_the_names_of_ten_thousand_classes_are_stored_in_full(mariadb_url: str) -> None:
    storage = storages.open(mariadb_url)
    study = studies.join(by_hand.spec(), storage)
    names = tuple(f"Schmetterling-{number:05d}-{'ä' * 20}" for number in range(10_000))
    prepared = by_hand.PREPARED.model_copy(update={"classes": names})
    data_check.admit(study, prepared)
    assert retraining.prepared(studies.load(study.name, storage)).classes == names
    assert optuna.load_study(study_name=study.name, storage=storage.rdb).user_attrs["prepared"]["classes"] == list(names)
    storage.close()


def test_a_value_that_is_longer_than_its_column_is_explained(mariadb_server: Server, mariadb_url: str) -> None:
    mariadb_server.execute(f"SET GLOBAL max_allowed_packet = {2**26}")  # for new connections; else the server closes the connection
    storage = storages.open(mariadb_url)
    study = studies.join(by_hand.spec(), storage)
    with pytest.raises(StorageError, match="a value is longer than its column; name fewer or shorter classes") as raised:
        storage.within(0.0).write(lambda connection: tables.put(connection, tables.STUDY_USER, study.id, {"long": "x" * 2**24}))
    assert len(str(raised.value)) < 300
    storage.close()
