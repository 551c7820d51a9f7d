"""The survey and the study file of `tuner init`."""

import dataclasses
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from tests.tasks.images.data.conftest import noise
from tuner import errors
from tuner.spec import study as spec_study
from tuner.tasks.images.data import dataset, sources, splits, survey


def test_a_survey_says_what_lies_in_the_folder(photos: Path) -> None:
    Image.fromarray(noise(9, width=30, height=40)).save(photos / "cat" / "large.png")
    Image.fromarray(noise(1)).save(photos / "cat" / "copy.png")
    (photos / "cat" / "readme.txt").write_text("mine")
    (photos / "dog" / "broken.jpg").write_bytes(b"")
    seen = survey.survey(photos)
    assert survey.summarize(seen) == [
        f"{photos}: 10 images in 2 classes",
        "  cat  6",
        "  dog  4",
        "always the commonest class, cat: accuracy 0.6000 on all images",
        "sizes: 12 x 10 to 30 x 40 pixels, median 12 x 10",
        "unreadable: 1 image; repair or remove them before the study:",
        f"  {photos}/dog/broken.jpg: the file is empty",
        "ignored because of their names: 1 file (1 .txt)",
        "in the same split as their originals: 1 copy of other images",
    ]


def test_a_folder_without_readable_images_can_be_surveyed(photos: Path) -> None:
    for path in photos.rglob("*.png"):
        path.write_bytes(b"")
    seen = survey.survey(photos)
    assert seen.num_images == 0
    assert not seen.is_usable
    assert len(survey.summarize(seen)) == 11


def test_the_smallest_of_many_classes_is_named() -> None:
    classes = tuple((f"class {number:02}", 100 - number) for number in range(30))
    seen = replace(SEEN, classes=classes)
    assert survey.summarize(seen)[-3] == "  … and 10 more classes, the smallest class 29 with 71"


def test_a_folder_that_cannot_be_surveyed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.DataError, match="there is no such folder"):
        survey.survey(tmp_path / "none")


SEEN = survey.Survey(
    path=Path("/photos"),
    classes=(("cat", 500), ("dog", 400)),
    sizes=((90, 80), (640, 480), (4000, 3000)),
    elongation=1.33,
    unreadable=(),
    notes=(),
)


def test_a_name_with_a_line_end_stays_on_its_line() -> None:
    seen = dataclasses.replace(SEEN, classes=(("a\nb", 500), ("Bird [adult]", 400)))
    lines = survey.summarize(seen)
    assert lines[1:3] == [r"  a\nb          500", "  Bird [adult]  400"]
    assert all("\n" not in line for line in lines)


def read(text: str) -> spec_study.StudySpec:
    return spec_study.StudySpec.model_validate(YAML(typ="safe").load(text))


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (SEEN, {"image_size": 160, "resize": "stretch", "trials": 60, "timeout": 7200, "share": 0.15}),
        (replace(SEEN, classes=(("a", 4000), ("b", 4000))), {"trials": 40, "timeout": 21600}),
        (replace(SEEN, classes=(("a", 40000), ("b", 40000))), {"trials": 30, "timeout": 86400, "share": 0.1}),
        (replace(SEEN, sizes=((8, 8), (32, 32), (64, 64))), {"image_size": 96}),  # small images
        (replace(SEEN, sizes=((8, 8), (200, 128), (64, 64))), {"image_size": 128}),
        (replace(SEEN, elongation=2.0), {"resize": "pad"}),
        (replace(SEEN, unreadable=(dataset.Unreadable(path="a", reason="b"),), sizes=()), {"image_size": 96}),
    ],
)
def test_the_study_file_suits_the_surveyed_images(seen: survey.Survey, expected: dict[str, object]) -> None:
    study = read(survey.study_file("my_photos", seen))
    found = {
        "image_size": study.model.image_size,
        "resize": study.model.resize,
        "trials": study.budget.trials,
        "timeout": study.budget.timeout,
        "share": study.data.test,
    }
    assert study.name == "my_photos"
    assert isinstance(study.data, spec_study.FolderData)
    assert study.data.path == Path("/photos")
    assert found | expected == found


def test_class_weights_are_searched_for_imbalanced_classes() -> None:
    text = survey.study_file("my_photos", replace(SEEN, classes=(("a", 900), ("b", 90))))
    assert "the largest class has 10 times as many images as the smallest" in text
    assert read(text).search.class_weights != read(survey.study_file("my_photos", SEEN)).search.class_weights


@pytest.mark.parametrize("name", ['with "quotes"', "with: colon # and hash", "café 写真", "back\\slash", "{brace}", "- dash"])
def test_a_path_of_any_name_is_read_back(tmp_path: Path, name: str) -> None:
    study = read(survey.study_file("photos", replace(SEEN, path=tmp_path / name)))
    assert isinstance(study.data, spec_study.FolderData)
    assert study.data.path == tmp_path / name


def test_every_line_of_the_study_file_is_explained() -> None:
    text = survey.study_file("photos", replace(SEEN, own_splits=("validation", "test")), Path("elsewhere"))
    assert "the validation and test sub-folders of the folder are official splits" in text
    assert str(Path("elsewhere").absolute()) in text
    assert text.count("#") >= 7
    assert "  validation:" not in text
    assert survey.study_file("photos", SEEN).count("#") >= 7


def test_a_validation_folder_that_is_too_small_is_drawn_from_the_training_images(tmp_path: Path) -> None:
    for number in range(220):
        split = "val" if number < 4 else "test" if number < 20 else "train"
        path = tmp_path / split / ("ill" if number % 2 else "well") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(number)).save(path)
    seen = survey.survey(tmp_path)
    assert seen.warnings == (
        "validation has only 4 images: accuracy moves in steps of 25 points, too coarse to choose the best trial. "
        "The study file draws validation images from the training images instead: validation_from: train",
        "validation has only 33 images: accuracy moves in steps of 3 points, too coarse to choose the best trial; "
        "raise data.validation, or add images",
    )
    data = read(survey.study_file("photos", seen)).data
    assert (data.validation_from, data.validation, data.model_fields_set) == (
        "train", 0.15, {"source", "path", "validation", "validation_from"},
    )  # fmt: skip


def test_a_survey_names_what_the_commonest_class_scores(photos: Path) -> None:
    for number in range(20, 32):
        Image.fromarray(noise(number)).save(photos / "dog" / f"{number}.png")
    assert "always the commonest class, dog: accuracy 0.8000 on all images" in survey.summarize(survey.survey(photos))


def test_an_existing_study_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "studies" / "photos.yaml"
    survey.write_new("new", path)
    with pytest.raises(errors.RequestError, match=r"photos\.yaml already exists; choose another name, or remove the file"):
        survey.write_new("newer", path)
    assert path.read_text() == "new"


def test_a_folder_without_write_permission_is_reported_by_name(tmp_path: Path) -> None:
    (tmp_path / "studies").write_text("a file")
    with pytest.raises(errors.RequestError, match=r"studies/photos\.yaml (already exists|cannot be written)"):
        survey.write_new("new", tmp_path / "studies" / "photos.yaml")


def smooth(seed: int, *, size: int = 64) -> np.ndarray:
    """Return an image with shapes, as photos have."""
    small = Image.fromarray(noise(seed, width=8, height=8))
    return np.asarray(small.resize((size, size), Image.Resampling.BICUBIC))


def bursts(root: Path, *, num_scenes: int = 12, size: int = 64) -> Path:
    """Write four photos of each scene: as it is, brighter, a pixel further, and as a JPEG file of low quality."""
    for scene in range(num_scenes):
        pixels = smooth(scene, size=size)
        folder = root / ("cat" if scene % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"scene{scene:02}_0.png")
        Image.fromarray((pixels * 0.9).astype(np.uint8)).save(folder / f"scene{scene:02}_1.png")
        Image.fromarray(np.roll(pixels, 1, axis=1)).save(folder / f"scene{scene:02}_2.png")
        Image.fromarray(pixels).save(folder / f"scene{scene:02}_3.jpg", quality=30)
    return root


def warned(data: spec_study.FolderData, cache: Path) -> list[str]:
    found = sources.open(data, cache=cache)
    lines = survey.warnings(found, splits.split(found, data, 0), data, cache=cache)
    return [line for line in lines if line.startswith("almost the same")]


def test_near_duplicates_in_two_splits_are_reported_with_examples_until_they_are_grouped(tmp_path: Path) -> None:
    root = bursts(tmp_path / "photos")
    data = spec_study.FolderData(source="folder", path=root)
    (line,) = warned(data, tmp_path / "cache")
    assert line.startswith("almost the same in two splits: ")
    assert re.search(r"for example (\S+scene\d\d)_\d\.\w+ and \1_\d\.\w+; ", line)
    assert "set data.group_pattern to a regular expression" in line
    assert warned(data.model_copy(update={"group_pattern": r"(scene\d+)"}), tmp_path / "cache") == []
    assert any(line.startswith("almost the same in two splits") for line in survey.survey(root).warnings)


def test_different_images_are_not_near_duplicates(photos: Path, tmp_path: Path) -> None:
    for number in range(40):
        Image.fromarray(smooth(number)).save(photos / ("cat" if number % 2 else "dog") / f"smooth{number}.png")
        Image.fromarray(np.full((40, 40, 3), number * 5, np.uint8)).save(photos / "cat" / f"plain{number}.png")
    assert warned(spec_study.FolderData(source="folder", path=photos), tmp_path / "cache") == []


def test_photos_of_the_same_kind_of_part_are_not_near_duplicates(tmp_path: Path) -> None:
    part = smooth(0).astype(float)
    for number in range(60):
        path = tmp_path / "parts" / ("ok" if number % 2 else "crack") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((part * 0.8 + smooth(number + 1) * 0.2).astype(np.uint8)).save(path)
    data = spec_study.FolderData(source="folder", path=tmp_path / "parts")
    assert warned(data, tmp_path / "cache") == []
    for path in sorted((tmp_path / "parts" / "ok").iterdir()):
        Image.open(path).save(path.with_suffix(".jpg"), quality=95)
    (line,) = warned(data, tmp_path / "cache")
    assert re.search(r"for example (\S+/\d+)\.\w+ and \1\.\w+; ", line)


@pytest.mark.parametrize(("second", "is_noted"), [(24, True), (6, False)])  # a smaller page is a preview
def test_tiff_files_with_several_pages_are_noted(tmp_path: Path, second: int, is_noted: bool) -> None:
    root = bursts(tmp_path / "photos", num_scenes=4, size=24)
    for number, place in enumerate(["cat", "dog"]):
        more = [Image.fromarray(noise(5, width=second, height=second))]
        Image.fromarray(noise(number, width=24, height=24)).save(root / place / "stack.tif", save_all=True, append_images=more)
    data = spec_study.FolderData(source="folder", path=root)
    found = sources.open(data, cache=tmp_path / "cache")
    lines = [one for one in survey.warnings(found, splits.split(found, data, 0), data, cache=tmp_path / "cache") if "page" in one]
    assert len(lines) == is_noted
    said = f"only the first page is read: 2 of 2 TIFF files have several pages, first {root}/cat/stack.tif."
    assert all(line.startswith(said) for line in lines)
    assert [line for line in survey.summarize(survey.survey(root)) if "page" in line] == lines
