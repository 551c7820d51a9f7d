"""Listings of image files in folders, good and bad."""

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.tasks.images.data.conftest import noise
from tuner import errors
from tuner.spec import study
from tuner.tasks.images.data import dataset, listings, sources


def put(path: Path, number: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(number)).save(path)


def test_each_sub_folder_is_a_class(photos: Path, tmp_path: Path) -> None:
    data = listings.read(listings.list_folder(photos), cache=tmp_path / "cache")
    assert data.classes == ("cat", "dog")
    assert data.counts.tolist() == [4, 4]
    assert data.sizes.tolist() == [[12, 10]] * 8
    assert (data.read(0) == noise(1)).all()
    assert data.name(0) == str(photos / "cat" / "1.png")
    assert dataset.notes(data) == []


def test_images_in_folders_of_a_class_belong_to_it(photos: Path) -> None:
    put(photos / "cat" / "2024" / "may" / "a.JPG")
    assert listings.list_folder(photos).labels.count(0) == 5


def test_hidden_files_are_skipped_and_other_files_are_counted(photos: Path) -> None:
    put(photos / "cat" / ".thumbnail.png")
    put(photos / ".trash" / "a.png")
    put(photos / "__MACOSX" / "cat" / "a.png")
    (photos / "cat" / "notes.txt").write_text("mine")
    (photos / "labels.csv").write_text("path")
    found = listings.list_folder(photos)
    assert found.classes == ("cat", "dog")
    assert len(found.paths) == 8
    assert found.ignored == {".txt": 1, ".csv": 1}


def test_circular_links_are_followed_once(photos: Path) -> None:
    (photos / "cat" / "again").symlink_to(photos / "cat", target_is_directory=True)
    (photos / "dog" / "self").symlink_to("self")
    (photos / "dog" / "self.png").symlink_to("self.png")
    assert [path for path in listings.list_folder(photos).paths if str(path).endswith("self.png")] == [str(photos / "dog" / "self.png")]
    assert len(listings.list_folder(photos).paths) == 9


def test_a_linked_folder_is_a_class(photos: Path, tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "a.png", 99)
    (photos / "cow").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert listings.list_folder(photos).classes == ("cat", "cow", "dog")


def test_a_pipe_that_is_named_like_an_image_is_not_opened(photos: Path) -> None:
    os.mkfifo(photos / "cat" / "pipe.png")
    assert listings.list_folder(photos).ignored == {".png": 1}


def test_a_table_beside_the_folders_is_named_because_it_may_have_the_labels(photos: Path) -> None:
    assert listings.list_folder(photos).remarks == ()
    (photos / "labels.csv").write_text("image,label")
    assert listings.list_folder(photos).remarks == (f"{photos} has the table labels.csv: if it has the labels, use data.source: manifest",)
    (photos / "TRAIN.PARQUET").write_text("")
    assert "TRAIN.PARQUET and 1 more: if it has" in dataset.notes(listings.inspect(listings.list_folder(photos), cache=None))[0]


def table_alone(path: Path) -> None:
    path.mkdir()
    (path / "train-00000-of-00001.parquet").write_text("")


def nothing(path: Path) -> None:
    """Create nothing at the path."""


def loose_images(path: Path) -> None:
    put(path / "a.png")
    put(path / "b.png")


def one_class(path: Path) -> None:
    put(path / "flowers" / "rose" / "a.png")


def no_images(path: Path) -> None:
    for name in ("cat", "dog"):
        (path / name).mkdir(parents=True)
        (path / name / "a.txt").write_text("")


def empty_class(path: Path) -> None:
    no_images(path)
    put(path / "cow" / "a.png")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (nothing, "there is no such folder; check data.path"),
        (lambda path: path.write_text(""), "is a file; expected one sub-folder for each class"),
        (lambda path: path.mkdir(), "has no sub-folders; expected one sub-folder for each class"),
        (loose_images, "has no sub-folders, but 2 images directly inside it"),
        (table_alone, "has the table train-00000-of-00001.parquet: if it has the labels, use data.source: manifest"),
        (one_class, "has only one class, flowers"),
        (one_class, "If flowers contains the classes, set data.path to it"),
        (no_images, "has no images in its 2 sub-folders, but other files (2 .txt); expected files that end in bmp, gif,"),
        (empty_class, "has no images in the sub-folder cat, dog, but other files (2 .txt); add images, or move the sub-folder away"),
        (empty_class, "If cow contains the classes, set data.path to it"),
    ],
)
def test_a_folder_without_two_classes_of_images_is_refused(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    path = tmp_path / "photos"
    make(path)
    with pytest.raises(errors.DataError) as caught:
        listings.list_folder(path)
    assert str(caught.value).startswith((f"{path} ", f"{path}: "))
    assert message in str(caught.value)


def test_up_to_one_percent_of_unreadable_images_are_left_out_and_reported(many: Path) -> None:
    for name in ("cat/001.bmp", "dog/000.bmp"):
        (many / name).write_bytes(b"")
    data = listings.read(listings.list_folder(many), cache=None)
    assert len(data) == 198
    assert [(Path(image.path).name, image.reason) for image in data.unreadable] == [
        ("001.bmp", "the file is empty"),
        ("000.bmp", "the file is empty"),
    ]


def test_more_than_one_percent_of_unreadable_images_are_refused(many: Path) -> None:
    for number in range(0, 20, 2):
        (many / "dog" / f"{number:03}.bmp").write_bytes(b"BM")
    with pytest.raises(errors.DataError) as caught:
        listings.read(listings.list_folder(many), cache=None)
    first, *lines = str(caught.value).splitlines()
    assert first == f"{many}: 10 of 200 images cannot be read, more than 1%. Repair or remove them:"
    assert lines[0] == f"  {many}/dog/000.bmp: it is not a JPEG, PNG, WebP, BMP, GIF or TIFF image"
    assert lines[5:] == ["  … and 5 more"]


def test_a_class_whose_only_image_is_unreadable_is_refused(many: Path) -> None:
    (many / "cow").mkdir()
    (many / "cow" / "a.png").write_bytes(b"")
    with pytest.raises(errors.DataError, match="1 of 201 images cannot be read, so cow would have no images"):
        listings.read(listings.list_folder(many), cache=None)


def test_folders_have_the_order_of_numbers_and_studies_of_earlier_versions_keep_theirs(tmp_path: Path) -> None:
    for number in range(12):
        put(tmp_path / str(number) / "a.png", number)
    now, before = listings.list_folder(tmp_path), listings.list_folder(tmp_path, class_order="earlier")
    assert now.classes == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11")
    assert before.classes == ("0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9")
    assert [now.classes[label] for label in now.labels] == [Path(str(path)).parent.name for path in now.paths]
    assert [before.classes[label] for label in before.labels] == [Path(str(path)).parent.name for path in before.paths]


def test_a_folder_and_a_table_of_it_are_the_same_images(tmp_path: Path) -> None:
    rows = ["path,label"]
    for number in range(12):
        put(tmp_path / "photos" / f"Löwe {number}" / "a.png", number)
        rows.append(unicodedata.normalize("NFD", f"photos/Löwe {number}/a.png,Löwe {number}"))
    (tmp_path / "t.csv").write_text("\n".join(rows))
    folder = study.FolderData(source="folder", path=tmp_path / "photos")
    table = study.ManifestData(source="manifest", path=tmp_path / "t.csv")
    one, other = (sources.open(data, cache=tmp_path / "cache") for data in (folder, table))
    assert one.classes == other.classes
    assert dataset.fingerprint(one) == dataset.fingerprint(other)


@pytest.mark.parametrize("places", [("Löwe", "Löwe"), ("train/Löwe", "test/Löwe")])
def test_folders_of_one_name_in_nfc_and_nfd_are_one_class(tmp_path: Path, places: tuple[str, str]) -> None:
    spelled = [unicodedata.normalize("NFC", places[0]), unicodedata.normalize("NFD", places[1])]
    for number, place in enumerate(spelled):
        put(tmp_path / place / f"{number}.png", number)
        put(tmp_path / Path(place).parent / "ant" / f"{number}.png", 2 + number)
    found = listings.list_folder(tmp_path)
    assert found.classes == ("L\u00f6we", "ant")
    assert sorted(found.labels) == [0, 0, 1, 1]


def test_folders_whose_names_cannot_be_decoded_are_not_taken_for_one(tmp_path: Path) -> None:
    for name in (b"L\xf6we", b"L\xe4we"):
        put(tmp_path / os.fsdecode(name) / "a.png")
    with pytest.raises(errors.DataError, match="two classes with the same name"):
        listings.read(listings.list_folder(tmp_path), cache=None)


def test_a_pattern_finds_the_group_in_the_path_below_the_folder(tmp_path: Path) -> None:
    root = tmp_path / "patient_99"  # not part of the path below the folder
    for number, place in enumerate(["cat/patient_1/a.png", "cat/patient_2_b.png", "dog/patient_1_c.png", "dog/x/patient_2.png"]):
        put(root / place, number)
    data = sources.open(study.FolderData(source="folder", path=root, group_pattern=r"(patient_\d+)"), cache=tmp_path / "cache")
    assert data.groups is not None
    assert data.groups.tolist() == [0, 1, 0, 1]
    by_class = sources.open(study.FolderData(source="folder", path=root, group_pattern=r"^(\w+)/.*patient_(\d)"), cache=tmp_path / "cache")
    assert by_class.groups is not None
    assert by_class.groups.tolist() == [0, 1, 2, 3]


def test_a_path_without_a_group_is_refused_by_name(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.DataError) as caught:
        sources.open(study.FolderData(source="folder", path=photos, group_pattern=r"cat/(\d)"), cache=tmp_path / "cache")
    assert str(caught.value) == (
        rf"{photos}: data.group_pattern cat/(\d) does not match 4 paths of 8, first dog/0.png; expected a match in the path of every image"
    )


def test_unreadable_images_have_no_group(many: Path) -> None:
    (many / "cat" / "001.bmp").write_bytes(b"")
    data = listings.read(listings.list_folder(many, group_pattern=r"(\d\d)\d\.bmp"), cache=None)
    assert data.groups is not None
    assert len(data.groups) == len(data) == 199
