"""A study on MariaDB that loses two workers and its server: exactly the budget is trained, nothing is lost, and nothing is done twice."""

import signal
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing

import psutil
import pytest
from optuna.trial import TrialState
from sqlalchemy import Connection, func, select

from tests.acceptance.conftest import Command, Place
from tests.faults.conftest import PROBE_EPOCHS, assert_whole, epoch_log, num_repeated, script
from tests.mariadb import Server
from tests.waiting import until
from tuner.storage import engine as storages
from tuner.storage import tables
from tuner.storage.engine import Storage
from tuner.studies import leases

EPOCHS = 6
TRIALS = 12
WORKERS = 3
#: the second epoch of fine-tuning: the first trials wait there until the test lets them continue, and so do the last ones
HELD_STEP = PROBE_EPOCHS + 2
HELD = [*range(WORKERS), *range(TRIALS - WORKERS, TRIALS)]


def steps_of(storage: Storage, *numbers: int) -> list[int]:
    """The last step that is stored of each trial."""
    query = select(tables.EPOCHS.c.trial_number, func.max(tables.EPOCHS.c.step)).group_by(tables.EPOCHS.c.trial_number)
    found = {row[0]: row[1] for row in storage.read(lambda connection: connection.execute(query).all())}
    return [found.get(number, 0) for number in numbers]


def are_completed(storage: Storage, *numbers: int) -> bool:
    query = select(func.count()).where(tables.TRIALS.c.number.in_(numbers), tables.TRIALS.c.state == TrialState.COMPLETE)
    return storage.read(lambda connection: connection.execute(query).scalar_one()) == len(numbers)


def holder(storage: Storage, workers: Sequence[Command], number: int) -> Command:
    """The worker that holds a trial."""
    query = select(tables.LEASES.c.pid).where(tables.LEASES.c.trial_number == number, tables.LEASES.c.ended_at.is_(None))
    pid = storage.read(lambda connection: connection.execute(query).scalar_one())
    [found] = [worker for worker in workers if pid in {worker.process.pid, *(process.pid for process in worker.family())}]
    return found


def kill(worker: Command) -> None:
    """Kill a worker and whatever it has started with SIGKILL, and wait for its end."""
    for process in [psutil.Process(worker.process.pid), *worker.family()]:
        process.send_signal(signal.SIGKILL)
    assert worker.end()[0] == -signal.SIGKILL, worker.lines


def endings(storage: Storage) -> Counter[str]:
    """How many attempts ended in each way."""

    def read(connection: Connection) -> Counter[str]:
        return Counter(connection.execute(select(tables.LEASES.c.ending)).scalars())

    return storage.read(read)


@pytest.mark.timeout(600)
def test_killed_workers_and_a_killed_server_lose_nothing(
    place: Place, mariadb: Server, record_property: Callable[[str, object], None]
) -> None:
    place.write(budget={"trials": TRIALS})
    url = mariadb.get_uri("tuner")
    points = [place.wait_point(f"trial {number} epoch {HELD_STEP}") for number in HELD]
    played = script(place, *points, fine_tune_epochs=EPOCHS)

    def start() -> Command:
        return place.tuner("worker", "study.yaml", "--storage", url, script=played)

    with closing(storages.open(url)) as storage:
        workers = [start() for _ in range(WORKERS)]
        # every epoch before that step is stored, and the epoch of that step is trained and in a checkpoint
        for point in points[:WORKERS]:
            point.until_reached()
        until(lambda: steps_of(storage, *range(WORKERS)) == [HELD_STEP - 1] * WORKERS)
        first, second, third = (holder(storage, workers, number) for number in range(WORKERS))
        assert len({id(worker) for worker in (first, second, third)}) == WORKERS
        for victim in (first, second):
            kill(victim)
        others = [start(), start()]
        # resumed after the step at which they waited
        until(lambda: are_completed(storage, 0, 1))

        mariadb.kill()
        for point in points:
            point.go_on()
        third.until("trial 2", "reports are stored in", "until the storage answers")
        mariadb.start()
        for worker in (third, *others):
            assert worker.end()[0] == 0, worker.lines
        assert_whole(url, num_trials=TRIALS, num_epochs=EPOCHS)
        assert num_repeated(place) == 0
        assert endings(storage) == {leases.LeaseEnding.COMPLETED: TRIALS, leases.LeaseEnding.LOST: 2}
    record_property("workers", WORKERS)
    record_property("of them killed", 2)
    record_property("kills of the server", 1)
    record_property("completed trials", TRIALS)
    record_property("epochs trained", len(epoch_log(place)))
    record_property("of them repeated", num_repeated(place))
