"""`tuner watch` as real processes: failures by kind, Ctrl-C, and a database that stops and starts again."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Place
from tests.acceptance.test_terminal import Terminal, terminals
from tests.studies import by_hand
from tuner.storage import engine as storages
from tuner.studies import study as studies
from tuner.studies import trials

__all__ = ["terminals"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.clear()


def fail_twice(url: str) -> None:
    """Create a study in which two trials failed for the same reason and one is running."""
    opened = storages.open(url)
    study = studies.join(by_hand.spec(), opened)
    for log in ("epoch 1\nout of memory\n\n", ""):
        claimed = by_hand.must_claim(study)
        trials.fail(study, claimed, by_hand.failed(claimed, log=log))
    trials.report(study, running := by_hand.must_claim(study), by_hand.epochs(running, [0.4321]))
    opened.close()


def test_failures_are_shown_by_kind_and_ctrl_c_restores_the_terminal(place: Place, terminals: list[Terminal]) -> None:
    fail_twice(f"sqlite:///{place.folder}/tuner.db")
    terminal = Terminal(place.folder, ("watch", "by-hand"), {})
    terminals.append(terminal)
    terminal.until("q quits")
    terminal.type(b"\x03")
    assert terminal.end() == 0
    for word in ("MemoryError", "2 trials, the last is trial 1", "it was too much", "0.4321"):
        assert word in terminal.shown
    assert "Traceback" not in terminal.shown
    assert terminal.shown.count("\x1b[?25l") == terminal.shown.count("\x1b[?25h")  # the cursor is there again


def test_json_has_the_failures_with_their_messages_and_logs(place: Place) -> None:
    fail_twice(f"sqlite:///{place.folder}/tuner.db")
    code, out = place.real_tuner("watch", "by-hand", "--json").end()
    assert code == 0
    assert json.loads(out)["failures"] == [
        {"error": "MemoryError", "num_trials": 2, "last_number": 1, "message": "it was too much", "log": ""}
    ]


def test_watching_reports_an_unreachable_database_and_continues_afterwards(place: Place, postgresql: Any) -> None:
    url = postgresql.get_uri()
    fail_twice(url)
    watching = place.real_tuner("watch", "by-hand", "--storage", url)
    watching.until("by-hand 0 done, 0 pruned, 2 failed, 1 running")
    postgresql.stop()
    watching.until("by-hand the database cannot be reached")
    postgresql.start()
    watching.until("by-hand 0 done, 0 pruned, 2 failed, 1 running")
    watching.signal(signal.SIGINT)
    assert watching.end() == (0, "")
    assert not [line for line in watching.lines if "Traceback" in line]
