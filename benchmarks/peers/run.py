"""`make benchmark`: every contender on every data set with every seed, one after another, then the report.

Each runs in its own process with an empty cache, on the same processors, until its time is over, counted from the start of the process.
An interrupted benchmark resumes: finished runs are not repeated.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peers import contenders, journal, report
from benchmarks.peers.task import ANIMALS, STARTED, Task

ROOT = Path(__file__).resolve().parents[2]
RESULT = "result.json"
#: exists when the time of a run is over
_ENDED = "ended"
#: environment variable of every process of a run, used to find them at its end
_MARK = "TUNER_BENCHMARK_RUN"
#: how long tuner may take to suspend its running trials; peers always have their best weights on disk
_LEAVE_SECONDS = 60.0
_LOOK_SECONDS = 0.2


class ContenderFailed(Exception):
    """A contender ended early with an error."""


def main() -> None:
    """Run everything that has no result yet, then write the report."""
    given = _arguments()
    failed = []
    # every process started from here on may only use these processors
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.threads])
    for task in _tasks(given):
        if _is_done(task) and not given.force:
            continue
        print(f"{task.data}, seed {task.seed}, {task.minutes:g} minutes: {contenders.title(task.contender)}", flush=True)
        try:
            result = run(task, force=given.force)
        except ContenderFailed as error:
            failed.append(str(error))
            print(f"  {error}", file=sys.stderr, flush=True)
            continue
        further = f", on further images {result['more']}" if "more" in result else ""
        print(f"  {result['trials']} trials, best validation {result['best']}, test {result['test']}{further}", flush=True)
    report.write(given.results)
    sys.exit(1 if failed else 0)


def run(task: Task, *, force: bool) -> dict[str, Any]:
    """Do one run from an empty folder to its result; a run that only lacks its score is only scored.

    Raises:
        ContenderFailed: the contender ended with an error, or its model could not be scored.
    """
    if force or not _has_ended(task):
        shutil.rmtree(task.folder, ignore_errors=True)
        task.write()
        _contend(task)
        (task.folder / _ENDED).touch()
    epochs = journal.read(task.folder, until_seconds=task.minutes * 60)
    result = task.plain() | {
        "curve": [[epoch.seconds, epoch.best] for epoch in epochs],
        "trials": len({epoch.trial for epoch in epochs}),
        "epochs_trained": len(epochs),
        "best": epochs[-1].best if epochs else None,
        **_score(task),
    }
    temporary = task.folder / f"{RESULT}.part"
    temporary.write_text(json.dumps(result), encoding="utf-8")
    temporary.replace(task.folder / RESULT)
    shutil.rmtree(task.cache, ignore_errors=True)
    return result


def _is_done(task: Task) -> bool:
    """Return whether this run has a result with these settings."""
    return _has_ended(task) and (task.folder / RESULT).exists()


def _has_ended(task: Task) -> bool:
    return (task.folder / _ENDED).exists() and Task.read(task.folder) == task


def _contend(task: Task) -> None:
    began = time.time()
    process = _start("contend", task, {STARTED: repr(began)})
    try:
        while process.poll() is None and time.time() < began + task.minutes * 60:
            time.sleep(_LOOK_SECONDS)
        if process.returncode:
            raise ContenderFailed(f"it ended with exit code {process.returncode}; see {task.folder / 'log.txt'}")
        if process.returncode is None:
            process.terminate()
            if contenders.is_tuner(task.contender):
                _wait(process, _LEAVE_SECONDS)
    finally:
        _kill(task)
        process.wait()


def _wait(process: subprocess.Popen[str], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        pass


def _kill(task: Task) -> None:
    """Kill every process of the run, including those that left its process tree."""
    while found := list(_processes(task)):
        for process in found:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        psutil.wait_procs(found, timeout=5)


def _processes(task: Task) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(_MARK) == str(task.folder):
                yield process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def _score(task: Task) -> dict[str, Any]:
    process = _start("score", task, {STARTED: repr(time.time())}, stdout=subprocess.PIPE)
    printed, _ = process.communicate()
    if process.returncode:
        raise ContenderFailed(f"its best model could not be scored; see {task.folder / 'log.txt'}")
    scored = json.loads(printed.splitlines()[-1])
    return scored | {"validation_of_scored": scored["validation"]}


def _start(module: str, task: Task, environment: dict[str, str], **options: Any) -> subprocess.Popen[str]:
    """Start a process of the run."""
    command = [sys.executable, "-m", f"benchmarks.peers.{module}", str(task.folder)]
    settings = {_MARK: str(task.folder), "TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_BACKEND": "tensorflow", "PYTHONPATH": str(ROOT)}
    log = (task.folder / "log.txt").open("a", encoding="utf-8")
    with log:
        return subprocess.Popen(
            command,
            cwd=task.folder,
            env=dict(os.environ) | settings | environment,
            stdin=subprocess.DEVNULL,
            stderr=log,
            text=True,
            **({"stdout": log} | options),
        )


def _tasks(given: argparse.Namespace) -> Iterator[Task]:
    for data in given.data:
        for seed in given.seeds:
            for contender in given.contenders:
                yield Task(
                    contender=contender,
                    data=data,
                    npz=None if data == ANIMALS else str(given.npz.resolve()),
                    more=None if data == ANIMALS or given.more is None else str(given.more.resolve()),
                    seed=seed,
                    minutes=given.minutes,
                    epochs=given.epochs,
                    threads=given.threads,
                    workers=given.workers,
                    folder=given.results.resolve() / data / contender / f"seed-{seed}-minutes-{given.minutes:g}",
                )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare tuner with the tools that a user could choose instead.")
    parser.add_argument("--data", nargs="+", default=[ANIMALS], help="animals, or the name of the file given with --npz")
    parser.add_argument("--npz", type=Path, help="an .npz file with x_train, y_train, x_val, y_val, x_test, y_test")
    parser.add_argument("--more", type=Path, help="an .npz file with x and y: further test images of that data set")
    parser.add_argument("--contenders", nargs="+", default=list(contenders.CONTENDERS), choices=contenders.CONTENDERS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--epochs", type=int, default=6, help="epochs of each trial of a peer")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--workers", type=int, default=1, help="number of tuner's workers")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/peers/results"))
    parser.add_argument("--force", action="store_true", help="repeat finished runs")
    given = parser.parse_args()
    unknown = [name for name in given.data if name != ANIMALS and (given.npz is None or given.npz.stem != name)]
    if unknown:
        parser.error(f"--data is {unknown[0]}; expected {ANIMALS}, or the name of a file that --npz gives, such as NPZ=~/{unknown[0]}.npz")
    if given.npz is not None and not given.npz.is_file():
        parser.error(f"--npz is {given.npz}, which is not there; name an .npz file")
    return given


if __name__ == "__main__":
    main()
