"""`tuner run` with real trainers: killed, interrupted, resumed and finished."""

import signal
from pathlib import Path

import pytest

import tuner
from tests.acceptance.conftest import Command, Place
from tuner.spec import file as study_file

TINY = {
    "data": {"source": "digits", "train": 64, "validation": 40, "test": 40},
    "model": {"backbone": "squeezenet1_1", "image_size": 32},
    "training": {"probe_epochs": 2, "epochs": 4, "promote": 1.0},
    "budget": {"trials": 2},
}


def kill_trainer(run: Command) -> None:
    (trainer,) = [member for member in run.family() if "tuner.trainer.process" in member.cmdline()]
    trainer.kill()


@pytest.mark.timeout(600)
def test_a_study_survives_a_killed_trainer_and_ctrl_c(place: Place) -> None:
    place.write(**TINY)
    run = place.real_tuner("run", "study.yaml")
    run.until("trial 0 promoted")
    kill_trainer(run)
    run.until("trial 0 replaced", "SIGKILL")
    run.until("trial 0 promoted")
    run.signal(signal.SIGINT)
    code, out = run.end()
    assert code == 0, run.lines
    assert "you stopped it" in out
    assert any("trial 0 suspended" in line for line in run.lines)
    assert place.states() == ["RUNNING"]

    again = place.real_tuner("run", "study.yaml")
    code, out = again.end()
    assert code == 0, again.lines
    assert any("trial 0 resumed" in line for line in again.lines)
    assert place.states() == ["COMPLETE"] * 2
    assert "on 40 unseen images" in out
    assert (place.folder / "study-best.yaml").exists()


def test_a_program_runs_a_study_and_gets_its_best_trial(tmp_path: Path) -> None:
    spec = study_file.parse(TINY | {"name": "called", "training": {"probe_epochs": 2, "epochs": 0}}, "a test")
    best = tuner.run(spec, storage=f"sqlite:///{tmp_path}/tuner.db", cache=tmp_path / "cache", artifacts=tmp_path / "artifacts")
    assert best.trial in (0, 1)
    assert 0 < best.value <= 1
