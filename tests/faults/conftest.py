"""Faults at real `tuner` processes on a real PostgreSQL. `make soak` plays their long form: it sets the environment variable SOAK."""

import functools
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from tests.acceptance.conftest import Place
from tests.faults.proxy import Proxy
from tests.waiting import WaitPoint
from tuner.storage import engine as storages
from tuner.storage import epochs, tables
from tuner.studies import leases
from tuner.studies import study as studies

#: what a rehearsed trainer plays before the fine-tuning
PROBE_EPOCHS = 2
#: a small study that is really trained
REAL = {
    "data": {"source": "digits", "train": 100, "validation": 60, "test": 0},
    "model": {"backbone": "squeezenet1_1", "weights": "none", "image_size": 32},
    "training": {"probe_epochs": 1, "epochs": 12, "promote": 1.0},
}
#: a connection that says nothing is given up after two seconds here, after thirty by default
IMPATIENT = {"tcp_user_timeout": "2000", "connect_timeout": "2"}
#: whether the long form is wanted
SOAKS = bool(os.environ.get("SOAK"))


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much of a fault is played."""

    workers: int
    kills: int
    killed_trials: int
    killed_epoch_seconds: float
    outage_seconds: float
    restarts: int
    cut_seconds: float


EXTENT = (
    Extent(workers=16, kills=20, killed_trials=40, killed_epoch_seconds=4.0, outage_seconds=60.0, restarts=5, cut_seconds=45.0)
    if SOAKS
    else Extent(workers=3, kills=5, killed_trials=10, killed_epoch_seconds=0.1, outage_seconds=4.0, restarts=2, cut_seconds=4.0)
)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was counted, where tests counted something."""
    for report in terminalreporter.getreports("passed"):
        if report.when == "call" and report.user_properties and "tests/faults" in report.nodeid:
            found = ", ".join(f"{value} {name}" for name, value in report.user_properties)
            terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {found}")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.clear()


@pytest.fixture
def proxy(postgresql_server: Any) -> Iterator[Proxy]:
    folder = make_url(str(postgresql_server.get_uri())).query["host"]
    assert isinstance(folder, str)
    [target] = [Path(folder) / name for name in (".s.PGSQL.5432",) if (Path(folder) / name).exists()]
    with Proxy(target) as made:
        yield made


def over(proxy: Proxy, postgresql_url: str, options: dict[str, str]) -> str:
    """The URL of the database behind the proxy."""
    url = make_url(postgresql_url).set(host="127.0.0.1", port=proxy.port, query=options)
    return url.render_as_string(hide_password=False)


def script(place: Place, *points: WaitPoint, **more: Any) -> dict[str, Any]:
    """Trainers that train on whatever their worker waits for, keep each epoch, note it in an epoch log, and wait at the points."""
    waits = {point: file for each in points for point, file in each.at.items()}
    noted = str(place.folder / "epoch_log")
    played = {"beside": True, "epoch_seconds": 0.1, "fine_tune_epochs": 6, "keeps_epochs": True, "epoch_log": noted, "wait_at": waits}
    return played | more


def epoch_log(place: Place) -> list[tuple[int, int, float]]:
    """Trial, step and time of each epoch of fine-tuning that was trained, as often as it was."""
    file = place.folder / "epoch_log"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(int(trial), int(step), float(when)) for trial, step, when in map(str.split, lines)]


def num_repeated(place: Place) -> int:
    """Epochs of fine-tuning that were trained more than once, each as often as it was too much."""
    return sum(count - 1 for count in Counter((trial, step) for trial, step, _ in epoch_log(place)).values())


def assert_whole(url: str, *, num_trials: int, num_epochs: int, num_probe_epochs: int = PROBE_EPOCHS) -> None:
    """Exactly the budget, each trial completed by one attempt, every epoch of every curve there once."""
    storage = storages.open(url)
    study = studies.load("study", storage)
    found = study.optuna.get_trials(deepcopy=False)
    assert [trial.state.name for trial in found] == ["COMPLETE"] * num_trials
    for trial in found:
        steps = [epoch.step for epoch in storage.read(functools.partial(epochs.read, study_id=study.id, number=trial.number))]
        assert steps == sorted(trial.intermediate_values) == list(range(1, num_probe_epochs + num_epochs + 1))
    with storage.engine.connect() as connection:
        endings = Counter(
            row.trial_number for row in connection.execute(tables.LEASES.select()) if leases.LeaseEnding(row.ending).is_result
        )
    assert endings == Counter(range(num_trials))
    storage.close()
