"""`tuner retrain` on a finished search; its trainers are rehearsed."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.acceptance.conftest import Place
from tuner.results.bundle import manifest
from tuner.results.versions import versions
from tuner.results.versions.versions import Reading
from tuner.spec import file as study_file
from tuner.spec.study import images_of
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
    config = images_of(study_file.parse(version.model.config, "the version's config"))
    assert (config.training.images, config.retraining, config.budget.trials) == ("train+validation", None, 1)
    assert config.result is not None
    assert "validation_accuracy" not in config.result
    assert config.result["soup_seeds"] == told["networks"][0]["chosen_seeds"]

    code, out = finished.tuner("retrain", "study", "--top", "1", "--seeds", "2", "--json").end()
    assert any("was read 1 time before, for version 1" in note for note in json.loads(out)["notes"])
    assert [reading.version for reading in readings_of(finished)] == [1, 2]


def test_a_version_may_be_an_ensemble_of_seeds_and_one_network_is_made_of_the_same_trainings(finished: Place) -> None:
    wanted = ("retrain", "study", "--top", "1", "--seeds", "2", "--json")
    script = {"epoch_seconds": 0.02, "mistakes_differ": True}
    for options, is_ensemble in (((), True), (("--single",), False)):
        run = finished.tuner(*wanted, *options, script=script)
        code, out = run.end()
        assert code == 0, run.lines
        told = json.loads(out)
        assert (told["networks"][0]["is_ensemble"], told["single"]) == (is_ensemble, not is_ensemble)
        assert told["test_accuracy"] <= 1.0
    ensemble, single = versions_of(finished)
    path = Path(ensemble.model.artifact)
    assert path.parent.name == "study-retrain-1"
    assert path.name.startswith("ensemble-")
    assert path.suffix == ".zip"
    assert manifest.digest(path) == ensemble.model.sha256
    assert ensemble.model.config["result"]["ensemble_seeds"] == list(ensemble.model.metrics["networks"][0]["chosen_seeds"])
    assert ensemble.model.metrics["test_accuracy"] > single.model.metrics["test_accuracy"]
    assert any("was read 1 time before, for version 1" in note for note in single.model.metrics["notes"])
    for options, number in (((), 1), (("--single",), 2)):
        shown = finished.tuner(*wanted, *options)
        code, out = shown.end()
        assert (code, json.loads(out)["version"]) == (0, number)
        assert any("Nothing was trained, and the test split was not read." in line for line in shown.lines)
    for call in (("diff", "study", "1", "2"), ("promote", "study", "1"), ("report", "study", "--to", "report.md"), ("doctor",)):
        code, out, lines = finished.here(*call)
        assert code == 0, (out, lines)
    assert "The version is the mean of the probabilities of seeds" in (finished.folder / "report.md").read_text()


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
