"""A network that is slow, cut or swallows everything: no trial fails, no epoch is lost, training goes on and a line says what is wrong."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy.engine import make_url

from tests.acceptance.conftest import Command, Place
from tests.faults.conftest import EXTENT, assert_whole, diary, num_repeated, pass_seconds, script
from tests.faults.proxy import Proxy, Weather

EPOCH_SECONDS = 0.2
EPOCHS = int(EXTENT.cut_seconds / EPOCH_SECONDS) + 10


@pytest.fixture
def proxy(postgresql: Any) -> Iterator[Proxy]:
    folder = make_url(str(postgresql.get_uri())).query["host"]
    assert isinstance(folder, str)
    [target] = [Path(folder) / name for name in (".s.PGSQL.5432",) if (Path(folder) / name).exists()]
    with Proxy(target) as made:
        yield made


def begun(place: Place, postgresql: Any, proxy: Proxy) -> Command:
    """A worker that reaches its database over the proxy, in the middle of the fine-tuning of trial 0."""
    place.write(budget={"trials": 1})
    url = make_url(str(postgresql.get_uri()))
    over = url.set(host="127.0.0.1", port=proxy.port, query={})
    played = script(place, epoch_seconds=EPOCH_SECONDS, fine_tune_epochs=EPOCHS)
    worker = place.tuner("worker", "study.yaml", "--storage", over.render_as_string(hide_password=False), script=played)
    worker.until("trial 0 promoted")
    return worker


def ended(worker: Command, place: Place, postgresql: Any) -> None:
    """Wait for the end, and see that all is there once."""
    code, _ = worker.end()
    assert code == 0, worker.lines
    assert_whole(str(postgresql.get_uri()), num_trials=1, num_epochs=EPOCHS)
    assert num_repeated(place) == 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("weather", [Weather.CUT, Weather.BLACK_HOLE, Weather.SLOW])
def test_training_goes_on_over_a_bad_network(weather: Weather, place: Place, postgresql: Any, proxy: Proxy) -> None:
    worker = begun(place, postgresql, proxy)
    before = len(diary(place))
    proxy.weather = weather
    if weather is Weather.CUT:
        proxy.cut()
    pass_seconds(EXTENT.cut_seconds)
    assert psutil.pid_exists(worker.process.pid)
    trained = len(diary(place)) - before
    proxy.weather = Weather.FAIR
    ended(worker, place, postgresql)
    assert trained > EXTENT.cut_seconds / EPOCH_SECONDS / 2
    assert weather is not Weather.CUT or any("reports are kept in" in line for line in worker.lines), worker.lines
