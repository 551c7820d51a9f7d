"""A machine that sleeps: all processes are stopped for longer than a lease, and then go on.

In a machine that is suspended, CLOCK_MONOTONIC stands still and CLOCK_BOOTTIME goes on: tests/test_machine.py turns both clocks by hand.
The server of the database goes on, and the connections to it die: the last two tests cut them.
"""

import contextlib
import dataclasses
import functools
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil
import pytest
import sqlalchemy
from sqlalchemy import func

from tests.acceptance.conftest import Command, Place
from tests.faults.conftest import IMPATIENT, over, script
from tests.faults.proxy import Proxy, Weather
from tests.studies import by_hand
from tests.waiting import pass_seconds
from tuner.storage import engine as storages
from tuner.storage import epochs, tables
from tuner.storage.tables import TRIALS
from tuner.studies import leases, trials
from tuner.studies import study as studies
from tuner.studies.study import Study
from tuner.studies.trials import WorkerId
from tuner.studies.workers import WorkerStatus
from tuner.views import status

#: shorter than usual: a worker of another host is lost after a second, one of this host after ten
LEASE_SECONDS = 1.0
SLEEP_SECONDS = 12.0


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(leases.VARIABLE, str(LEASE_SECONDS))


def processes(command: Command) -> list[psutil.Process]:
    return [psutil.Process(command.process.pid), *command.family()]


def stop(members: Sequence[psutil.Process]) -> None:
    for member in members:
        member.send_signal(signal.SIGSTOP)


def go_on(members: Sequence[psutil.Process]) -> None:
    for member in members:
        member.send_signal(signal.SIGCONT)


def opened(place: Place) -> Study:
    return studies.load("study", storages.open(f"sqlite:///{place.folder / 'tuner.db'}"))


def endings(study: Study) -> list[tuple[int, str]]:
    """Return trial and ending of each attempt."""
    query = sqlalchemy.select(tables.LEASES.c.trial_number, tables.LEASES.c.ending)
    query = query.order_by(tables.LEASES.c.trial_number, tables.LEASES.c.attempt)
    return [(number, ending) for number, ending in study.storage.read(lambda connection: connection.execute(query).all())]


def test_each_worker_continues_with_its_own_trial_and_the_sleep_is_no_work(place: Place) -> None:
    place.write(budget={"trials": 2}, training={"probe_epochs": 2, "promote": 1.0})
    points = [place.wait_point(f"trial {number} epoch 4") for number in range(2)]
    running = place.tuner("run", "study.yaml", "--workers", "2", "--hang-limit", "8", script=script(place, *points))
    for point in points:
        point.until_reached()
    asleep = processes(running)
    stop(asleep)
    pass_seconds(SLEEP_SECONDS)
    go_on(asleep)
    for _ in range(2):
        running.until("slept for", "does not count as work")
    for point in points:
        point.go_on()
    code, _ = running.end()
    assert code == 0, running.lines
    study = opened(place)
    assert endings(study) == [(0, "completed"), (1, "completed")]
    assert not any("replaced" in line or "lost" in line for line in running.lines)
    # from the first beginning to the last end, twelve seconds passed in which nobody worked
    query = sqlalchemy.select(func.min(TRIALS.c.datetime_start), func.max(TRIALS.c.datetime_complete))
    first, last = study.storage.read(lambda connection: connection.execute(query).one())
    assert status.snapshot(study).busy_seconds <= (last - first).total_seconds() - SLEEP_SECONDS + 2
    measured = [epoch for n in range(2) for epoch in study.storage.read(functools.partial(epochs.read, study_id=study.id, number=n))]
    assert all(epoch.seconds is not None and epoch.seconds < SLEEP_SECONDS / 2 for epoch in measured)
    assert all(trial.user_attrs["seconds"] < SLEEP_SECONDS for trial in study.optuna.get_trials())
    study.storage.close()


def test_a_sleeper_yields_a_trial_that_a_worker_of_another_host_has_taken(place: Place) -> None:
    place.write(budget={"trials": 2}, training={"probe_epochs": 2, "promote": 1.0})
    point = place.wait_point("trial 0 epoch 4")
    running = place.tuner("run", "study.yaml", "--workers", "1", script=script(place, point))
    point.until_reached()
    asleep = processes(running)
    stop(asleep)
    pass_seconds(3 * LEASE_SECONDS)
    study = opened(place)
    other = dataclasses.replace(WorkerId.here("other"), namespace="another host")
    taken = by_hand.must_claim(study, other)
    assert (taken.number, taken.attempt) == (0, 2)
    go_on(asleep)
    running.until("trial 0", "given to another worker")
    trials.beat(study, other, WorkerStatus())
    by_hand.finish(study, taken, 0.9)
    code, _ = running.end()
    assert code == 0, running.lines
    assert endings(study) == [(0, "released"), (0, "completed"), (1, "completed")]
    assert study.optuna.best_value >= 0.9
    study.storage.close()


def test_a_sleeper_whose_connections_were_cut_reconnects_and_continues_its_trial(place: Place, postgresql_url: str, proxy: Proxy) -> None:
    place.write(budget={"trials": 1}, training={"probe_epochs": 2, "promote": 1.0})
    point = place.wait_point("trial 0 epoch 4")
    url = over(proxy, postgresql_url, IMPATIENT)
    running = place.tuner("run", "study.yaml", "--workers", "1", "--storage", url, script=script(place, point))
    point.until_reached()
    sleep_and_wake(running, proxy, Weather.CUT)
    running.until("slept for", "does not count as work")
    point.go_on()
    code, _ = running.end()
    assert code == 0, running.lines
    study = studies.load("study", storages.open(postgresql_url))
    assert endings(study) == [(0, "completed")]
    assert [epoch.step for epoch in study.storage.read(functools.partial(epochs.read, study_id=study.id, number=0))] == list(range(1, 9))
    study.storage.close()


def test_a_sleeper_whose_connections_say_nothing_yields_a_trial_that_another_host_has_taken(
    place: Place, postgresql_url: str, proxy: Proxy
) -> None:
    place.write(budget={"trials": 2}, training={"probe_epochs": 2, "promote": 1.0})
    point = place.wait_point("trial 0 epoch 4")
    url = over(proxy, postgresql_url, IMPATIENT)
    running = place.tuner("run", "study.yaml", "--workers", "1", "--storage", url, script=script(place, point))
    point.until_reached()
    study = studies.load("study", storages.open(postgresql_url))
    other = dataclasses.replace(WorkerId.here("other"), namespace="another host")
    with beating(study, other):
        taken = sleep_and_wake(running, proxy, Weather.BLACK_HOLE, lambda: by_hand.must_claim(study, other))
        assert (taken.number, taken.attempt) == (0, 2)
        running.until("trial 0", "given to another worker")
        by_hand.finish(study, taken, 0.9)
    code, _ = running.end()
    assert code == 0, running.lines
    assert endings(study) == [(0, "released"), (0, "completed"), (1, "completed")]
    study.storage.close()


@contextlib.contextmanager
def beating(study: Study, worker: WorkerId) -> Iterator[None]:
    """Let a worker of another host be seen while a `with` block runs."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(LEASE_SECONDS / 6):
            trials.beat(study, worker, WorkerStatus())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def sleep_and_wake(running: Command, proxy: Proxy, weather: Weather, meanwhile: Callable[[], Any] = lambda: None) -> Any:
    """Stop a run for six leases, and give it a network again 2 s after it goes on. Call `meanwhile` in its sleep, and return its result."""
    asleep = processes(running)
    stop(asleep)
    proxy.weather = weather
    if weather is Weather.CUT:
        proxy.cut()
    pass_seconds(6 * LEASE_SECONDS)
    result = meanwhile()
    go_on(asleep)
    pass_seconds(2.0)
    proxy.weather = Weather.FAIR
    proxy.cut()
    return result
