"""All commands from a search to a model that others can use, with real trainers."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Place
from tuner.cli import main

TINY = {
    "data": {"source": "digits", "train": 64, "validation": 40, "test": 40},
    "model": {"backbone": "squeezenet1_1", "image_size": 32},
    "training": {"probe_epochs": 2, "epochs": 0},
    "search": {"probe_solver": "sgd"},  # an exact probe has one epoch, which makes no curve
    "budget": {"trials": 1},
}


@pytest.mark.timeout(900)
def test_a_search_leads_to_a_version_in_production_and_a_model_that_predicts(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place.folder)
    monkeypatch.delenv("TUNER_STORAGE", raising=False)
    place.write(**TINY)
    monkeypatch.setenv("TUNER_CACHE", str(place.folder / "cache"))
    run = place.real_tuner("run", "study.yaml")
    assert run.end()[0] == 0, run.lines
    retrained = asked(capsys, "retrain", "study", "--top", "1", "--seeds", "2")

    (version,) = asked(capsys, "versions", "study")
    assert (version["version"], version["origin"], version["stages"]) == (1, "retraining", [])
    assert version["test_accuracy"] == retrained["test_accuracy"]
    assert [reading["num_images"] for reading in version["readings"]] == [40]
    event = asked(capsys, "promote", "study", "1", "--to", "production")
    assert (event["version"], event["stage"], event["change"]) == (1, "production", "promoted")

    assert main.main(["export", "study", "--version", "1", "--to", "bundle"]) == 0
    capsys.readouterr()
    metrics = json.loads((place.folder / "bundle" / "metrics.json").read_text())
    assert (metrics["version"], metrics["test"]["accuracy"]) == (1, version["test_accuracy"])
    assert {path.name for path in (place.folder / "bundle" / "plots").iterdir()} == {"confusion.png", "reliability.png", "curve.png"}
    assert sum(each["num_images"] for each in metrics["retraining"]["calibration"]["bins"]) == 40
    verified = asked(capsys, "verify", "bundle", "--no-robustness")
    assert verified["checks"][-1]["found"][0] == "recorded; study 1 has 2 readings of its test split"
    (version,) = asked(capsys, "versions", "study")
    assert [(reading["purpose"], reading["accuracy"]) for reading in version["readings"]] == [
        ("retrain", version["test_accuracy"]),
        ("verify", version["test_accuracy"]),
    ]
    predicted = asked(capsys, "predict", "bundle", "bundle/probes")
    assert [each["predictions"][0]["label"] for each in predicted] == recorded(place.folder / "bundle")


def recorded(bundle: Path) -> list[str]:
    """Return the recorded predictions for the sample images of a bundle, by file."""
    probes = json.loads((bundle / "probes" / "predictions.json").read_text())["images"]
    return [probe["predicted"] for probe in sorted(probes, key=lambda probe: str(probe["file"]))]


def asked(capsys: pytest.CaptureFixture[str], *call: str) -> Any:
    """Return the JSON that a command prints in this process; its workers and trainers are others."""
    assert main.main([*call, "--json"]) == 0
    return json.loads(capsys.readouterr().out)
