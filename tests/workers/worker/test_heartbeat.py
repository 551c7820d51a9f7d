"""The heartbeat of a worker."""

import threading

from tuner.errors import StorageError
from tuner.workers.worker.heartbeat import Heartbeat


def test_the_heartbeat_runs_while_the_block_runs() -> None:
    beats = threading.Semaphore(0)
    with Heartbeat(beats.release, lambda message: None, every_seconds=0.01):
        assert all(beats.acquire(timeout=120) for _ in range(3))


def test_the_heartbeat_survives_an_outage_and_warns_once() -> None:
    beats = threading.Semaphore(0)
    told: list[str] = []
    # the last error is not one of tuner's own
    outcomes = iter([StorageError("away"), StorageError("away"), None, RuntimeError("away again")])

    def beat() -> None:
        outcome = next(outcomes, None)
        beats.release()
        if outcome is not None:
            raise outcome

    with Heartbeat(beat, told.append, every_seconds=0.01):
        assert all(beats.acquire(timeout=120) for _ in range(6))
    assert told == ["the leases cannot be renewed: away", "the leases cannot be renewed: away again"]
