"""`tuner retrain` on a finished search; its trainers are rehearsed."""

import json
import signal
from collections.abc import Callable
from typing import Any

import psutil

from tests.acceptance.conftest import Place
from tuner.results.versions import versions
from tuner.results.versions.versions import Reading
from tuner.spec import file as study_file
from tuner.storage import engine as storages

Gone = Callable[[list[psutil.Process]], None]


def test_a_killed_retraining_resumes_and_stores_one_version_that_was_measured_once(finished: Place, gone: Gone) -> None:
    wanted = ("retrain", "study", "--top", "2", "--seeds", "2", "--workers", "2")
    later_trials = finished.wait_point("trial 2 epoch 1", "trial 3 epoch 1")
    first = finished.tuner(*wanted, script=later_trials.script)
    assert "x 2 seeds = " in first.until("study-retrain-1: ", "about", "with 2 workers")
    first.until("study-retrain-1 trial 1 completed")
    family = first.family()
    first.signal(signal.SIGKILL)
    first.end()
    gone(family)
    assert versions_of(finished) == []

    again = finished.tuner(*wanted, "--json")
    code, out = again.end()
    assert code == 0, again.lines
    assert not any("study-retrain-1 trial 1 started" in line for line in again.lines)
    told = json.loads(out)
    assert (told["name"], told["version"], told["retraining"], told["trained_on"]) == ("study", 1, "study-retrain-1", "train")
    assert told["choice"][0].startswith(f"Trial {told['networks'][0]['trial']} is chosen")
    assert told["num_test"] == 100
    assert [version.model.study for version in versions_of(finished)] == ["study-retrain-1"]
    assert [(reading.version, reading.content.accuracy) for reading in readings_of(finished)] == [(1, told["test_accuracy"])]

    code, out = finished.tuner("retrain", "study", "--top", "2", "--seeds", "2").end()
    assert (code, out.startswith("study version 1")) == (0, True)
    assert len(readings_of(finished)) == 1


def test_a_version_trained_on_validation_images_has_no_validation_accuracy(finished: Place) -> None:
    wanted = ("retrain", "study", "--top", "1", "--seeds", "2", "--on", "train+validation", "--json")
    stopped = finished.tuner(*wanted, script=finished.wait_point("trial 0 epoch 2").script)
    stopped.until("study-retrain-1 trial 0 started")
    stopped.signal(signal.SIGINT)
    assert stopped.end() == (1, "")
    assert "Run the same command to resume." in stopped.lines[-1]

    run = finished.tuner(*wanted)
    code, out = run.end()
    assert code == 0, run.lines
    told = json.loads(out)
    assert (told["trained_on"], told["validation_accuracy"], told["networks"][0]["mean"]) == ("train+validation", None, None)
    assert told["comparisons"][0]["against"] == "the same config trained on the train split alone"
    assert any("so it has no validation accuracy" in note for note in told["notes"])
    (version,) = versions_of(finished)
    assert version.model.study == "study-retrain-1-all"
    config = study_file.parse(version.model.config, "the version's config")
    assert (config.training.images, config.retraining, config.budget.trials) == ("train+validation", None, 1)
    assert config.result is not None
    assert "validation_accuracy" not in config.result
    assert config.result["soup_seeds"] == told["networks"][0]["chosen_seeds"]

    code, out = finished.tuner("retrain", "study", "--top", "1", "--seeds", "2", "--json").end()
    assert any("was read 1 time before, for version 1" in note for note in json.loads(out)["notes"])
    assert [reading.version for reading in readings_of(finished)] == [1, 2]


def versions_of(place: Place) -> list[Any]:
    storage = storages.open(f"sqlite:///{place.folder / 'tuner.db'}")
    found = versions.all(storage, "study")
    storage.close()
    return list(found)


def readings_of(place: Place) -> list[Reading]:
    storage = storages.open(f"sqlite:///{place.folder / 'tuner.db'}")
    found = versions.readings(storage, "study")
    storage.close()
    return found
