"""Folders of images, good and bad."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.tasks.images.data.conftest import noise
from tuner import errors
from tuner.tasks.images.data import dataset, folder


def put(path: Path, number: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(number)).save(path)


def test_each_sub_folder_is_a_class(photos: Path, tmp_path: Path) -> None:
    data = folder.read(folder.find(photos), cache=tmp_path / "cache")
    assert data.classes == ("cat", "dog")
    assert data.counts.tolist() == [4, 4]
    assert data.sizes.tolist() == [[12, 10]] * 8
    assert (data.read(0) == noise(1)).all()
    assert data.name(0) == str(photos / "cat" / "1.png")
    assert dataset.notes(data) == []


def test_images_in_folders_of_a_class_belong_to_it(photos: Path) -> None:
    put(photos / "cat" / "2024" / "may" / "a.JPG")
    assert folder.find(photos).labels.count(0) == 5


def test_what_is_hidden_or_no_image_is_left_alone_and_counted(photos: Path) -> None:
    put(photos / "cat" / ".thumbnail.png")
    put(photos / ".trash" / "a.png")
    put(photos / "__MACOSX" / "cat" / "a.png")
    (photos / "cat" / "notes.txt").write_text("mine")
    (photos / "labels.csv").write_text("path")
    found = folder.find(photos)
    assert found.classes == ("cat", "dog")
    assert len(found.paths) == 8
    assert found.num_ignored == 2


def test_links_that_lead_back_are_followed_once(photos: Path) -> None:
    (photos / "cat" / "again").symlink_to(photos / "cat", target_is_directory=True)
    (photos / "dog" / "self").symlink_to("self")
    (photos / "dog" / "self.png").symlink_to("self.png")
    assert [path for path in folder.find(photos).paths if path.endswith("self.png")] == [str(photos / "dog" / "self.png")]
    assert len(folder.find(photos).paths) == 9


def test_a_linked_folder_is_a_class(photos: Path, tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "a.png", 99)
    (photos / "cow").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert folder.find(photos).classes == ("cat", "cow", "dog")


def test_a_pipe_that_is_named_like_an_image_is_not_opened(photos: Path) -> None:
    os.mkfifo(photos / "cat" / "pipe.png")
    assert folder.find(photos).num_ignored == 1


def test_folders_named_train_and_test_are_splits_and_not_classes(tmp_path: Path) -> None:
    for number, place in enumerate(["Train/cat", "Train/dog", "val/cat", "test/dog"]):
        put(tmp_path / place / "a.png", number)
    found = folder.find(tmp_path)
    assert found.classes == ("cat", "dog")
    assert list(zip(found.labels, found.official or (), strict=True)) == [
        (0, dataset.TRAIN),
        (0, dataset.VALIDATION),
        (1, dataset.TRAIN),
        (1, dataset.TEST),
    ]


def test_folders_named_train_and_test_without_classes_are_classes(tmp_path: Path) -> None:
    put(tmp_path / "train" / "a.png")
    put(tmp_path / "test" / "a.png")
    assert folder.find(tmp_path).classes == ("test", "train")
    assert folder.find(tmp_path).official is None


def nothing(path: Path) -> None:
    """Leave the path empty-handed."""


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
        (lambda path: path.write_text(""), "this is a file; expected one sub-folder a class"),
        (lambda path: path.mkdir(), "there are no sub-folders; expected one sub-folder a class"),
        (loose_images, "there are no sub-folders, but 2 images lie in the folder itself"),
        (one_class, "there is one class only, flowers"),
        (one_class, "If the classes lie in flowers, name that folder"),
        (no_images, "there are no images in its 2 sub-folders; images are files that end in bmp, gif,"),
        (empty_class, "no images in the sub-folder cat, dog; add images, or move it out of the folder"),
    ],
)
def test_a_folder_without_two_classes_of_images_is_refused(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    path = tmp_path / "photos"
    make(path)
    with pytest.raises(errors.DataError) as caught:
        folder.find(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_up_to_one_per_cent_of_unreadable_images_are_left_out_and_named(many: Path) -> None:
    for name in ("cat/001.bmp", "dog/000.bmp"):
        (many / name).write_bytes(b"")
    data = folder.read(folder.find(many), cache=None)
    assert len(data) == 198
    assert [(Path(image.path).name, image.reason) for image in data.unreadable] == [
        ("001.bmp", "the file is empty"),
        ("000.bmp", "the file is empty"),
    ]


def test_more_than_one_per_cent_of_unreadable_images_are_refused(many: Path) -> None:
    for number in range(0, 20, 2):
        (many / "dog" / f"{number:03}.bmp").write_bytes(b"BM")
    with pytest.raises(errors.DataError) as caught:
        folder.read(folder.find(many), cache=None)
    first, *lines = str(caught.value).splitlines()
    assert first == f"{many}: 10 of 200 images cannot be read, more than 1%. Mend or remove them:"
    assert lines[0] == f"  {many}/dog/000.bmp: it is no jpeg, png, webp, bmp, gif or tiff"
    assert lines[5:] == ["  … and 5 more"]


def test_a_class_whose_only_image_is_unreadable_is_refused(many: Path) -> None:
    (many / "cow").mkdir()
    (many / "cow" / "a.png").write_bytes(b"")
    with pytest.raises(errors.DataError, match="1 of 201 images cannot be read, so cow would have no images"):
        folder.read(folder.find(many), cache=None)
