"""Trainers that crash, hang, diverge or meet a user's error: each as the table of failures says."""

import resource
from pathlib import Path

import psutil
import pytest

from tests.acceptance.conftest import Place
from tests.faults.conftest import REAL, SOAKS, script

#: a user's network with a mistake in it
NETWORK = """
def build(size):
    raise ZeroDivisionError("the user's own mistake")
"""


def test_each_fault_ends_as_the_table_says(place: Place) -> None:
    place.write(budget={"trials": 6})
    faults = {"1": ["crash"], "2": ["hang"], "3": ["not_finite"], "4": ["fail"], "5": ["crash", "crash"]}
    run = place.tuner(
        "run", "study.yaml", "--hang-limit", "4s", "--no-export", script=script(place, epoch_seconds=0.01) | {"faults": faults}
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


def starve(trainer: psutil.Process) -> None:
    """Let it have little more memory than it has before the fine-tuning: it crashes, or TensorFlow waits for a thread that cannot begin."""
    most = trainer.memory_info().vms + 20 * 2**20
    resource.prlimit(trainer.pid, resource.RLIMIT_AS, (most, most))


@pytest.mark.timeout(300)
@pytest.mark.skipif(not SOAKS, reason="make soak")  # one that is killed: tests/acceptance/test_real.py
def test_a_real_trainer_that_has_no_memory_costs_no_trial(place: Place) -> None:
    place.write(**REAL | {"budget": {"trials": 1}})
    point = place.wait_point("trial 0 epoch 1")
    run = place.real_tuner("run", "study.yaml", "--threads", "1", "--no-export", "--hang-limit", "30s", waits_at=[point])
    point.until_reached()
    artifacts = place.folder / "tuner-artifacts"
    assert not _checkpoints(artifacts)
    starve(run.trainer())
    point.go_on()
    code, _ = run.end()
    assert code == 0, run.lines
    assert sum("trial 0 replaced" in line for line in run.lines) == 1, run.lines
    assert place.states() == ["COMPLETE"]
    assert not _checkpoints(artifacts)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if "checkpoint" in path.name and path.is_file()]
