"""A disk that fills up under workers: a line says so, nothing half-written is left, and it goes on when there is room."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.acceptance.conftest import Place
from tests.faults import disks
from tests.faults.conftest import PROBE_EPOCHS, REAL, SOAKS, assert_whole, epoch_log, num_repeated, script
from tests.waiting import crash, until

EPOCHS = 80
DISK_BYTES = 16 * 2**20


@pytest.fixture
def disk(place: Place) -> Iterator[Path]:
    """A small disk of its own for the artifacts."""
    try:
        with disks.small(place.folder / "disk", DISK_BYTES) as folder:
            yield folder
    except PermissionError as error:
        pytest.skip(str(error))


def spooled(disk: Path) -> list[str]:
    """What waits for the storage on the disk, line by line."""
    return [line for path in (disk / "study" / "spool").glob("*") for line in path.read_text().splitlines(keepends=True)]


def whole(disk: Path) -> list[str]:
    """The same without a line that is being written."""
    return [line for line in spooled(disk) if line.endswith("\n")]


def test_a_full_disk_during_a_database_outage_costs_nothing(place: Place, disk: Path, postgresql: Any) -> None:
    place.write(budget={"trials": 1})
    running, full, empty, again = (place.wait_point(f"trial 0 epoch {epoch}") for epoch in (4, 20, 40, 60))
    played = script(place, running, full, empty, again, fine_tune_epochs=EPOCHS, keeps_epochs=False, epoch_seconds=0.02)
    worker = place.tuner("worker", "study.yaml", "--storage", str(postgresql.get_uri()), "--artifacts", str(disk), script=played)
    running.until_reached()
    crash(postgresql)
    running.go_on()
    worker.until("reports are stored in")
    full.until_reached()
    filler = disks.fill(disk)
    full.go_on()
    worker.until("trial 0", "the reports for the storage cannot be written to disk", "they stay in memory")
    without_room = whole(disk)
    empty.until_reached()
    assert len(epoch_log(place)) >= 40 - PROBE_EPOCHS
    assert whole(disk) == without_room
    filler.unlink()
    empty.go_on()
    until(lambda: len(whole(disk)) >= len(without_room) + 3)
    again.until_reached()
    lines = spooled(disk)
    assert all(line.endswith("\n") and json.loads(line) for line in lines[:-1]), lines
    postgresql.start()
    again.go_on()
    assert worker.end()[0] == 0, worker.lines
    assert sum("cannot be written to disk" in line for line in worker.lines) == 1, worker.lines
    assert not any("Traceback" in line for line in worker.lines), worker.lines
    assert_whole(str(postgresql.get_uri()), num_trials=1, num_epochs=EPOCHS)
    assert num_repeated(place) == 0
    assert spooled(disk) == []


@pytest.mark.skipif(not SOAKS, reason="make soak")
@pytest.mark.timeout(600)
def test_a_real_trainer_continues_without_space_for_cache_and_checkpoint(place: Place, disk: Path) -> None:
    place.write(**REAL | {"budget": {"trials": 1}})
    with disks.small(place.folder / "cache", 2**20) as cache:
        disks.fill(cache)
        filler = disks.fill(disk, leave=2**16)
        full, empty = place.wait_point("trial 0 epoch 4"), place.wait_point("trial 0 epoch 6")
        options = ("--threads", "1", "--no-export", "--artifacts", str(disk))
        run = place.real_tuner("run", "study.yaml", *options, waits_at=[full, empty])
        run.until("cannot write the checkpoint (", f"to {disk}, which has", "training continues, and the next epoch tries again")
        full.until_reached()
        assert files(disk, "checkpoint") == []
        filler.unlink()
        full.go_on()
        empty.until_reached()
        assert files(disk, "checkpoint")
        empty.go_on()
        code, _ = run.end()
        assert code == 0, run.lines
        assert not [path for path in cache.rglob("*") if path.is_file() and path.name != "filler" and path.stat().st_size > 0]
    assert place.states() == ["COMPLETE"]
    assert not any("Traceback" in line for line in run.lines), run.lines
    assert any("has no room for" in path.read_text() for path in disk.rglob("*.trainer.log"))
    assert files(disk, "checkpoint") == []
    [weights] = files(disk, "weights")
    np.load(weights)


def files(disk: Path, name: str) -> list[Path]:
    """The files of trials, finished or half-written."""
    return [path for path in disk.rglob("*") if name in path.name and path.is_file()]
