"""Ten thousand classes: the time grows with images plus classes, and no screen prints a row for each class."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.studies import by_hand
from tests.terminal.test_plan import printed
from tuner import errors
from tuner.spec import study
from tuner.tasks.images.data import dataset, image_file, in_memory, listings, manifests, splits, survey
from tuner.terminal import plan

NUM = 10_000


@pytest.fixture(scope="module")
def large() -> dataset.Dataset:
    """Four different images of each of ten thousand classes."""
    labels = np.repeat(np.arange(NUM), 4)
    return dataset.Dataset(
        classes=tuple(f"class {number}" for number in range(NUM)),
        labels=labels,
        digests=np.array([f"{row:032}" for row in range(len(labels))], "S32"),
        sizes=np.ones((len(labels), 2), np.int32),
        images=image_file.FileImages(tuple(f"{row}.png" for row in range(len(labels)))),
    )


@pytest.fixture(scope="module")
def parts(large: dataset.Dataset) -> splits.Splits:
    return splits.split(large, by_hand.spec(data={"source": "folder", "path": "/photos", "validation": 0.25, "test": 0.25}).data, 0)


def test_the_split_of_many_classes_counts_no_class_for_each_image(large: dataset.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    counted, bincount = [], np.bincount

    def counting(*given: Any, **options: Any) -> NDArray[Any]:
        found = bincount(*given, **options)
        counted.append(len(found))
        return found

    monkeypatch.setattr(np, "bincount", counting)
    splits.split(large, by_hand.spec(data={"source": "folder", "path": "/photos"}).data, 0)
    assert sum(counted) < 10 * (len(large) + NUM)


def test_every_class_has_its_share_of_each_split(parts: splits.Splits) -> None:
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (2 * NUM, NUM, NUM)


def test_a_screen_shows_some_classes_and_counts_the_others(large: dataset.Dataset, parts: splits.Splits) -> None:
    lines = printed(plan.images(large, parts)).splitlines()
    assert len(lines) == 24
    assert lines[21].split() == ["…", "9980", "more", "19,960", "9,980", "9,980"]


def test_a_survey_shows_some_classes_and_counts_the_others() -> None:
    seen = survey.Survey(
        path=Path("/photos"),
        classes=tuple((f"class {number}", 4) for number in range(NUM)),
        sizes=(),
        elongation=1.0,
        unreadable=(),
        notes=(),
    )
    lines = survey.summarize(seen)
    assert len(lines) == 23
    assert lines[0] == "/photos: 40,000 images in 10000 classes"


def test_messages_name_some_classes_only() -> None:
    names = [f"class {number}" for number in range(NUM)]
    pixels, labels = np.zeros((NUM, 1, 1), np.uint8), np.arange(NUM)
    for given, said in ((["same"] * NUM, "has two classes with the same name, same. Rename"), (names[:1], "class")):
        with pytest.raises(errors.DataError, match=said) as caught:
            in_memory.from_arrays(pixels[: len(given)], labels[: len(given)], given)
        assert len(str(caught.value)) < 200
    with pytest.raises(errors.DataError, match="and 9995 more") as caught:
        dataset.check_classes(names + names, np.zeros(1, np.int64), origin="photos")
    assert len(str(caught.value)) < 200


def test_many_empty_classes_are_named_in_part(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number:03}").mkdir()
    (tmp_path / "000" / "a.png").write_bytes(b"")
    with pytest.raises(errors.DataError, match="no images in the sub-folder 001, 002, 003, 004, 005 and 294 more; add images"):
        listings.list_folder(tmp_path)


def test_frames_with_equal_names_in_many_folders_are_not_all_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"clip_{clip}/{frame:03}.png" for clip in range(40) for frame in range(20)]
    for name in names:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *(f"{name},{row % 2}" for row, name in enumerate(names))]))
    compared, nfc = [], dataset.nfc

    def comparing(name: str) -> str:
        compared.append(name)
        return nfc(name)

    monkeypatch.setattr(dataset, "nfc", comparing)
    found = manifests.list_manifest(study.ManifestData(source="manifest", path=tmp_path / "t.csv"))
    assert found.paths == tuple(f"{tmp_path}/data/{name}" for name in names)
    assert len(compared) < 20 * len(names)
