"""How much is done to a study, short for every day and long under `make soak`, and what must hold afterwards."""

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from tests.acceptance.conftest import Place
from tests.faults.proxy import Proxy
from tuner.search import curves
from tuner.search import storage as storages
from tuner.search import study as studies


@dataclass(frozen=True, kw_only=True)
class Hardship:
    """The size of each fault."""

    #: for which a connection is cut, slow or silent
    network_seconds: float


SHORT = Hardship(network_seconds=3.0)
LONG = Hardship(network_seconds=20.0)


@pytest.fixture(scope="session")
def hardship() -> Hardship:
    return LONG if os.environ.get("SOAK") else SHORT


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.clear()


@pytest.fixture
def proxy(postgresql: Any) -> Iterator[Proxy]:
    """A proxy before the test's own PostgreSQL server."""
    (socket,) = (path for path in Path(_folder(str(postgresql.get_uri()))).glob(".s.PGSQL.*") if path.suffix != ".lock")
    made = Proxy(socket)
    yield made
    made.close()


def through(proxy: Proxy, **options: Any) -> str:
    """The URL of the server behind a proxy."""
    asked = "&".join(f"{name}={value}" for name, value in options.items())
    return f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?sslmode=disable&{asked}"


def _folder(url: str) -> str:
    return str(make_url(url).query["host"])


def assert_whole(url: str, num_trials: int) -> None:
    """Exactly the budget, each trial completed once, every epoch there once and none missing."""
    storage = storages.open(url)
    study = studies.load("study", storage)
    found = study.optuna.get_trials(deepcopy=False)
    assert [trial.state.name for trial in found] == ["COMPLETE"] * num_trials
    for trial in found:
        steps = [epoch.step for epoch in storage.read(functools.partial(curves.read, study=study, number=trial.number))]
        assert steps == sorted(trial.intermediate_values) == list(range(1, len(steps) + 1)), trial.number
    storage.close()
