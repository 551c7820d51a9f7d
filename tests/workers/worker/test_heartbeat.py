"""Leases that are renewed in the background."""

import threading

from tuner.errors import StorageError
from tuner.workers.worker.heartbeat import Heartbeat


def test_a_heart_beats_until_the_work_is_done() -> None:
    beats = threading.Semaphore(0)
    with Heartbeat(beats.release, lambda message: None, every_seconds=0.01):
        assert all(beats.acquire(timeout=10) for _ in range(3))


def test_a_heart_survives_a_storage_that_is_away_and_says_so_once() -> None:
    beats = threading.Semaphore(0)
    told: list[str] = []
    # the last is no error that tuner raises on purpose
    outcomes = iter([StorageError("away"), StorageError("away"), None, RuntimeError("away again")])

    def beat() -> None:
        outcome = next(outcomes, None)
        beats.release()
        if outcome is not None:
            raise outcome

    with Heartbeat(beat, told.append, every_seconds=0.01):
        assert all(beats.acquire(timeout=10) for _ in range(6))
    assert told == ["the leases cannot be renewed: away", "the leases cannot be renewed: away again"]
