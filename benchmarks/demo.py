"""Time the demo: first report, whole search, pause between two trials, and the test accuracy of the best trial."""

import argparse
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import runs

import tuner
from tuner.commands import options, run
from tuner.storage import engine as storages
from tuner.studies import study as studies
from tuner.workers.engines import local
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.stopping import Stopping

STUDY = Path(__file__).resolve().parents[1] / "studies" / "animals.yaml"


def main() -> None:
    """Print the figures as JSON."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = command(Path(folder)) | {"gap_seconds": gaps(Path(folder))}
    print(json.dumps(figures, indent=1))


def command(folder: Path) -> dict[str, object]:
    """Run `tuner run studies/animals.yaml --workers 2 --dashboard` without a cache, and observe it through its database."""
    url = f"sqlite:///{folder}/demo.db"
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "tuner", "run", str(STUDY), "--workers", "2", "--dashboard", "--port", "0", *runs.places(folder, "demo")],
        stderr=subprocess.PIPE,
    )
    first = None
    while process.poll() is None:
        time.sleep(0.1)
        first = first or (time.monotonic() - began if has_report(folder / "demo.db") else None)
    found = tuner.best(tuner.load("animals", tuner.open_storage(url)))
    return {
        "exit_code": process.returncode,
        "first_report_seconds": first,
        "whole_command_seconds": time.monotonic() - began,
        "trials": 20,
        "validation_accuracy": found.value,
        "rule_validation_accuracy": found.rule_value,
        "test_accuracy": found.test_accuracy,
        "test_images": found.num_test,
    }


def has_report(database: Path) -> bool:
    """Return whether the database has an epoch of any trial."""
    if not database.exists():
        return False
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        try:
            return bool(connection.execute("SELECT count(*) FROM tuner_epochs").fetchone()[0])
        except sqlite3.OperationalError:  # the tables do not exist yet
            return False


def gaps(folder: Path) -> dict[str, float]:
    """Return the seconds between the end of a trial and the next training step of the same worker, without tracing, over 30 probes."""
    given = tuner.read(STUDY)
    spec = given.model_copy(
        update={
            "name": "gaps",
            "training": given.training.model_copy(update={"epochs": 0}),
            "budget": given.budget.model_copy(update={"trials": 30}),
        }
    )
    url = f"sqlite:///{folder}/gaps.db"
    joined = studies.join(spec, storages.open(url))
    places = options.folders(folder / "cache", folder / "artifacts")
    ended: float | None = None
    found: list[float] = []

    def tell(event: Event) -> None:
        nonlocal ended
        now = time.monotonic()
        if event.what is EventKind.COMPLETED:
            ended = now
        elif event.what is EventKind.EPOCH and ended is not None:
            # the duration of an epoch includes the tracing of its step
            found.append(now - ended - (event.seconds or 0.0))
            ended = None

    local.run(list(run.make_assignments(joined, url, places, options.plan_workers(1, None, None, None))), stopping=Stopping(), tell=tell)
    return {"median": statistics.median(found), "largest": max(found)}


if __name__ == "__main__":
    main()
