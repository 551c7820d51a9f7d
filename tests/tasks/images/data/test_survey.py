"""The survey and the study file of `tuner init`."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from ruamel.yaml import YAML

from tests.tasks.images.data.conftest import noise
from tuner import errors
from tuner.spec import study as spec_study
from tuner.tasks.images.data import dataset, survey


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
        "sizes: 12 x 10 to 30 x 40 pixels, median 12 x 10",
        "unreadable: 1 image; repair or remove them before the study:",
        f"  {photos}/dog/broken.jpg: the file is empty",
        "ignored because of their names: 1 file",
        "in the same split as their originals: 1 copy of other images",
    ]


def test_a_folder_without_readable_images_can_be_surveyed(photos: Path) -> None:
    for path in photos.rglob("*.png"):
        path.write_bytes(b"")
    seen = survey.survey(photos)
    assert seen.num_images == 0
    assert not seen.is_usable
    assert len(survey.summarize(seen)) == 10


def test_the_smallest_of_many_classes_is_named() -> None:
    classes = tuple((f"class {number:02}", 100 - number) for number in range(30))
    seen = replace(SEEN, classes=classes)
    assert survey.summarize(seen)[-2] == "  … and 10 more classes, the smallest class 29 with 71"


def test_a_folder_that_cannot_be_surveyed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.DataError, match="there is no such folder"):
        survey.survey(tmp_path / "none")


SEEN = survey.Survey(
    path=Path("/photos"),
    classes=(("cat", 500), ("dog", 400)),
    sizes=((90, 80), (640, 480), (4000, 3000)),
    elongation=1.33,
    unreadable=(),
    has_splits=False,
    notes=(),
)


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
    text = survey.study_file("photos", replace(SEEN, has_splits=True), Path("elsewhere"))
    assert "the validation and test sub-folders of the folder take precedence" in text
    assert str(Path("elsewhere").absolute()) in text
    assert text.count("#") >= 8


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
