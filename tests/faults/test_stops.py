"""SIGTERM to all workers, then `run` again: it goes on from the checkpoints, and the curves have no gap and no epoch twice."""

import signal

from tests.acceptance.conftest import Place
from tests.faults.conftest import assert_whole, num_repeated, script

EPOCHS = 30


def test_a_run_that_was_terminated_goes_on_where_it_was(place: Place, postgresql_url: str) -> None:
    place.write(budget={"trials": 3})
    arguments = ("run", "study.yaml", "--workers", "2", "--storage", postgresql_url, "--no-export")
    for _ in range(2):
        stopped = place.tuner(*arguments, script=script(place, fine_tune_epochs=EPOCHS))
        stopped.until("trial", "promoted") if not _ else stopped.until("resumed")
        stopped.signal(signal.SIGTERM)
        assert stopped.end()[0] in (0, 130), stopped.lines
    last = place.tuner(*arguments, script=script(place, fine_tune_epochs=EPOCHS, epoch_seconds=0.02))
    assert last.end()[0] == 0, last.lines
    assert any("trial 0 resumed" in line for line in last.lines), last.lines
    assert_whole(postgresql_url, num_trials=3, num_epochs=EPOCHS)
    assert num_repeated(place) == 0
