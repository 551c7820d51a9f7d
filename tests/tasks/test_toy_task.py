"""A task of its own: a package and one entry of `TASKS` are enough for a search, its screens and its pages."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tuner
from tests.tasks.toy import toy_process
from tests.tasks.toy.toy_study import ToyStudySpec
from tuner.cli import main
from tuner.machine import TrainerShare
from tuner.protocol import messages
from tuner.spec import tasks
from tuner.spec.hyperparameters import ChosenValues
from tuner.trainer import loop
from tuner.workers.engines import local

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(toy_process.__file__).parent


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty current folder; this process and its workers know the task."""
    monkeypatch.setitem(tasks.TASKS, "toy", toy_process.TOY)
    monkeypatch.setattr(local, "COMMAND", (sys.executable, toy_process.__file__, "worker"))
    monkeypatch.chdir(tmp_path)
    for name in ("STORAGE", "ARTIFACTS", "CACHE"):
        monkeypatch.delenv(f"TUNER_{name}", raising=False)
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_task_of_its_own_is_searched_shown_and_exported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "find.yaml").write_text("name: find\ntask: toy\nnumber: 1.5\nbudget: {trials: 8}\npruner: none\n", encoding="utf-8")
    spec = tuner.read(folder / "find.yaml")
    assert isinstance(spec, ToyStudySpec)
    best = tuner.run(spec, workers=2)
    assert best.num_completed == 8
    chosen: Any = best.hyperparameters
    assert best.value == pytest.approx(abs(chosen["guess"] - 1.5))
    assert best.value <= 1.5
    first = tuner.load("find").trials_dataframe().iloc[0]
    assert (first["params_guess"], first["value"]) == (0.0, 1.5)
    for command in (["status", "find"], ["best", "find"], ["export", "find", "--to", "best.yaml"], ["schema", "--task", "toy"]):
        assert main.main(command) == 0, command
    assert "error" in capsys.readouterr().out
    exported = tuner.run(tuner.read(folder / "best.yaml"), workers=1)
    assert (exported.value, exported.hyperparameters, exported.num_completed) == (best.value, best.hyperparameters, 1)


def test_a_mistake_in_its_study_file_is_named(folder: Path) -> None:
    (folder / "find.yaml").write_text("name: find\ntask: toy\nnumber: 1.5\nwidht: 2\n", encoding="utf-8")
    with pytest.raises(tuner.TunerError, match=r"find.yaml:4: widht is not a key.*Did you mean width\?"):
        tuner.read(folder / "find.yaml")


def test_nothing_else_knows_the_task() -> None:
    found = subprocess.run(["grep", "-rlwi", "toy", str(ROOT / "tuner")], capture_output=True, text=True, check=False)
    assert [path for path in found.stdout.split() if path.endswith(".py")] == []
    assert {path.name for path in PACKAGE.glob("*.py")} == {"toy_study.py", "toy_values.py", "toy_training.py", "toy_process.py"}


class Orders:
    """A worker that sends some orders, and keeps the answers."""

    def __init__(self, *orders: Any) -> None:
        self.orders, self.answers = [*orders, messages.Quit()], list[Any]()

    def order(self) -> Any:
        return self.orders.pop(0)

    def send(self, message: Any) -> None:
        self.answers.append(message)


def test_a_task_without_classifiers_is_asked_for_no_logits(folder: Path) -> None:
    prepare = messages.Prepare(spec=ToyStudySpec(name="find", number=1.5).model_dump_json(), cache=str(folder))
    values = ChosenValues(values={"guess": 1.0})
    predict = messages.Predict(trial=3, hyperparameters=values, weights=("w",), splits=("test",), to=str(folder / "to.npz"))
    worker: Any = Orders(prepare, predict)
    loop.serve(worker, TrainerShare(threads=1))
    prepared, refused = worker.answers
    assert isinstance(prepared, messages.Prepared)
    assert (refused.trial, refused.error, refused.message) == (3, "NoNetwork", "this study has no classifiers, so there are no logits")
