"""Run `tuner run` as a user would, and read its epochs from its database while it runs."""

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.peers import journal
from benchmarks.peers.task import Task

_LOOK_SECONDS = 0.2
_EPOCHS = "SELECT trial_number, step, validation_accuracy FROM tuner_epochs ORDER BY rowid"


def search(task: Task) -> None:
    """Run the study until it ends or this process is asked to end; running trials are then suspended."""
    process = subprocess.Popen([sys.executable, "-m", "tuner", "run", str(task.study_path), "--workers", str(task.workers), *_places(task)])
    signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGINT))
    look = journal.following(lambda: epochs(database(task)), journal.Journal(task.folder))
    while process.poll() is None:
        look()
        time.sleep(_LOOK_SECONDS)
    look()
    sys.exit(process.returncode)


def database(task: Task) -> Path:
    """Return the database of the run."""
    return task.folder / "tuner.db"


def epochs(path: Path) -> list[tuple[int, int, float]]:
    """Return trial, epoch and validation accuracy of all epochs in a database."""
    if not path.exists():
        return []
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        try:
            return [(trial, step, accuracy) for trial, step, accuracy in connection.execute(_EPOCHS) if accuracy is not None]
        except sqlite3.OperationalError:  # the tables do not exist yet
            return []


def _places(task: Task) -> list[str]:
    places = {
        "--storage": f"sqlite:///{database(task)}",
        "--artifacts": task.folder / "artifacts",
        "--cache": task.cache,
        "--to": task.folder / "best.yaml",
    }
    return [str(part) for option in places.items() for part in option]
