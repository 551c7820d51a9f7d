"""SIGTERM to all workers, then `run` again: it goes on from the checkpoints, and the curves have no gap and no epoch twice."""

import signal
import time
from collections.abc import Callable

from tests.acceptance.conftest import Command, Place
from tests.faults.conftest import assert_whole, num_repeated, script
from tests.waiting import Ticker

EPOCHS = 30
#: within which a worker has kept a checkpoint and handed its trial back
PREEMPTION_SECONDS = 10.0


def stop_the_run(run: Command) -> None:
    run.signal(signal.SIGTERM)


def stop_each_worker(run: Command) -> None:
    """A run that nobody asked to end is not done without its workers."""
    workers = run.family()
    assert len(workers) == 2
    for worker in workers:
        worker.terminate()


def test_a_terminated_run_resumes(place: Place, postgresql_url: str) -> None:
    place.write(budget={"trials": 3})
    arguments = ("run", "study.yaml", "--workers", "2", "--storage", postgresql_url, "--no-export")
    stops: list[tuple[str, int, Callable[[Command], None], tuple[int, ...]]]
    stops = [("promoted", 10, stop_the_run, (0, 130)), ("resumed", 20, stop_each_worker, (1,))]
    for word, epoch, stop, codes in stops:
        points = [place.wait_point(f"trial {number} epoch {epoch}") for number in (0, 1)]
        stopped = place.tuner(*arguments, script=script(place, *points, fine_tune_epochs=EPOCHS))
        stopped.until("trial", word)
        for point in points:
            point.until_reached()
        with Ticker() as ticker:
            began = time.monotonic()
            stop(stopped)
            stopped.until("suspended")
            stopped.until("suspended")
            taken_seconds = time.monotonic() - began
        assert stopped.end()[0] in codes, stopped.lines
        assert taken_seconds < PREEMPTION_SECONDS * ticker.stretch + ticker.delay_seconds
    last = place.tuner(*arguments, script=script(place, fine_tune_epochs=EPOCHS, epoch_seconds=0.02))
    assert last.end()[0] == 0, last.lines
    assert any("trial 0 resumed" in line for line in last.lines), last.lines
    assert_whole(postgresql_url, num_trials=3, num_epochs=EPOCHS)
    assert num_repeated(place) == 0
