"""kill -9 of one worker after another: exactly the budget is trained, nothing is lost and next to nothing done twice."""

import random
import signal
from collections.abc import Callable
from contextlib import closing

import psutil
import pytest
from sqlalchemy import func, select

from tests.acceptance.conftest import Command, Place
from tests.faults.conftest import EXTENT, assert_whole, epoch_log, num_repeated, script
from tests.waiting import pass_seconds, until
from tuner.storage import engine as storages
from tuner.storage import tables
from tuner.studies import leases

EPOCHS = 6


class Crew:
    """Workers of which a killed one is replaced by another."""

    def __init__(self, place: Place, url: str) -> None:
        self._place, self._url = place, url
        # the last trials wait until nobody is killed any more, so that there is always someone at work
        last = range(EXTENT.killed_trials - EXTENT.workers, EXTENT.killed_trials)
        self.last_trials = place.wait_point(*(f"trial {number} epoch 5" for number in last))
        self.storage = storages.open(url)
        self.workers = [self._start() for _ in range(EXTENT.workers)]

    def _start(self) -> Command:
        played = script(self._place, self.last_trials, fine_tune_epochs=EPOCHS, epoch_seconds=EXTENT.killed_epoch_seconds)
        return self._place.tuner("worker", "study.yaml", "--storage", self._url, script=played)

    def victims(self) -> list[int]:
        """Our processes at work on a trial that has lost less than two workers: a third loss fails a trial, which is another test."""
        num_lost = (
            select(func.count())
            .where(tables.LEASES.c.ending == leases.LeaseEnding.LOST.value)
            .where(tables.LEASES.c.trial_id == (table := tables.LEASES.alias()).c.trial_id)
            .scalar_subquery()
        )
        query = select(table.c.pid).where(table.c.ended_at.is_(None), num_lost < 2)
        with self.storage.engine.connect() as connection:
            at_work = set(connection.execute(query).scalars())
        return sorted(at_work & {process.pid for worker in self.workers for process in _alive(worker)})

    def kill(self, pid: int) -> None:
        """Kill the worker that a process belongs to, and start another."""
        [number] = [number for number, worker in enumerate(self.workers) if pid in {process.pid for process in _alive(worker)}]
        for process in _alive(self.workers[number]):
            process.send_signal(signal.SIGKILL)
        self.workers[number].end()
        self.workers[number] = self._start()

    def close(self) -> None:
        """Read the storage no more."""
        self.storage.close()


def _alive(worker: Command) -> list[psutil.Process]:
    if worker.process.poll() is not None:
        return []
    return [psutil.Process(worker.process.pid), *worker.family()]


@pytest.mark.timeout(900)
def test_workers_that_are_killed_one_after_another_lose_nothing(
    place: Place, postgresql_url: str, record_property: Callable[[str, object], None]
) -> None:
    place.write(budget={"trials": EXTENT.killed_trials})
    dice = random.Random(0)
    with closing(Crew(place, postgresql_url)) as crew:
        for _ in range(EXTENT.kills):
            pass_seconds(dice.uniform(0.2, 1.0))
            crew.kill(dice.choice(until(crew.victims, 300.0)))
        crew.last_trials.go_on()
        for worker in crew.workers:
            assert worker.end()[0] == 0, worker.lines
    assert_whole(postgresql_url, num_trials=EXTENT.killed_trials, num_epochs=EPOCHS)
    assert num_repeated(place) <= EXTENT.kills
    record_property("workers", EXTENT.workers)
    record_property("kills", EXTENT.kills)
    record_property("completed trials", EXTENT.killed_trials)
    record_property("epochs trained", len(epoch_log(place)))
    record_property("of them repeated", num_repeated(place))


def test_an_epoch_that_only_its_checkpoint_knows_of_comes_to_the_curve(place: Place, postgresql_url: str) -> None:
    place.write(budget={"trials": 1})
    played = script(place, fine_tune_epochs=EPOCHS, faults={"0": ["lost_worker"]})
    first = place.tuner("worker", "study.yaml", "--storage", postgresql_url, script=played)
    assert first.end()[0] == -signal.SIGKILL, first.lines
    second = place.tuner("worker", "study.yaml", "--storage", postgresql_url, script=script(place, fine_tune_epochs=EPOCHS))
    assert second.end()[0] == 0, second.lines
    assert any("trial 0 resumed" in line for line in second.lines), second.lines
    assert_whole(postgresql_url, num_trials=1, num_epochs=EPOCHS)
    assert num_repeated(place) == 0
