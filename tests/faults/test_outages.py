"""A database that crashes, stays away and comes back, again and again: no trial fails, no epoch is lost, and training does not pause."""

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from tests.acceptance.conftest import Place
from tests.faults.conftest import EXTENT, assert_whole, crash, epoch_log, num_repeated, pass_seconds, script

EPOCH_SECONDS = 0.1
#: an epoch that takes longer than this has waited for something
PAUSE_SECONDS = 2.0


@pytest.mark.timeout(900)
def test_training_goes_on_while_the_database_is_away(place: Place, postgresql: Any, record_property: Callable[[str, object], None]) -> None:
    epochs = int(EXTENT.restarts * (EXTENT.outage_seconds + 2) / EPOCH_SECONDS) + 10
    place.write(budget={"trials": 2})
    played = script(place, epoch_seconds=EPOCH_SECONDS, fine_tune_epochs=epochs)
    run = place.tuner("run", "study.yaml", "--workers", "2", "--storage", str(postgresql.get_uri()), "--no-export", script=played)
    run.until("trial 0 promoted")
    outages = []
    for _ in range(EXTENT.restarts):
        pass_seconds(1.0)
        began = time.time()
        crash(postgresql)
        pass_seconds(EXTENT.outage_seconds)
        postgresql.start()
        outages.append((began, time.time()))
    code, _ = run.end()
    assert code == 0, run.lines
    assert any("reports are kept in" in line for line in run.lines), run.lines
    assert_whole(str(postgresql.get_uri()), num_trials=2, num_epochs=epochs)
    assert num_repeated(place) == 0
    pause = max(later - earlier for trial in (0, 1) for earlier, later in pairwise(times(place, trial)))
    assert pause < PAUSE_SECONDS
    for began, ended in outages:
        assert sum(began < when < ended for _, _, when in epoch_log(place)) > EXTENT.outage_seconds
    record_property("outages", EXTENT.restarts)
    record_property("seconds each", EXTENT.outage_seconds)
    record_property("epochs trained", len(epoch_log(place)))
    record_property("of them repeated", num_repeated(place))
    record_property("seconds between two epochs of a trial at most", round(pause, 2))


def times(place: Place, trial: int) -> list[float]:
    """When each epoch of a trial ended."""
    return [when for number, _, when in epoch_log(place) if number == trial]
