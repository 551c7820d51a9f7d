"""Measure trials without fine-tuning, one worker on SQLite: seconds per trial, trials per minute, memory after 10 and after 100 trials."""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import psutil
import runs

import tuner
from tuner.commands import options, run
from tuner.studies import study as studies
from tuner.studies import trials
from tuner.workers.engines import local
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.stopping import Stopping

#: the first trials trace a program for each kind of head
NUM_WARM = 10


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--npz", type=Path, help="a second data set in an .npz file")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="folder of the cache; default: a new one")
    parser.add_argument("--data", help="measure only this data set")
    parser.add_argument("--linear", metavar="SOLVER", help="search linear heads only, with this probe_solver")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for name, data, _ in runs.data_sets(given.npz, epochs=(0, 0)):
            if given.data in (None, name):
                found = measure(given.folder or Path(scratch), Path(scratch), name, data, given.trials, solver=given.linear)
                print(json.dumps(found, indent=1), flush=True)


def measure(folder: Path, scratch: Path, name: str, data: str, num_trials: int, *, solver: str | None) -> dict[str, object]:
    """Run one study and observe it."""
    file, url = scratch / f"{name}.yaml", f"sqlite:///{scratch}/{name}.db"
    text = runs.STUDY.format(name=name, data=data, epochs=0, promote=1.0, trials=num_trials, sampler="tpe", seed=0)
    file.write_text(text + (f"search: {{head_units: [], probe_solver: {solver}}}\n" if solver else ""), encoding="utf-8")
    spec = tuner.read(file)
    spec = spec.model_copy(update={"model": spec.model.model_copy(update={"image_size": 96})})
    joined = studies.join(spec, tuner.open_storage(url))
    watch = Watch()
    places = options.folders(folder / "cache", scratch / "artifacts")
    local.run(list(run.make_assignments(joined, url, places, options.plan_workers(1, None, None, None))), stopping=Stopping(), tell=watch)
    warm = range(NUM_WARM + 1, len(watch.ended))
    seconds = [watch.ended[number] - watch.ended[number - 1] for number in warm]
    widths = [trials.hyperparameters(trial) for trial in joined.optuna.get_trials()]
    linear = [second for second, number in zip(seconds, warm, strict=True) if not (widths[number] and widths[number].head_units)]
    hidden = [second for second, number in zip(seconds, warm, strict=True) if widths[number] and widths[number].head_units]
    return {
        "data": name,
        "trials": len(watch.ended),
        "first_probe_seconds": watch.first - watch.began,
        "median_seconds": statistics.median(seconds),
        "median_seconds_linear": statistics.median(linear) if linear else None,
        "median_seconds_hidden": statistics.median(hidden) if hidden else None,
        "median_seconds_outside_training": statistics.median(watch.beside[NUM_WARM:]),
        "trials_a_minute": 60 * len(seconds) / sum(seconds),
        "cpu_seconds_a_trial": (watch.cpu[-1] - watch.cpu[NUM_WARM]) / len(seconds),
        "memory_mib_after": {str(number): watch.memory[number - 1] >> 20 for number in (10, 50, num_trials) if number <= len(watch.memory)},
        "best": joined.optuna.best_value,
    }


class Watch:
    """Receives the worker's events, and measures its trainer after each trial."""

    def __init__(self) -> None:
        self.began = self.first = time.monotonic()
        #: time at the end of each trial
        self.ended: list[float] = []
        #: seconds of each trial without its training
        self.beside: list[float] = []
        #: memory of the trainer after each trial, in bytes
        self.memory: list[int] = []
        #: processor seconds of all processes
        self.cpu: list[float] = []
        self._training = 0.0

    def __call__(self, event: Event) -> None:
        if event.what is EventKind.EPOCH:
            self.first = self.first if self.ended or self._training else time.monotonic()
            self._training += event.seconds or 0.0
        if event.what in (EventKind.COMPLETED, EventKind.PRUNED):
            now = time.monotonic()
            self.beside.append(now - (self.ended[-1] if self.ended else self.began) - self._training)
            self.ended.append(now)
            self._training = 0.0
            family = [psutil.Process(), *psutil.Process().children(recursive=True)]
            self.cpu.append(sum(sum(process.cpu_times()[:2]) for process in family))
            self.memory.append(max(process.memory_info().rss for process in family if "tuner.trainer.process" in process.cmdline()))


if __name__ == "__main__":
    main()
