"""`tuner run` with real trainers: killed, interrupted, resumed and finished."""

import signal
from pathlib import Path

import pytest

import tuner
from tests.acceptance.conftest import Place
from tuner.spec import file as study_file

TINY = {
    "data": {"source": "digits", "train": 64, "validation": 40, "test": 40},
    "model": {"backbone": "squeezenet1_1", "image_size": 32},
    "training": {"probe_epochs": 2, "epochs": 4, "promote": 1.0},
    "budget": {"trials": 2},
}


@pytest.mark.timeout(600)
def test_a_study_survives_a_killed_trainer_and_ctrl_c(place: Place) -> None:
    place.write(**TINY)
    first_point, second_point = place.wait_point("trial 0 epoch 3"), place.wait_point("trial 0 epoch 4")
    run = place.real_tuner("run", "study.yaml", waits_at=[first_point, second_point])
    run.until("trial 0 promoted")
    first_point.until_reached()
    run.trainer().kill()
    run.until("trial 0 replaced", "SIGKILL")
    first_point.go_on()
    run.until("trial 0 promoted")
    second_point.until_reached()
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
    spec = study_file.parse_images(TINY | {"name": "called", "training": {"probe_epochs": 2, "epochs": 0}}, "a test")
    best = tuner.run(spec, storage=f"sqlite:///{tmp_path}/tuner.db", cache=tmp_path / "cache", artifacts=tmp_path / "artifacts")
    assert best.trial in (0, 1)
    assert 0 < best.value <= 1
