"""A connection that is cut, slow or silent: training does not pause, nothing is lost, a line says so."""

import threading
import time
from typing import Any

import pytest

from tests.acceptance.conftest import Place
from tests.faults.conftest import Hardship, assert_whole, through
from tests.faults.proxy import Proxy
from tests.search import by_hand
from tuner.errors import StorageError
from tuner.search import storage as storages
from tuner.search import study as studies
from tuner.search import trials

#: a connection that says nothing is given up after two seconds here, after thirty by default
IMPATIENT = {"tcp_user_timeout": 2000, "connect_timeout": 2}


def test_a_server_that_takes_all_and_says_nothing_is_given_up_in_bounded_time(proxy: Proxy) -> None:
    storage = storages.open(through(proxy, **IMPATIENT))
    study = studies.join(by_hand.spec(), storage)
    claimed = by_hand.must_claim(study)
    proxy.is_silent = True
    began = time.monotonic()
    with pytest.raises(StorageError, match="does not answer"):
        trials.report(study, claimed, by_hand.epochs(claimed, [0.5]))
    assert time.monotonic() - began < 20
    proxy.is_silent = False
    proxy.cut()
    trials.report(study, claimed, by_hand.epochs(claimed, [0.5]))
    storage.close()


def test_a_worker_that_falls_silent_in_a_transaction_does_not_lock_out_the_others(proxy: Proxy, postgresql: Any) -> None:
    storage = storages.open(through(proxy, **IMPATIENT))
    study = studies.join(by_hand.spec(), storage)
    other = studies.load(study.name, storages.open(str(postgresql.get_uri())))
    connection = storage.engine.connect()
    connection.exec_driver_sql("SELECT * FROM studies FOR UPDATE")
    proxy.is_silent = True
    began = time.monotonic()
    assert by_hand.must_claim(other).number == 0
    assert 0.5 < time.monotonic() - began < 20
    connection.invalidate()
    connection.close()
    other.storage.close()
    storage.close()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("fault", ["cut", "slow", "silent"])
def test_training_goes_on_over_a_connection_that_is(fault: str, place: Place, proxy: Proxy, hardship: Hardship) -> None:
    place.write(budget={"trials": 2})
    # a slow connection is to be borne, not to be given up
    url = through(proxy, **({} if fault == "slow" else IMPATIENT))
    script = {"epoch_seconds": 0.2, "fine_tune_epochs": 16, "keeps_epochs": True}
    worker = place.tuner("worker", "study.yaml", "--storage", url, script=script)
    worker.until("trial 0 promoted")
    proxy.latency_seconds = 0.5 if fault == "slow" else 0.0
    proxy.is_silent, proxy.is_cut = fault == "silent", fault == "cut"
    if fault == "cut":
        proxy.cut()
    mend = threading.Timer(hardship.network_seconds, lambda: _mend(proxy))
    mend.start()
    worker.until("the storage is slow" if fault == "slow" else "until the storage is back")
    code, _ = worker.end()
    mend.join()
    assert code == 0, worker.lines
    told = " ".join(worker.lines)
    # "failed" alone may be the driver's word for a connection
    assert not [what for what in ("failed", "replaced", "lost") for number in (0, 1) if f"trial {number} {what}" in told], worker.lines
    assert_whole(url, 2)


def _mend(proxy: Proxy) -> None:
    was_silent = proxy.is_silent
    proxy.latency_seconds, proxy.is_silent, proxy.is_cut = 0.0, False, False
    if was_silent:
        proxy.cut()
