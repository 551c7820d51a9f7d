"""Listings of image files: folders and manifests, good and bad."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
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
    assert found.num_ignored == 2


def test_circular_links_are_followed_once(photos: Path) -> None:
    (photos / "cat" / "again").symlink_to(photos / "cat", target_is_directory=True)
    (photos / "dog" / "self").symlink_to("self")
    (photos / "dog" / "self.png").symlink_to("self.png")
    assert [path for path in listings.list_folder(photos).paths if path.endswith("self.png")] == [str(photos / "dog" / "self.png")]
    assert len(listings.list_folder(photos).paths) == 9


def test_a_linked_folder_is_a_class(photos: Path, tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "a.png", 99)
    (photos / "cow").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert listings.list_folder(photos).classes == ("cat", "cow", "dog")


def test_a_pipe_that_is_named_like_an_image_is_not_opened(photos: Path) -> None:
    os.mkfifo(photos / "cat" / "pipe.png")
    assert listings.list_folder(photos).num_ignored == 1


def test_folders_named_train_and_test_are_splits_and_not_classes(tmp_path: Path) -> None:
    for number, place in enumerate(["Train/cat", "Train/dog", "val/cat", "test/dog"]):
        put(tmp_path / place / "a.png", number)
    found = listings.list_folder(tmp_path)
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
    assert listings.list_folder(tmp_path).classes == ("test", "train")
    assert listings.list_folder(tmp_path).official is None


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
        (one_class, "has only one class, flowers"),
        (one_class, "If flowers contains the classes, set data.path to it"),
        (no_images, "has no images in its 2 sub-folders; expected files that end in bmp, gif,"),
        (empty_class, "has no images in the sub-folder cat, dog; add images, or move the sub-folder away"),
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


def manifest(path: Path, **more: str | Path) -> study.ManifestData:
    return study.ManifestData.model_validate({"source": "manifest", "path": path, **more})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six images whose labels are only in a table."""
    for number in range(6):
        Image.fromarray(noise(number)).save(tmp_path / f"{number}.png")
    return tmp_path


def rows(*labels: str) -> str:
    return "\n".join(["path,label", *(f"{number}.png,{label}" for number, label in enumerate(labels))])


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet"])
def test_a_table_names_images_and_labels(root: Path, tmp_path: Path, name: str) -> None:
    table = pd.DataFrame({"path": [f"{number}.png" for number in range(6)], "label": list("abcabc")})
    path = root / name
    if name.endswith("parquet"):
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="\t" if name.endswith("tsv") else ",")
    data = sources.open(manifest(path), cache=tmp_path / "cache")
    assert data.classes == ("a", "b", "c")
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert (data.read(3) == noise(3)).all()


def test_columns_and_the_folder_of_the_images_may_have_other_names(root: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "t.csv"
    path.write_text("id,species,file\n" + "\n".join(f"7,{'ab'[number % 2]},{number}.png" for number in range(6)))
    data = sources.open(manifest(path, root=root, image_column="file", label_column="species"), cache=tmp_path / "cache")
    assert data.labels.tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (("10", "9", "10", "9", "2", "2"), ("2", "9", "10")),  # numbers, in their order
        (("01", "1", "01", "1", "01", "1"), ("01", "1")),  # different words all the same
        (("NA", "null", "NA", "null", "NA", "None"), ("NA", "None", "null")),  # words, not gaps
    ],
)
def test_labels_are_words(root: Path, tmp_path: Path, labels: tuple[str, ...], classes: tuple[str, ...]) -> None:
    (root / "t.csv").write_text(rows(*labels))
    assert sources.open(manifest(root / "t.csv"), cache=tmp_path / "cache").classes == classes


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "file,label\n0.png,a", "has no column path; its columns are file, label. Set data.image_column to one of them"),
        ("t.csv", "path,kind\n0.png,a", "has no column label; its columns are path, kind. Set data.label_column to one of them"),
        ("t.csv", "path,label\n0.png,a\n1.png,\n", "label is empty in 1 row, first in line 3"),
        ("t.csv", "path,label\n", "has no rows; expected one for each image"),
        ("t.csv", "", "cannot be read as a table: No columns to parse"),
        ("t.csv", 'path,label\n"0.png,a', "cannot be read as a table"),
        ("t.csv", rows(*"aaaaaa"), "has 1 class (a); expected at least two"),
        ("t.csv", "path,label\n8.png,a\n1.png,b\n", "8.png: there is no such file"),
        ("t.parquet", "no parquet", "cannot be read as a table"),
        ("t.txt", rows(*"ababab"), "is not a manifest; expected a file that ends in .csv, .tsv, .parquet, .pq"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(root: Path, tmp_path: Path, name: str, content: str, message: str) -> None:
    (root / name).write_text(content)
    with pytest.raises(errors.DataError) as caught:
        sources.open(manifest(root / name), cache=tmp_path / "cache")
    assert str(caught.value).startswith((f"{root / name} ", f"{root / name}: "))
    assert message in str(caught.value)


def test_a_table_that_is_not_text_is_refused(root: Path, tmp_path: Path) -> None:
    (root / "t.csv").write_bytes(b"path,label\n\xff\xfe.png,a\n")
    with pytest.raises(errors.DataError, match="cannot be read as a table: .*utf-8"):
        sources.open(manifest(root / "t.csv"), cache=tmp_path / "cache")


def test_missing_labels_of_a_parquet_table_are_refused(root: Path, tmp_path: Path) -> None:
    pd.DataFrame({"path": ["0.png", "1.png"], "label": ["a", None]}).to_parquet(root / "t.parquet")
    with pytest.raises(errors.DataError, match="label is empty in 1 row, first in line 3"):
        sources.open(manifest(root / "t.parquet"), cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("path", "root_name", "message"),
    [
        ("none.csv", None, "does not exist; expected a table. Check data.path"),
        (".", None, "is a folder; expected a table. For one sub-folder for each class, use data.source: folder"),
        ("t.csv", "nowhere", "is not a folder; check data.root"),
    ],
)
def test_a_missing_table_or_folder_is_reported_by_name(root: Path, tmp_path: Path, path: str, root_name: str | None, message: str) -> None:
    (root / "t.csv").write_text(rows(*"ababab"))
    more = {} if root_name is None else {"root": root / root_name}
    with pytest.raises(errors.DataError, match=message):
        sources.open(manifest(root / path, **more), cache=tmp_path / "cache")


def test_integers_of_a_parquet_table_are_labels(root: Path, tmp_path: Path) -> None:
    pd.DataFrame({"path": [f"{n}.png" for n in range(6)], "label": np.array([2, 10, 2, 10, 2, 10])}).to_parquet(root / "t.parquet")
    assert sources.open(manifest(root / "t.parquet"), cache=tmp_path / "cache").classes == ("2", "10")
