"""Trainers that crash, hang, diverge or meet an error of the user's: each as the table of failures says."""

from pathlib import Path

import pytest

from tests.acceptance.conftest import Place
from tests.faults.conftest import script, until

#: a network of the user's with a mistake in it
NETWORK = """
def build(size):
    raise ZeroDivisionError("the user's own mistake")
"""
REAL = {
    "data": {"source": "digits", "train": 100, "validation": 60, "test": 0},
    "model": {"backbone": "squeezenet1_1", "weights": "none", "image_size": 32},
    "training": {"probe_epochs": 1, "epochs": 12, "promote": 1.0},
}


def test_each_mishap_ends_as_the_table_says(place: Place) -> None:
    place.write(budget={"trials": 6})
    mishaps = {"1": ["crash"], "2": ["hang"], "3": ["not_finite"], "4": ["fail"], "5": ["crash", "crash"]}
    run = place.tuner(
        "run", "study.yaml", "--hang-limit", "2s", "--no-export", script=script(place, epoch_seconds=0.01) | {"mishaps": mishaps}
    )
    code, _ = run.end()
    assert code == 0, run.lines
    assert place.states() == ["COMPLETE", "COMPLETE", "COMPLETE", "PRUNED", "FAIL", "FAIL"], run.lines
    for number, word in ((1, "replaced"), (2, "replaced"), (5, "replaced")):
        assert any(f"trial {number} {word}" in line for line in run.lines), run.lines


def test_a_failure_that_comes_again_and_again_stops_the_study(place: Place) -> None:
    place.write(budget={"trials": 20})
    run = place.tuner("run", "study.yaml", "--no-export", script={"always": "fail"})
    assert run.end()[0] == 1
    assert place.states() == ["FAIL"] * 3
    assert any("the script says so" in line for line in run.lines), run.lines


def test_a_mistake_in_the_users_network_is_shown_and_nothing_is_trained(place: Place) -> None:
    (place.folder / "mine.py").write_text(NETWORK)
    place.write(**REAL | {"model": {"backbone": "python:mine:build", "image_size": 32}, "budget": {"trials": 3}})
    run = place.real_tuner("run", "study.yaml", "--no-export")
    code, _ = run.end()
    assert code != 0
    assert any("the user's own mistake" in line for line in run.lines), run.lines
    assert not any("Traceback" in line for line in run.lines), run.lines


@pytest.mark.timeout(300)
def test_a_real_trainer_that_is_killed_costs_no_trial_and_little_of_one(place: Place) -> None:
    place.write(**REAL | {"budget": {"trials": 1}})
    run = place.real_tuner("run", "study.yaml", "--threads", "1", "--no-export")
    run.until("trial 0 promoted")
    checkpoints = place.folder / "tuner-artifacts"
    until(lambda: _checkpoints(checkpoints))
    [trainer] = [process for process in run.family() if "tuner.training.process" in process.cmdline()]
    trainer.kill()
    code, _ = run.end()
    assert code == 0, run.lines
    assert any("trial 0 replaced" in line for line in run.lines), run.lines
    assert place.states() == ["COMPLETE"]
    assert not _checkpoints(checkpoints)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if "checkpoint" in path.name and path.is_file()]
