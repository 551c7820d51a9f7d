"""Many worker processes on one study, some of them killed during a trial."""

import random
import secrets
from collections import Counter
from collections.abc import Collection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from tests.integration import worker_processes
from tests.studies import by_hand
from tests.waiting import until
from tuner.storage import engine as storages
from tuner.storage import tables
from tuner.studies import leases
from tuner.studies import study as studies

NUM_TRIALS = 24
#: trials whose first attempt waits until its worker is killed
WAITING = (2, 6, 12, 18)


def start(processes: ForkServerContext, url: str, name: str, marks: Path, label: str, waiting: Collection[int] = ()) -> ForkServerProcess:
    process = processes.Process(target=worker_processes.work, args=(url, name, str(marks), label, tuple(waiting)))
    process.start()
    return process


def trials_of(url: str, name: str) -> list[FrozenTrial]:
    storage = storages.open(url)
    found = optuna.load_study(study_name=name, storage=storage.rdb).get_trials()
    storage.close()
    return found


def assert_exact(trials: list[FrozenTrial], marks: Path) -> None:
    assert [trial.number for trial in trials] == list(range(NUM_TRIALS))
    assert all(trial.state.is_finished() for trial in trials)
    assert not list(marks.glob("*.run-by-two"))
    begun = Counter(path.name for path in marks.glob("*.*.*"))
    assert {int(name.split(".")[0]) for name in begun} == set(range(NUM_TRIALS))


def test_sixteen_workers_on_an_empty_database_create_one_study_with_exactly_its_trials(
    storage_url: str, processes: ForkServerContext, marks: Path
) -> None:
    workers = [start(processes, storage_url, "crowd", marks, f"w{number}") for number in range(16)]
    for worker in workers:
        worker.join(100)
    assert [worker.exitcode for worker in workers] == [0] * 16
    trials = trials_of(storage_url, "crowd")
    assert_exact(trials, marks)
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    # every trial needed one attempt, and no two workers sampled the same values
    assert len(list(marks.glob("*.1.*"))) == NUM_TRIALS
    assert len({repr(trial.params) for trial in trials}) == NUM_TRIALS


def test_killed_workers_lose_no_trial_and_create_no_extra_one(storage_url: str, processes: ForkServerContext, marks: Path) -> None:
    chance = random.Random(11)
    workers = [start(processes, storage_url, "killed", marks, f"w{number}", WAITING) for number in range(6)]
    for kill, number in enumerate(WAITING):
        # one that waits in the middle of a trial, then one that may be anywhere
        at_work = until(lambda: list(marks.glob(f"{number}.*.*")))[0]  # noqa: B023
        at_any_place = chance.choice(workers)
        victims = [worker for worker in workers if str(worker.pid) == at_work.suffix.removeprefix(".") or worker is at_any_place]
        for place, victim in enumerate(victims):
            workers.remove(victim)
            victim.kill()
            victim.join()
            workers.append(start(processes, storage_url, "killed", marks, f"again{kill}-{place}", WAITING))
    for worker in workers:
        worker.join(100)
    assert [worker.exitcode for worker in workers] == [0] * len(workers)
    assert_exact(trials_of(storage_url, "killed"), marks)
    assert all(list(marks.glob(f"{number}.[23].*")) for number in WAITING)


def test_the_trial_of_a_killed_worker_is_resumed_at_once_and_fails_after_three_kills(
    storage_url: str, processes: ForkServerContext
) -> None:
    storage = storages.open(storage_url)
    name = f"three-{secrets.token_hex(3)}"
    study = studies.join(by_hand.spec(name=name), storage)
    numbers = []
    for _ in range(3):
        ours, theirs = processes.Pipe()
        process = processes.Process(target=worker_processes.claim_and_wait, args=(storage_url, name, theirs))
        process.start()
        theirs.close()
        numbers.append(ours.recv())
        ours.close()
        process.kill()
        process.join()
    assert numbers == [0, 0, 0]
    assert by_hand.must_claim(study).number == 1
    trial = optuna.load_study(study_name=name, storage=storage.rdb).get_trials()[0]
    assert (trial.state, trial.user_attrs["error"]) == (TrialState.FAIL, "WorkerLost")
    assert "lost 3 times" in trial.user_attrs["message"]
    of_the_trial = tables.LEASES.select().where(tables.LEASES.c.trial_number == 0).order_by(tables.LEASES.c.attempt)
    endings = storage.read(lambda connection: connection.execute(of_the_trial).all())
    assert [row.ending for row in endings] == [leases.LeaseEnding.LOST, leases.LeaseEnding.LOST, leases.LeaseEnding.FAILED]
    storage.close()
