"""Many workers that begin at once on an empty database: one study, exactly its budget, and no error shown."""

import pytest

from tests.acceptance.conftest import Place
from tests.faults.conftest import SOAKS, assert_whole, num_repeated, script

WORKERS = 16 if SOAKS else 4


@pytest.mark.timeout(600)
@pytest.mark.parametrize("storage_url", ["sqlite", "postgresql"], indirect=True)  # MariaDB: tests/integration/test_many_workers.py
def test_many_workers_may_begin_a_study_at_once(place: Place, storage_url: str) -> None:
    place.write(budget={"trials": 20})
    played = script(place, fine_tune_epochs=2, epoch_seconds=0.01)
    workers = [place.tuner("worker", "study.yaml", "--storage", storage_url, script=played) for _ in range(WORKERS)]
    for worker in workers:
        assert worker.end()[0] == 0, worker.lines
        assert not any("error" in line.lower() or "failed" in line for line in worker.lines), worker.lines
    assert_whole(storage_url, num_trials=20, num_epochs=2)
    assert num_repeated(place) == 0
