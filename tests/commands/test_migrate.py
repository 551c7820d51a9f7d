"""`tuner migrate`: what it prints, what it creates once, and which images it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import databases
from tests.studies import by_hand
from tuner.cli import main
from tuner.queue import admission
from tuner.report import content, page
from tuner.spec import file as study_file
from tuner.spec.study import images_of
from tuner.storage import engine as storages
from tuner.storage import tables
from tuner.storage.attributes import PREPARED, SPEC
from tuner.studies import study as studies
from tuner.studies.study import Study
from tuner.tasks.images.data import dataset

STUDY: dict[str, Any] = {
    "name": "pets",
    "training": by_hand.SHORT,
    "sampler": "random",
    "search": {"dropout": [0, 0.5]},
    "budget": {"trials": 6},
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Write twelve images of each of two classes."""
    noise = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(12):
            pixels = noise.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return databases.sqlite(tmp_path)


@pytest.fixture
def pets(url: str, photos: Path, tmp_path: Path) -> Study:
    """Give a study with three completed trials on these images."""
    spec = images_of(study_file.parse(STUDY | {"data": {"source": "folder", "path": str(photos)}}, "pets.yaml"))
    study = studies.join(spec, storages.open(url))
    opened = admission.require_usable(spec, tmp_path / "cache")
    assert opened is not None
    data, parts = opened
    found = by_hand.PREPARED.model_copy(update={"fingerprint": dataset.fingerprint(data), "splits": parts.digest})
    prepared = {PREPARED: found.model_dump(mode="json")}
    study.storage.write(lambda connection: tables.put(connection, tables.STUDY_USER, study.id, prepared))
    for value in (0.5, 0.6, 0.7):
        by_hand.finish(study, by_hand.must_claim(study), value)
    return study


def written(folder: Path, photos: Path, **sections: Any) -> Path:
    file = folder / "new.yaml"
    spec = STUDY | {"data": {"source": "folder", "path": str(photos)}, "search": {"dropout": [0, 0.7]}} | sections
    file.write_text(json.dumps(spec), encoding="utf-8")
    return file


def migrate(tmp_path: Path, url: str, file: Path, *more: str) -> int:
    return main.main(["migrate", "pets", str(file), "--storage", url, "--cache", str(tmp_path / "cache"), *more])


def test_a_file_with_the_old_name_creates_one_study_with_the_suffix_v2(
    pets: Study, photos: Path, tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, photos)
    assert migrate(tmp_path, url, file) == 0
    said = capsys.readouterr().out
    assert "pets-v2: 3 of 3 trials of pets are copied. pets does not change." in said
    assert "search.dropout: [0, 0.5] -> [0, 0.7]" in said
    assert "write `name: pets-v2` into the file" in said
    assert migrate(tmp_path, url, file) == 0
    assert "(by an earlier command)" in capsys.readouterr().out
    assert studies.names(pets.storage) == ["pets-v2", "pets"]
    assert migrate(tmp_path, url, written(tmp_path, photos, search={"dropout": [0, 0.8]})) == 0
    assert studies.names(pets.storage) == ["pets-v3", "pets-v2", "pets"]


def test_a_migration_is_printed_as_json_and_shown_by_status_and_report(
    pets: Study, photos: Path, tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, photos, name="cats")
    assert migrate(tmp_path, url, file, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["study"], said["from"], said["num_carried"], said["left"]) == ("cats", "pets", 3, [])
    assert main.main(["status", "cats", "--storage", url]) == 0
    assert "3 of them copied from pets" in capsys.readouterr().out
    cats = studies.load("cats", pets.storage)
    for text in (page.html(content.read(cats)), page.markdown(content.read(cats))):
        assert "3 of 3 trials of pets; changed: search.dropout" in text.replace("\\", "")


@pytest.mark.parametrize(("change", "said"), [("other images", "images and labels here"), ("other splits", "splits here")])
def test_other_images_or_splits_are_refused_and_nothing_is_written(
    pets: Study, photos: Path, tmp_path: Path, url: str, change: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if change == "other images":
        Image.new("RGB", (8, 8), "red").save(photos / "cat" / "0.png")
    else:  # as if an older version had split them
        prepared = by_hand.PREPARED.model_dump(mode="json")
        stored = pets.storage.read(lambda connection: tables.get(connection, tables.STUDY_USER, pets.id, PREPARED))
        changed = {PREPARED: stored[PREPARED] | {"splits": prepared["splits"]}}
        pets.storage.write(lambda connection: tables.put(connection, tables.STUDY_USER, pets.id, changed))
    assert migrate(tmp_path, url, written(tmp_path, photos, name="cats")) == 2
    assert said in capsys.readouterr().err
    assert studies.names(pets.storage) == ["pets"]


def test_the_name_of_another_study_is_refused(
    pets: Study, photos: Path, tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    studies.join(by_hand.spec(name="cats"), pets.storage)
    assert migrate(tmp_path, url, written(tmp_path, photos, name="cats")) == 2
    assert "choose a different name in the file" in capsys.readouterr().err


def test_a_migrated_study_keeps_its_order_of_classes(
    pets: Study, photos: Path, tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(connection: Any) -> None:
        stored = json.loads(tables.get(connection, tables.STUDY_USER, pets.id, SPEC)[SPEC])
        del stored["data"]["class_order"]
        tables.put(connection, tables.STUDY_USER, pets.id, {SPEC: json.dumps(stored)})

    pets.storage.write(write)
    assert migrate(tmp_path, url, written(tmp_path, photos)) == 0
    assert studies.load("pets-v2", pets.storage).images.data.class_order == "earlier"  # type: ignore[union-attr]
