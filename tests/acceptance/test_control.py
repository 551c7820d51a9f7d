"""Commands that control a running study; its trainers are rehearsed."""

import json

from tests.acceptance.conftest import Place
from tests.acceptance.test_terminal import Terminal, terminals
from tuner.storage import engine as storages
from tuner.studies import study as studies
from tuner.views import trial as views_trial

__all__ = ["terminals"]


def said(place: Place, *call: str) -> str:
    """Return what a command prints that controls the run from this process."""
    code, out, lines = place.here(*call)
    assert code == 0, lines
    return out


def test_a_trial_is_stopped_a_configuration_is_enqueued_and_a_worker_ends_after_its_trial(place: Place) -> None:
    first_trial, others = place.wait_point("trial 0 epoch 2"), place.wait_point("epoch 2")
    run = place.tuner("run", "study.yaml", "--trials", "50", script={"wait_at": first_trial.at | others.at})
    run.until("study trial 0 started")
    assert said(place, "stop", "study", "--trial", "0").startswith("study trial 0 was stopped")
    number = int(said(place, "enqueue", "study", "--set", "dropout=0.125").split()[2])
    first_trial.go_on()
    run.until("study trial 0 pruned", "stopped by")
    if number > 1:  # the worker took a trial of its own before the config was there
        said(place, "stop", "study", "--trial", "1")
    run.until(f"study trial {number} started")
    (worker,) = [seen for seen in json.loads(said(place, "watch", "study", "--json"))["workers"] if seen["is_present"]]
    said(place, "stop", "study", "--worker", worker["name"])
    others.go_on()
    run.until("ended: asked to end by")
    run.end()
    storage = storages.open(f"sqlite:///{place.folder / 'tuner.db'}")
    found = views_trial.load(studies.load("study", storage), number)
    storage.close()
    assert found.origin == "enqueued"
    assert found.hyperparameters is not None
    assert found.hyperparameters["dropout"] == 0.125
    assert set(place.states()) == {"PRUNED", "COMPLETE"}
    assert len(place.states()) == number + 1


def test_a_study_is_stopped_and_resumed_by_other_commands(place: Place) -> None:
    second_epoch = place.wait_point("trial 0 epoch 2")
    run = place.tuner("run", "study.yaml", "--trials", "6", script=second_epoch.script)
    run.until("study trial 0 started")
    said(place, "stop", "study")
    second_epoch.go_on()
    assert run.end()[0] == 0
    assert place.states() == ["COMPLETE"]
    worker = place.tuner("worker", "study")
    assert worker.end()[0] == 0
    assert any("it was stopped by" in line for line in worker.lines)
    said(place, "resume", "study")
    last = place.tuner("worker", "study")
    assert last.end()[0] == 0, last.lines
    assert place.states() == ["COMPLETE"] * 6


def test_a_finished_study_is_watched_on_a_terminal_until_q(finished: Place, terminals: list[Terminal]) -> None:
    terminal = Terminal(finished.folder, ("watch", "study"), {})
    terminals.append(terminal)
    terminal.until("q quits")
    terminal.type(b"q")
    assert terminal.end() == 0
    for word in ("4 trials", "best", "It ended because", "done"):
        assert word in terminal.shown
    assert "Traceback" not in terminal.shown


def test_watching_without_a_terminal_prints_lines(finished: Place) -> None:
    watched = finished.tuner("watch", "study")
    assert watched.end() == (0, "")
    assert len(watched.lines) == 1
    assert "ended: the budget of 4 trials is spent" in watched.lines[0]
    assert json.loads(said(finished, "watch", "study", "--json"))["num_completed"] == 4
