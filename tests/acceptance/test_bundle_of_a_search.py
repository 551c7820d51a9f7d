"""A model from a search to a bundle, and the same model again from the bundle's study file, by real processes."""

import json
from typing import Any

import pytest

from tests.acceptance.conftest import Place
from tuner.results import best as bests
from tuner.results.bundle import manifest
from tuner.storage import engine as storages
from tuner.storage import epochs
from tuner.studies import study as studies

TINY: dict[str, Any] = {
    "data": {"source": "digits", "train": 64, "validation": 40, "test": 40},
    "model": {"backbone": ["squeezenet1_1", "efficientnet_lite0"], "image_size": [32, 48]},
    "training": {"probe_epochs": 2, "epochs": 1},
    "budget": {"trials": 1},
}


def curve(place: Place, name: str) -> list[tuple[float | None, float | None]]:
    storage = storages.open(f"sqlite:///{place.folder / 'tuner.db'}")
    study = studies.load(name, storage)
    assert bests.best(study).trial == 0
    found = storage.read(lambda connection: epochs.read(connection, study.id, 0))
    storage.engine.dispose()
    return [(epoch.loss, epoch.validation_loss) for epoch in found]


@pytest.mark.timeout(600)
def test_a_bundle_is_complete_and_its_study_file_gives_the_same_model(place: Place) -> None:
    place.write(**TINY)
    for call in (["run", "study.yaml", "--no-export"], ["export", "study", "--to", "home"], ["run", "home/config.yaml", "--no-export"]):
        command = place.real_tuner(*call)
        code, _ = command.end()
        assert code == 0, command.lines
    assert manifest.check(place.folder / "home") == []
    [row] = json.loads((place.folder / "home" / "formats.json").read_text())
    assert (row["label_agreement"], row["images_compared"]) == (1.0, 40)
    assert curve(place, "study-trial-0") == curve(place, "study")
