"""User objectives and models under kills and stops: exactly the budget is run, nothing is done twice, answers stay the same."""

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.acceptance.conftest import Command, Place
from tests.waiting import until
from tuner.storage import engine as storages
from tuner.studies import study as studies

#: notes each call with its answers, and waits in its third step until a file is there
OBJECTIVE = """
import time
from pathlib import Path

FOLDER = Path(__file__).parent

def objective(trial):
    x = trial.suggest_float("x", 0.0, 1.0)
    kind = trial.suggest_categorical("kind", ["a", "b"])
    saved = trial.checkpoint_dir / "step"
    first = int(saved.read_text()) if saved.exists() else 0
    with (FOLDER / "calls").open("a") as calls:
        calls.write(f"{trial.number} {x} {kind} {first}\\n")
    for step in range(first, 6):
        trial.report(x + step, step)
        saved.write_text(str(step + 1))
        while step == 3 and trial.number >= 2 and not (FOLDER / "go").exists():
            (FOLDER / f"reached{trial.number}").touch()
            trial.should_prune()  # a worker that is asked to end suspends the trial here
            time.sleep(0.02)
    return x
"""
#: a small network, which notes each epoch that it trains, and waits in the fourth
MODEL = """
import time
from pathlib import Path
import keras
import numpy as np

FOLDER = Path(__file__).parent

def load():
    x = np.linspace(-1, 1, 64).reshape(-1, 1).astype("float32")
    return (x, x * x), (x[::4], x[::4] ** 2)

class Slow(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = keras.layers.Dense(4, "relu")
        self.last = keras.layers.Dense(1)

    def call(self, inputs):
        return self.last(self.inner(inputs))

def build(hp):
    model = Slow()
    model.compile(keras.optimizers.Adam(hp.Float("rate", 1e-3, 1e-1, sampling="log")), "mse")
    return model

def worst(true, predicted):
    with (FOLDER / "epochs").open("a") as epochs:
        epochs.write("epoch\\n")
    time.sleep(0.5)  # an epoch that is worth a checkpoint
    if len((FOLDER / "epochs").read_text().splitlines()) == 4:
        (FOLDER / "reached").touch()
        while not (FOLDER / "go").exists():
            time.sleep(0.02)
    return float(abs(true - predicted).max())
"""


def trainers(run: Command) -> list[psutil.Process]:
    """The trainer processes of a command."""
    return [process for process in run.family() if "tuner.trainer.process" in process.cmdline()]


def calls(place: Place) -> list[tuple[int, str, str, int]]:
    """Number, answers and first step of each call of the objective."""
    lines = [line.split() for line in (place.folder / "calls").read_text().splitlines()]
    return [(int(number), x, kind, int(first)) for number, x, kind, first in lines]


def stored(place: Place, name: str) -> list[Any]:
    """The trials of a study as Optuna reads them."""
    storage = storages.open(f"sqlite:///{place.folder / 'tuner.db'}")
    found = studies.load(name, storage).optuna.get_trials()
    storage.engine.dispose()
    return found


def run_objective(place: Place, *more: str) -> Command:
    (place.folder / "my.py").write_text(OBJECTIVE)
    return place.real_tuner(
        *("run", "--objective", "my.py:objective", "--name", "obj", "--direction", "minimize", "--trials", "5", "--no-export"), *more
    )


def assert_whole(place: Place) -> None:
    """Assert that five trials have completed, each with one set of answers in all its calls, and that a resumed one went on."""
    found = stored(place, "obj")
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 5
    assert all(trial.intermediate_values == {step: pytest.approx(trial.params["x"] + step) for step in range(6)} for trial in found)
    made = calls(place)
    answers = {(number, x, kind) for number, x, kind, _ in made}
    assert Counter(number for number, *_ in answers) == Counter(range(5))
    assert {(trial.number, str(trial.params["x"]), trial.params["kind"]) for trial in found} == answers
    again = [call for call in made if call[3] > 0]
    assert [call[3] for call in again] == [4] * len(again)
    assert again


@pytest.mark.timeout(300)
def test_a_killed_trainer_of_an_objective_costs_no_trial_and_changes_no_answer(place: Place) -> None:
    run = run_objective(place)
    until((place.folder / "reached2").exists)
    (trainer,) = trainers(run)
    trainer.kill()
    (place.folder / "go").touch()
    code, _ = run.end()
    assert code == 0, run.lines
    assert_whole(place)


@pytest.mark.timeout(300)
def test_killed_workers_of_an_objective_lose_nothing(place: Place) -> None:
    run = run_objective(place, "--workers", "2")
    until(lambda: len(list(place.folder.glob("reached*"))) == 2)
    for process in [*run.family(), psutil.Process(run.process.pid)]:
        process.send_signal(signal.SIGKILL)
    run.end()
    (place.folder / "go").touch()
    again = run_objective(place)
    code, _ = again.end()
    assert code == 0, again.lines
    assert_whole(place)


@pytest.mark.timeout(300)
def test_an_interrupted_objective_goes_on_from_its_checkpoint(place: Place) -> None:
    run = run_objective(place)
    until((place.folder / "reached2").exists)
    run.signal(signal.SIGINT)
    run.end()
    assert [trial.state.name for trial in stored(place, "obj")] == ["COMPLETE", "COMPLETE", "RUNNING"]
    (place.folder / "go").touch()
    again = run_objective(place)
    code, _ = again.end()
    assert code == 0, again.lines
    assert_whole(place)


@pytest.mark.timeout(300)
def test_a_killed_trainer_of_a_model_costs_at_most_one_epoch(place: Place) -> None:
    (place.folder / "mine.py").write_text(MODEL)
    study = {
        "name": "mine",
        "task": "custom",
        "model": {"build": "mine.py:build"},
        "data": {"load": "mine.py:load"},
        "objective": {"metric": "mine.py:worst", "direction": "minimize"},
        "training": {"epochs": 6},
        "budget": {"trials": 1},
    }
    (place.folder / "mine.yaml").write_text(json.dumps(study))
    run = place.real_tuner("run", "mine.yaml", "--no-export", "--threads", "1")
    until((place.folder / "reached").exists)
    (trainer,) = trainers(run)
    trainer.kill()
    (place.folder / "go").touch()
    code, _ = run.end()
    assert code == 0, run.lines
    (trial,) = stored(place, "mine")
    assert trial.state.name == "COMPLETE"
    assert sorted(trial.intermediate_values) == [1, 2, 3, 4, 5, 6]
    trained = len(Path(place.folder / "epochs").read_text().splitlines())
    assert 6 <= trained <= 7
