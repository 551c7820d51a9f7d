"""A crashed PostgreSQL server and a killed worker: nothing is lost, and nothing is done twice."""

import functools
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Place
from tests.waiting import crash, until
from tuner.storage import engine as storages
from tuner.storage import epochs
from tuner.studies import study as studies

#: epochs of fine-tuning, after two of the probe
EPOCHS = 12
SCRIPT = {"fine_tune_epochs": EPOCHS, "keeps_epochs": True}


def kept(place: Place) -> list[Path]:
    return list((place.folder / "tuner-artifacts" / "study" / "spool").glob("*.jsonl"))


@pytest.mark.timeout(180)
def test_a_crashed_database_and_a_killed_worker_lose_nothing(place: Place, postgresql: Any) -> None:
    place.write(budget={"trials": 3})
    url = str(postgresql.get_uri())
    points = [place.wait_point(f"trial 0 epoch {epoch}") for epoch in (4, 10, 11)]
    played = SCRIPT | {"wait_at": points[0].at | points[1].at | points[2].at}
    first = place.tuner("worker", "study.yaml", "--storage", url, script=played)
    first.until("trial 0 promoted")
    points[0].until_reached()
    crash(postgresql)
    points[0].go_on()
    # it trains on, and what it measures is on disk
    first.until("reports are stored in", ".jsonl until the storage answers")
    until(lambda: len(kept(place)[0].read_bytes().splitlines()) > 4)
    points[1].until_reached()
    first.signal(signal.SIGKILL)
    first.end()

    postgresql.start()
    points[1].go_on()
    second = place.tuner("worker", "study.yaml", "--storage", url, script=played)
    second.until("trial 0 delivered", "which has ended")
    assert kept(place) == []
    second.until("trial 0 resumed")
    points[2].until_reached()
    crash(postgresql)
    points[2].go_on()
    second.until("the reports of trial 0 are stored in", ".jsonl until the storage answers")
    second.signal(signal.SIGKILL)
    second.end()

    postgresql.start()
    run = place.tuner("run", "study.yaml", "--storage", url, "--no-export", script=SCRIPT)
    code, _ = run.end()
    assert code == 0, run.lines
    assert any("trial 0 delivered: " in line and "and the outcome from " in line for line in run.lines)
    assert any("trial 0 completed" in line for line in run.lines)
    assert not any("trial 0 started" in line or "trial 0 resumed" in line for line in run.lines)
    assert kept(place) == []
    assert_whole(url)


def assert_whole(url: str) -> None:
    """Require that the budget is spent exactly, that no trial failed, and that every epoch is stored once."""
    storage = storages.open(url)
    study = studies.load("study", storage)
    found = study.optuna.get_trials(deepcopy=False)
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 3
    for trial in found:
        steps = [epoch.step for epoch in storage.read(functools.partial(epochs.read, study_id=study.id, number=trial.number))]
        assert steps == sorted(trial.intermediate_values) == list(range(1, len(steps) + 1))
        assert trial.user_attrs["epochs"] == len(steps)
    assert len(found[0].intermediate_values) == 2 + EPOCHS
    storage.close()
