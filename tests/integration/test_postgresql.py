"""What only a PostgreSQL server does: refuse a user, restart, close connections."""

import secrets
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.studies import by_hand
from tuner.errors import StorageError
from tuner.storage import engine as storages
from tuner.studies import study as studies
from tuner.studies import trials


def with_user(url: str, user: str, password: str = "") -> str:
    """Return the URL of the same database for another user."""
    rest = url.partition("@")[2]
    return f"postgresql://{user}{':' + password if password else ''}@{rest}"


@pytest.fixture
def guest(postgresql_server: Any, postgresql_url: str) -> Iterator[str]:
    """A user with read access only and the password `sesame`."""
    name = f"guest_{secrets.token_hex(3)}"
    hba = postgresql_server.pgdata / "pg_hba.conf"
    before = hba.read_text()
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'sesame'".encode())
        hba.write_text(f"local all {name} scram-sha-256\n{before}")
        connection.execute("SELECT pg_reload_conf()")
        yield name
        hba.write_text(before)
        connection.execute("SELECT pg_reload_conf()")
        connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}".encode())


def explained(url: str) -> str:
    with pytest.raises(StorageError) as raised:
        storages.open(url)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert "sesame" not in message
    return message


def test_a_wrong_password_is_explained(postgresql_url: str, guest: str) -> None:
    message = explained(with_user(postgresql_url, guest, "wrong-sesame"))
    assert f"{guest}:***@" in message
    assert "the user or the password is wrong" in message


def test_a_missing_password_is_explained(postgresql_url: str, guest: str) -> None:
    assert "the database asks for a password" in explained(with_user(postgresql_url, guest))


def test_a_user_who_may_not_create_tables_is_told_so(postgresql_url: str, guest: str) -> None:
    assert "may not write there" in explained(with_user(postgresql_url, guest, "sesame"))


def test_a_user_who_may_only_read_is_told_so(postgresql_url: str, guest: str) -> None:
    storages.open(postgresql_url).close()
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {guest}".encode())
    assert "may not write there" in explained(with_user(postgresql_url, guest, "sesame"))


def test_an_unknown_user_is_explained(postgresql_url: str) -> None:
    assert "does not know this user" in explained(with_user(postgresql_url, "nobody_here"))


def test_an_unknown_database_is_explained(postgresql_server: Any) -> None:
    assert "create it (createdb)" in explained(str(postgresql_server.get_uri(database="no_such_database")))


def test_a_folder_without_a_server_is_explained(tmp_path: Any) -> None:
    assert "no server listens there" in explained(f"postgresql://me@/db?host={tmp_path}")


def test_a_worker_continues_after_a_restart_of_the_server(postgresql: Any) -> None:
    storage = storages.open(str(postgresql.get_uri()))
    study = studies.join(by_hand.spec(), storage)
    claimed = by_hand.must_claim(study)
    trials.report(study, claimed, by_hand.epochs(claimed, [0.5]))
    postgresql.stop()
    with pytest.raises(StorageError, match="no server listens there"):
        trials.report(study, claimed, by_hand.epochs(claimed, [0.6], first=2))
    postgresql.start()
    trials.report(study, claimed, by_hand.epochs(claimed, [0.6], first=2))
    by_hand.finish(study, claimed, 0.6)
    assert study.optuna.best_value == 0.6
    storage.close()


def test_connections_closed_by_the_server_are_replaced_silently(postgresql_url: str) -> None:
    storage = storages.open(postgresql_url)
    study = studies.join(by_hand.spec(), storage)
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    by_hand.finish(study, by_hand.must_claim(study), 0.5)
    storage.close()


def test_a_connection_whose_packets_are_dropped_is_closed_within_half_a_minute(postgresql_url: str) -> None:
    storage = storages.open(postgresql_url)
    with storage.engine.connect() as connection:
        given = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
    assert given["tcp_user_timeout"] == "30000"
    assert int(given["keepalives_idle"]) + int(given["keepalives_interval"]) * int(given["keepalives_count"]) <= 30
    storage.close()


def test_options_of_the_url_take_precedence(postgresql_url: str) -> None:
    storage = storages.open(f"{postgresql_url}{'&' if '?' in postgresql_url else '?'}application_name=mine&tcp_user_timeout=5000")
    with storage.engine.connect() as connection:
        given = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
    assert (given["application_name"], given["tcp_user_timeout"]) == ("mine", "5000")
    storage.close()


def test_a_storage_keeps_two_connections_after_a_peak(postgresql_url: str) -> None:
    storage = storages.open(postgresql_url)
    held = [storage.engine.connect() for _ in range(6)]
    for connection in held:
        connection.close()
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'tuner'"
    deadline = time.monotonic() + 20
    with psycopg.connect(postgresql_url, autocommit=True) as other:
        # the server needs a moment to notice that a client has left
        while (left := other.execute(query).fetchone()) != (2,) and time.monotonic() < deadline:
            other.execute("SELECT pg_sleep(0.02)")
    assert left == (2,)
    storage.close()
