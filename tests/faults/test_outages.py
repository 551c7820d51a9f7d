"""A database that crashes, stays away and comes back, again and again: no trial fails, no epoch is lost, and training does not pause."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.conftest import Place
from tests.faults.conftest import EXTENT, PROBE_EPOCHS, assert_whole, epoch_log, num_repeated, script
from tests.waiting import Ticker, crash, pass_seconds, until

EPOCH_SECONDS = 0.1
#: an epoch that takes longer than this has waited for something
PAUSE_SECONDS = 2.0
#: epochs that each trial trains in an outage
EPOCHS = int(EXTENT.outage_seconds / EPOCH_SECONDS)
#: the epochs after which trials wait for an outage to begin, and the one after which they wait for the last to end
WAITING_EPOCHS = [PROBE_EPOCHS + 2 + number * EPOCHS for number in range(EXTENT.restarts + 1)]


@pytest.mark.timeout(900)
def test_training_continues_during_a_database_outage(place: Place, postgresql: Any, record_property: Callable[[str, object], None]) -> None:
    num_epochs = WAITING_EPOCHS[-1] - PROBE_EPOCHS + 1
    place.write(budget={"trials": 2})
    points = [place.wait_point(f"epoch {epoch}") for epoch in WAITING_EPOCHS]
    played = script(place, *points, epoch_seconds=EPOCH_SECONDS, fine_tune_epochs=num_epochs)
    with Ticker() as ticker:
        run = place.tuner("run", "study.yaml", "--workers", "2", "--storage", str(postgresql.get_uri()), "--no-export", script=played)
        for point, before, after in zip(points, WAITING_EPOCHS, WAITING_EPOCHS[1:], strict=False):
            until(lambda: is_trained(place, before))  # noqa: B023
            pass_seconds(1.0)
            crash(postgresql)
            point.go_on()
            pass_seconds(EXTENT.outage_seconds)
            until(lambda: is_trained(place, after))  # noqa: B023
            postgresql.start()
        points[-1].go_on()
        code, _ = run.end()
    assert code == 0, run.lines
    assert any("reports are stored in" in line for line in run.lines), run.lines
    assert_whole(str(postgresql.get_uri()), num_trials=2, num_epochs=num_epochs)
    assert num_repeated(place) == 0
    pause = max(pauses(place))
    assert pause < PAUSE_SECONDS + ticker.delay_seconds
    record_property("outages", EXTENT.restarts)
    record_property("seconds each", EXTENT.outage_seconds)
    record_property("epochs trained", len(epoch_log(place)))
    record_property("of them repeated", num_repeated(place))
    record_property("seconds between two epochs of a trial at most", round(pause, 2))


def is_trained(place: Place, epoch: int) -> bool:
    """Whether both trials have trained an epoch."""
    noted = {(trial, step) for trial, step, _ in epoch_log(place)}
    return {(0, epoch), (1, epoch)} <= noted


def pauses(place: Place) -> list[float]:
    """Seconds between two epochs of a trial, after the first of which it did not wait for the test."""
    when = {(trial, step): seconds for trial, step, seconds in epoch_log(place)}
    return [
        seconds - when[trial, step - 1]
        for (trial, step), seconds in when.items()
        if (trial, step - 1) in when and step - 1 not in WAITING_EPOCHS
    ]
