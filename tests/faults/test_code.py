"""User objectives and models under every fault: exactly the budget is run, nothing is done twice, and the curves stay the same."""

import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.acceptance.conftest import Command, Place
from tests.faults.conftest import assert_whole
from tests.waiting import crash, pass_seconds, until
from tuner.storage import engine as storages
from tuner.studies import study as studies

#: epochs of a trial, and steps of an epoch
EPOCHS, STEPS = 4, 4
#: the step in the middle of the third epoch, and the last one, where each trial is held until the test lets it go on
MIDDLE, LAST = 2 * STEPS + 2, EPOCHS * STEPS
OUTAGE_SECONDS = 3.0
#: has a model's trainer write a checkpoint after each epoch, however short it is on this machine
CHECKPOINTS = """
from tuner.tasks.custom.training import custom, fitting

custom.PreparedCode.timing = fitting.CheckpointTiming(share=1e9)
"""
#: notes each step, and is slow and held as long as the test wants that
NOTES = """
import time
from pathlib import Path

FOLDER = Path(__file__).parent

def note(x, step, obey=lambda: None):
    with (FOLDER / "steps").open("a") as steps:
        steps.write(f"{x} {step}\\n")
    if (FOLDER / "slow").exists():
        time.sleep(0.02)
    while (FOLDER / f"hold{step}").exists():
        (FOLDER / f"held{step}").touch()
        obey()
        time.sleep(0.02)
"""
MODEL = """
import keras
import numpy as np

def load():
    x = np.linspace(-1, 1, 64).reshape(-1, 1).astype("float32")
    return (x, x * x), (x[::4], x[::4] ** 2)

class Noting(keras.Sequential):
    def train_step(self, data):
        note(self.x, int(self.optimizer.iterations) + 1)
        return super().train_step(data)

def build(hp):
    model = Noting([keras.Input((1,)), keras.layers.Dense(4, "relu"), keras.layers.Dropout(0.2), keras.layers.Dense(1)])
    model.x = hp.Float("x", 1e-3, 1e-1, sampling="log")
    model.compile(keras.optimizers.Adam(model.x), "mse", run_eagerly=True)
    return model
"""
#: each step depends on the one before
OBJECTIVE = """
import json

def objective(trial):
    x = trial.suggest_float("x", 0.0, 1.0)
    saved = trial.checkpoint_dir / "state"
    first, state = json.loads(saved.read_text()) if saved.exists() else (1, 0.0)
    for step in range(first, LAST + 1):
        note(x, step, trial.should_prune)
        state = (state + x) / 2 + trial.seed % 7
        if step % STEPS == 0:
            trial.report(state, step // STEPS)
        saved.with_suffix(".new").write_text(json.dumps([step + 1, state]))
        saved.with_suffix(".new").replace(saved)
    return state
"""
STUDIES: dict[str, dict[str, Any]] = {
    "custom": {
        "model": {"build": "mine.py:build"},
        "data": {"load": "mine.py:load"},
        "objective": "val_loss",
        "training": {"epochs": EPOCHS, "batch_size": 64 // STEPS},
    },
    "objective": {"function": "mine.py:objective", "objective": "minimize"},
}
#: steps that a kill may repeat: all of an epoch that has no checkpoint, or the one that was interrupted
MOST_REPEATED = {"custom": STEPS, "objective": 1}


class Scene:
    """One study, and the worker that trains it now."""

    def __init__(self, place: Place, kind: str, postgresql: Any) -> None:
        self.postgresql, self._place, self.folder = postgresql, place, place.folder
        values = f"STEPS, LAST = {STEPS}, {LAST}\n"
        (place.folder / "mine.py").write_text(values + NOTES + (CHECKPOINTS + MODEL if kind == "custom" else OBJECTIVE))
        study = {"name": "study", "task": kind, "sampler": "random", "pruner": "none", "budget": {"trials": len(FAULTS)}}
        (place.folder / "study.yaml").write_text(json.dumps(study | STUDIES[kind]))

    def run(self, url: str) -> Command:
        """Start a run of one worker."""
        return self._place.real_tuner("run", "study.yaml", "--threads", "1", "--no-export", "--storage", url)

    def start(self) -> None:
        """Start a worker."""
        self.worker = self._place.real_tuner("worker", "study.yaml", "--threads", "1", "--storage", self.postgresql.get_uri())

    def hold(self, step: int) -> None:
        """Have each trial that comes to a step wait there."""
        (self.folder / f"hold{step}").touch()

    def until_held(self, step: int) -> None:
        """Wait until a trial waits there."""
        until((self.folder / f"held{step}").exists)

    def let_go(self, step: int = MIDDLE) -> None:
        """End the wait."""
        (self.folder / f"hold{step}").unlink()
        (self.folder / f"held{step}").unlink()

    def trainer(self) -> psutil.Process:
        """The trainer of the worker."""
        (found,) = [process for process in self.worker.family() if "tuner.trainer.process" in process.cmdline()]
        return found

    def steps(self) -> list[tuple[str, int]]:
        """Value of x, which differs from trial to trial, and step of each step that was done, as often as it was."""
        lines = [line.split() for line in (self.folder / "steps").read_text().splitlines()]
        return [(x, int(step)) for x, step in lines]

    def num_repeated(self) -> int:
        """Steps that were done more than once, each as often as it was too much."""
        return sum(count - 1 for count in Counter(self.steps()).values())


def kill_the_trainer(scene: Scene) -> None:
    scene.trainer().kill()
    scene.let_go()
    scene.worker.until("trial 0 replaced")


def kill_the_worker(scene: Scene) -> None:
    """Kill the worker only: its trainer ends by itself, even in code that waits."""
    trainer = scene.trainer()
    scene.worker.signal(signal.SIGKILL)
    trainer.wait(20)
    scene.let_go()
    scene.start()


def kill_both(scene: Scene) -> None:
    for process in [*scene.worker.family(), psutil.Process(scene.worker.process.pid)]:
        process.kill()
    scene.let_go()
    scene.start()


def terminate(scene: Scene, number: signal.Signals = signal.SIGTERM) -> None:
    scene.worker.signal(number)
    pass_seconds(1.0)  # the trainer is told by now
    scene.let_go()
    scene.worker.until("suspended")
    assert scene.worker.end()[0] in (0, 130), scene.worker.lines
    scene.start()


def interrupt(scene: Scene) -> None:
    terminate(scene, signal.SIGINT)


def crash_the_database(scene: Scene) -> None:
    """Have it crash and stay away: the trial goes on to its end."""
    crash(scene.postgresql)
    began = time.monotonic()
    scene.let_go()
    scene.until_held(LAST)
    pass_seconds(max(0.0, OUTAGE_SECONDS - (time.monotonic() - began)))
    scene.postgresql.start()


#: faults that leave a trainer the time for a checkpoint in the middle of an epoch
SUSPENDING = (terminate, interrupt)
#: what happens to each trial in turn
FAULTS: tuple[Callable[[Scene], None], ...] = (
    kill_the_trainer,
    kill_the_worker,
    kill_both,
    terminate,
    interrupt,
    crash_the_database,
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", STUDIES)
def test_code_of_the_users_under_every_fault_trains_the_budget_once(
    kind: str, place: Place, postgresql: Any, record_property: Callable[[str, object], None]
) -> None:
    scene = Scene(place, kind, postgresql)
    expected = [(values, *map(pytest.approx, curve)) for values, *curve in uninterrupted(scene)]
    (scene.folder / "slow").touch()
    scene.hold(MIDDLE)
    scene.start()
    for fault in FAULTS:
        scene.until_held(MIDDLE)
        scene.hold(LAST)
        before = scene.num_repeated()
        fault(scene)
        scene.until_held(LAST)
        most = 0 if kind == "custom" and fault in SUSPENDING else MOST_REPEATED[kind]
        assert scene.num_repeated() - before <= most, (fault.__name__, scene.steps())
        scene.hold(MIDDLE)
        scene.let_go(LAST)
    assert scene.worker.end()[0] == 0, scene.worker.lines
    assert_whole(postgresql.get_uri(), num_trials=len(FAULTS), num_epochs=EPOCHS, num_probe_epochs=0)
    assert curves(postgresql.get_uri()) == expected
    assert len({x for x, _ in scene.steps()}) == len(FAULTS)
    record_property("faults", len(FAULTS))
    record_property("steps trained", len(scene.steps()))
    record_property("of them repeated", scene.num_repeated())


def uninterrupted(scene: Scene) -> list[Any]:
    """Return the curves of the same study without a fault."""
    url = f"sqlite:///{scene.folder / 'uninterrupted.db'}"
    run = scene.run(url)
    assert run.end()[0] == 0, run.lines
    assert scene.num_repeated() == 0
    (scene.folder / "steps").unlink()
    return curves(url)


def curves(url: str) -> list[Any]:
    """Return parameters, curve and value of each trial."""
    storage = storages.open(url)
    found = studies.load("study", storage).optuna.get_trials(deepcopy=False)
    storage.close()
    return [(trial.params, trial.intermediate_values, trial.value) for trial in found]


#: with three folds of two epochs each, it waits in the second epoch of the second fold
FOLDS = """
import time
from pathlib import Path

import keras
import numpy as np

FOLDER = Path(__file__).parent

def load():
    x = np.linspace(-1, 1, 64).reshape(-1, 1).astype("float32")
    return {"train": (x, x * x)}

def build(hp):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(hp.Float("rate", 1e-3, 1e-1, sampling="log")), "mse")
    return model

def worst(true, predicted):
    with (FOLDER / "epochs").open("a") as epochs:
        epochs.write("epoch\\n")
    if (FOLDER / "whole").exists():
        return float(abs(true - predicted).max())
    if len((FOLDER / "epochs").read_text().splitlines()) == 4:
        (FOLDER / "reached").touch()
        while not (FOLDER / "go").exists():
            time.sleep(0.02)
    return float(abs(true - predicted).max())
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("killed", ["the trainer", "everything"])
def test_a_kill_in_the_middle_of_a_fold_changes_no_result(place: Place, killed: str) -> None:
    (place.folder / "mine.py").write_text(CHECKPOINTS + FOLDS)

    def run(name: str) -> Command:
        study = {
            "name": name,
            "task": "custom",
            "model": {"build": "mine.py:build"},
            "data": {"load": "mine.py:load"},
            "objective": {"metric": "mine.py:worst", "direction": "minimize"},
            "training": {"epochs": 2},
            "validation": {"folds": 3},
            "budget": {"trials": 1},
        }
        (place.folder / f"{name}.yaml").write_text(json.dumps(study))
        return place.real_tuner("run", f"{name}.yaml", "--no-export", "--threads", "1", "--storage", f"sqlite:///{place.folder / name}.db")

    def stored(name: str) -> Any:
        storage = storages.open(f"sqlite:///{place.folder / name}.db")
        (found,) = studies.load(name, storage).optuna.get_trials(deepcopy=False)
        storage.close()
        return found

    running = run("disturbed")
    until((place.folder / "reached").exists)
    (trainer,) = [process for process in running.family() if "tuner.trainer.process" in process.cmdline()]
    for process in [trainer] if killed == "the trainer" else [*running.family(), psutil.Process(running.process.pid)]:
        process.kill()
    (place.folder / "go").touch()
    if killed == "everything":
        running.end()
        running = run("disturbed")
    assert running.end()[0] == 0, running.lines
    assert 6 <= len((place.folder / "epochs").read_text().splitlines()) <= 7
    (place.folder / "whole").touch()
    assert run("whole").end()[0] == 0
    disturbed, whole = stored("disturbed"), stored("whole")
    assert disturbed.params == whole.params
    assert sorted(disturbed.intermediate_values) == [1, 2, 3, 4, 5, 6]
    assert disturbed.intermediate_values == pytest.approx(whole.intermediate_values, abs=1e-6)
    assert disturbed.value == pytest.approx(whole.value, abs=1e-6)
    for name in ("folds", "standard_deviation", "best_epochs", "epochs"):
        assert disturbed.user_attrs[name] == pytest.approx(whole.user_attrs[name], abs=1e-6)
