"""`tuner watch` as real processes: failures by kind, Ctrl-C, and a database that is away and comes back."""

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
    """A study in which two trials failed for the same reason and one is at work."""
    opened = storages.open(url)
    study = studies.join(by_hand.spec(), opened)
    for log in ("epoch 1\nout of memory\n\n", ""):
        claimed = by_hand.must_claim(study)
        trials.fail(study, claimed, by_hand.failed(claimed, log=log))
    trials.report(study, running := by_hand.must_claim(study), by_hand.epochs(running, [0.4321]))
    opened.close()


def test_failures_are_shown_by_kind_and_ctrl_c_ends_it_as_it_found_the_terminal(place: Place, terminals: list[Terminal]) -> None:
    fail_twice(f"sqlite:///{place.folder}/tuner.db")
    terminal = Terminal(place.folder, ("watch", "by-hand"), {})
    terminals.append(terminal)
    terminal.until("q ends watching")
    terminal.type(b"\x03")
    assert terminal.end() == 0
    for word in ("MemoryError", "2 trials, the last is trial 1", "it was too much", "0.4321"):
        assert word in terminal.shown
    assert "Traceback" not in terminal.shown
    assert terminal.shown.count("\x1b[?25l") == terminal.shown.count("\x1b[?25h")  # the cursor is there again


def test_a_program_reads_the_failures_with_what_they_left(place: Place) -> None:
    fail_twice(f"sqlite:///{place.folder}/tuner.db")
    code, out = place.real_tuner("watch", "by-hand", "--json").end()
    assert code == 0
    assert json.loads(out)["failures"] == [
        {"error": "MemoryError", "num_trials": 2, "last_number": 1, "message": "it was too much", "log": ""}
    ]


def test_a_database_that_is_away_is_said_and_watching_goes_on_when_it_is_back(place: Place, postgresql: Any) -> None:
    url = postgresql.get_uri()
    fail_twice(url)
    watching = place.real_tuner("watch", "by-hand", "--storage", url)
    watching.until("by-hand 0 done, 0 pruned, 2 failed, 1 running")
    postgresql.stop()
    watching.until("by-hand the database is away")
    postgresql.start()
    watching.until("by-hand 0 done, 0 pruned, 2 failed, 1 running")
    watching.signal(signal.SIGINT)
    assert watching.end() == (0, "")
    assert not [line for line in watching.lines if "Traceback" in line]
