"""A pool whose workers and database are killed, with priorities and preemptions: exactly each budget, and nothing twice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import pool as benchmark
from benchmarks.pool import Played, Scenario
from tests.faults.conftest import SOAKS
from tuner.queue.entries import QueueState

SCENARIO = (
    Scenario(num_studies=12, num_trials=15, num_workers=8, kills=20, crashes=2, played=Played(epoch_seconds=0.3, fine_tune_epochs=3))
    if SOAKS
    else Scenario(num_studies=5, num_trials=5, num_workers=3, kills=4, crashes=1, played=Played(epoch_seconds=0.15, fine_tune_epochs=3))
)


@pytest.mark.timeout(900)
def test_killed_workers_and_a_crashed_database_cost_the_pool_no_trial(
    postgresql: Any, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    counted = benchmark.faults(postgresql, tmp_path, SCENARIO)
    names = [f"s{number}" for number in range(SCENARIO.num_studies)]
    assert dict(counted.states) == {name: {"COMPLETE": SCENARIO.num_trials} for name in names}
    assert dict(counted.queue) == dict.fromkeys(names, QueueState.DONE)
    assert (counted.num_not_once, counted.num_broken_curves) == (0, 0)
    record_property("trials suspended", counted.num_suspended)
    record_property("trials that lost a worker", counted.num_lost)
