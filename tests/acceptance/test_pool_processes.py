"""`tuner worker --pool` as processes; their trainers are rehearsed."""

import signal
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.acceptance.conftest import Command, Place
from tests.waiting import WaitPoint, until
from tuner.queue import entries, pool
from tuner.queue.entries import QueueState
from tuner.storage import engine as storages
from tuner.storage.engine import Storage


def queued(place: Place, *names: str, options: tuple[str, ...] = ()) -> Storage:
    """Submit studies of two trials each."""
    for name in names:
        place.write(name=name, budget={"trials": 2})
        submitted = place.tuner("submit", "study.yaml", *options)
        assert submitted.end()[0] == 0, submitted.lines
    return storages.open(f"sqlite:///{place.folder / 'tuner.db'}")


def worker(place: Place, *points: WaitPoint, options: tuple[str, ...] = ()) -> Command:
    """Start a worker that leaves when there is nothing to do."""
    waits = {point: file for each in points for point, file in each.at.items()}
    played = {"beside": True, "epoch_seconds": 0.02, "keeps_epochs": True, "wait_at": waits}
    return place.tuner("worker", "--pool", "--leave-after", "2s", *options, script=played)


def states(storage: Storage) -> dict[str, QueueState]:
    return {one.name: one.state for one in entries.entries(storage)}


@pytest.mark.timeout(300)
def test_a_terminated_worker_hands_its_trial_back_and_another_one_finishes_it(place: Place) -> None:
    point = place.wait_point("trial 0 epoch 3")
    storage = queued(place, "flowers", "roses")
    first = worker(place, point)
    point.until_reached()
    first.signal(signal.SIGTERM)
    assert first.end()[0] == 0, first.lines
    assert any("flowers trial 0 suspended" in line for line in first.lines)
    point.go_on()
    second = worker(place)
    assert second.end()[0] == 0, second.lines
    assert any("flowers trial 0 resumed" in line for line in second.lines)
    assert states(storage) == dict.fromkeys(("flowers", "roses"), QueueState.DONE)
    assert [one.ending for one in pool.members(storage)] == ["there was nothing to do", "asked to stop"]


@pytest.mark.timeout(300)
def test_a_killed_worker_frees_its_place_and_its_trial(place: Place) -> None:
    point = place.wait_point("trial 0 epoch 3")
    storage = queued(place, "flowers")
    first = worker(place, point)
    point.until_reached()
    psutil.Process(first.process.pid).kill()
    first.end()
    second = worker(place)
    assert second.end()[0] == 0, second.lines
    assert states(storage) == {"flowers": QueueState.DONE}


@pytest.mark.timeout(300)
def test_images_are_found_below_the_data_root_of_each_machine(place: Place) -> None:
    for root, names in (("here", ("flowers", "roses")), ("there", ("flowers",))):
        for name in names:
            images = place.folder / root / "all" / f"{name}.npz"
            images.parent.mkdir(parents=True, exist_ok=True)
            np.savez(images, x=np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8), y=np.arange(40) % 2)
    for name in ("flowers", "roses"):
        place.write(name=name, data={"source": "npz", "path": f"here/all/{name}.npz"}, budget={"trials": 1})
        submitted = place.tuner("submit", "study.yaml", "--data-root", "here")
        assert submitted.end()[0] == 0, submitted.lines
    (place.folder / "here").rename(place.folder / "elsewhere")
    served = worker(place, options=("--data-root", "there"))
    assert served.end()[0] == 0, served.lines
    storage = storages.open(f"sqlite:///{place.folder / 'tuner.db'}")
    assert states(storage) == {"flowers": QueueState.DONE, "roses": QueueState.QUEUED}
    [member] = pool.members(storage)
    assert member.refusals == {"roses": f"no file {place.folder}/there/all/roses.npz"}


def test_a_worker_of_a_storage_without_a_queue_waits_for_one(place: Place) -> None:
    idle = worker(place)
    assert idle.end()[0] == 0, idle.lines
    assert Path(place.folder / "tuner.db").exists()
    assert until(lambda: any("there was nothing to do" in line for line in idle.lines))
