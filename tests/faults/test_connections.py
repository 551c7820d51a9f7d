"""A network that is slow, cut or swallows everything: no trial fails, no epoch is lost, training goes on and a line says what is wrong."""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
import psycopg
import pytest
from sqlalchemy.engine import make_url

from tests.acceptance.conftest import Command, Place
from tests.faults.conftest import EXTENT, IMPATIENT, PROBE_EPOCHS, assert_whole, num_repeated, over, script
from tests.faults.proxy import Proxy, Weather
from tests.studies import by_hand
from tests.waiting import Ticker, WaitPoint, pass_seconds
from tuner.errors import StorageError
from tuner.storage import engine as storages
from tuner.studies import study as studies
from tuner.studies import trials

EPOCH_SECONDS = 0.2
#: epochs that are trained while the network is bad
BAD_EPOCHS = int(EXTENT.cut_seconds / EPOCH_SECONDS)
FIRST_BAD, FIRST_GOOD = PROBE_EPOCHS + 2, PROBE_EPOCHS + 2 + BAD_EPOCHS
EPOCHS = BAD_EPOCHS + 10


def begun(place: Place, url: str, *points: WaitPoint) -> Command:
    """A worker that waits at the first of the points in the fine-tuning of trial 0."""
    place.write(budget={"trials": 1})
    played = script(place, *points, epoch_seconds=EPOCH_SECONDS, fine_tune_epochs=EPOCHS)
    worker = place.tuner("worker", "study.yaml", "--storage", url, script=played)
    worker.until("trial 0 promoted")
    points[0].until_reached()
    return worker


def ended(worker: Command, place: Place, postgresql_url: str) -> None:
    """Wait for the end, and see that all is there once."""
    code, _ = worker.end()
    assert code == 0, worker.lines
    assert_whole(postgresql_url, num_trials=1, num_epochs=EPOCHS)
    assert num_repeated(place) == 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("weather", [Weather.CUT, Weather.BLACK_HOLE, Weather.SLOW])
def test_training_continues_over_a_bad_network(
    weather: Weather, place: Place, postgresql_url: str, proxy: Proxy, record_property: Callable[[str, object], None]
) -> None:
    # a slow connection is to be borne, one that says nothing is to be given up
    first_bad, first_good = (place.wait_point(f"trial 0 epoch {epoch}") for epoch in (FIRST_BAD, FIRST_GOOD))
    worker = begun(place, over(proxy, postgresql_url, {} if weather is Weather.SLOW else IMPATIENT), first_bad, first_good)
    proxy.weather = weather
    if weather is Weather.CUT:
        proxy.cut()
    with Ticker() as ticker:
        began = time.monotonic()
        first_bad.go_on()
        first_good.until_reached()
        trained_seconds = time.monotonic() - began
    pass_seconds(EXTENT.cut_seconds - trained_seconds if trained_seconds < EXTENT.cut_seconds else 0.0)
    worker.until("the storage is slow" if weather is Weather.SLOW else "reports are stored in")
    assert psutil.pid_exists(worker.process.pid)
    proxy.weather = Weather.FAIR
    first_good.go_on()
    ended(worker, place, postgresql_url)
    assert trained_seconds < 2 * ticker.stretch * BAD_EPOCHS * EPOCH_SECONDS
    record_property("seconds", EXTENT.cut_seconds)
    record_property("epochs trained meanwhile", BAD_EPOCHS)
    record_property("repeated", num_repeated(place))


def test_a_server_that_takes_all_and_says_nothing_is_given_up_in_bounded_time(proxy: Proxy, postgresql_url: str) -> None:
    storage = storages.open(over(proxy, postgresql_url, IMPATIENT))
    study = studies.join(by_hand.spec(), storage)
    claimed = by_hand.must_claim(study)
    proxy.weather = Weather.BLACK_HOLE
    began = time.monotonic()
    with pytest.raises(StorageError, match="does not answer"):
        trials.report(study, claimed, by_hand.epochs(claimed, [0.5]))
    assert time.monotonic() - began < 20
    proxy.weather = Weather.FAIR
    proxy.cut()
    trials.report(study, claimed, by_hand.epochs(claimed, [0.5]))
    storage.close()


def test_a_worker_that_falls_silent_in_a_transaction_does_not_lock_out_the_others(proxy: Proxy, postgresql_url: str) -> None:
    storage = storages.open(over(proxy, postgresql_url, IMPATIENT))
    study = studies.join(by_hand.spec(), storage)
    other = studies.load(study.name, storages.open(postgresql_url))
    connection = storage.engine.connect()
    silent = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    connection.exec_driver_sql("SELECT * FROM studies FOR UPDATE")
    proxy.weather = Weather.BLACK_HOLE
    began = time.monotonic()
    assert by_hand.must_claim(other).number == 0
    assert time.monotonic() - began < 20
    # the other one had to wait until the server had ended the silent connection
    connected = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {silent}"
    assert other.storage.read(lambda reading: reading.exec_driver_sql(connected).scalar_one()) == 0
    connection.invalidate()
    connection.close()
    other.storage.close()
    storage.close()


#: what libpq and the server offer against a connection that hangs, each set to one or two seconds
SETTINGS = {
    "statement_timeout": {"options": "-cstatement_timeout=2000"},
    "tcp_user_timeout": {"tcp_user_timeout": "2000"},
    "keepalives": {"keepalives_idle": "1", "keepalives_interval": "1", "keepalives_count": "2"},
}


@pytest.mark.parametrize("name", [*SETTINGS, "all of them"])
def test_no_setting_gives_up_a_server_that_acknowledges_and_never_answers(name: str, proxy: Proxy, postgresql_url: str) -> None:
    settings = SETTINGS.get(name) or {key: value for each in SETTINGS.values() for key, value in each.items()}
    assert not ends(psycopg.Connection.connect(libpq_url(proxy, postgresql_url, settings)), proxy)


def test_a_bounded_connection_gives_it_up(proxy: Proxy, postgresql_url: str) -> None:
    connection = storages.BoundedConnection.connect(libpq_url(proxy, postgresql_url, {}))
    connection.answer_seconds = 2.0
    assert ends(connection, proxy)


def libpq_url(proxy: Proxy, postgresql_url: str, settings: dict[str, str]) -> str:
    url = make_url(over(proxy, postgresql_url, settings)).set(drivername="postgresql")
    return url.render_as_string(hide_password=False)


def ends(connection: psycopg.Connection[Any], proxy: Proxy) -> bool:
    """Whether a statement ends within four times the settings once the proxy acknowledges everything and passes nothing on."""
    connection.execute("SELECT 1")
    connection.commit()
    proxy.weather = Weather.BLACK_HOLE
    ended = threading.Event()

    def ask() -> None:
        with contextlib.suppress(psycopg.Error):
            connection.execute("SELECT 1")
        ended.set()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    is_ended = ended.wait(8.0)
    proxy.cut()
    asking.join(10.0)
    connection.close()
    return is_ended
