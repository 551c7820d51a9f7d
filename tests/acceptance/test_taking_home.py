"""The road from a search to a model that others can use, as a user types it, with trainers that train."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Place

TINY = {
    "data": {"source": "digits", "train": 64, "validation": 40, "test": 40},
    "model": {"backbone": "squeezenet1_1", "image_size": 32},
    "training": {"probe_epochs": 2, "epochs": 0},
    "budget": {"trials": 1},
}


@pytest.mark.timeout(600)
def test_a_search_becomes_a_version_in_production_and_a_model_that_predicts(place: Place) -> None:
    place.write(**TINY)
    said(place, "run", "study.yaml")
    retrained = told(place, "retrain", "study", "--top", "1", "--seeds", "2", "--json")

    (version,) = told(place, "versions", "study", "--json")
    assert (version["version"], version["origin"], version["stages"]) == (1, "retraining", [])
    assert version["test_accuracy"] == retrained["test_accuracy"]
    assert [reading["num_images"] for reading in version["readings"]] == [40]
    assert said(place, "promote", "study", "1", "--to", "production") == "study 1 is in production.\n"

    said(place, "export", "study", "--version", "1", "--to", "bundle")
    bundle = place.folder / "bundle"
    assert json.loads((bundle / "metrics.json").read_text())["test_accuracy"] == version["test_accuracy"]
    predicted = told(place, "predict", "bundle", "bundle/probes", "--json")
    assert [each["predictions"][0]["label"] for each in predicted] == recorded(bundle)

    assert told(place, "versions", "study", "--json")[0]["stages"] == ["production"]


def recorded(bundle: Path) -> list[str]:
    """What the bundle says that its model makes of its probes, by file."""
    probes = json.loads((bundle / "probes" / "predictions.json").read_text())
    return [probe["predicted"] for probe in sorted(probes["images"], key=lambda probe: str(probe["file"]))]


def said(place: Place, *call: str) -> str:
    command = place.real_tuner(*call)
    code, out = command.end()
    assert code == 0, command.lines
    return out


def told(place: Place, *call: str) -> Any:
    return json.loads(said(place, *call))
