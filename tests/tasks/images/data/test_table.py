"""Tables of paths and labels."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.tasks.images.data.conftest import noise
from tuner import errors
from tuner.spec import study
from tuner.tasks.images.data import sources


def manifest(path: Path, **more: str | Path) -> study.ManifestData:
    return study.ManifestData.model_validate({"source": "manifest", "path": path, **more})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six images that nothing but a table tells apart."""
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
        ("t.csv", "file,label\n0.png,a", "there is no column path; the columns are file, label. Name the right one in data.image_column"),
        ("t.csv", "path,kind\n0.png,a", "there is no column label; the columns are path, kind. Name the right one in data.label_column"),
        ("t.csv", "path,label\n0.png,a\n1.png,\n", "label is empty in 1 row, first in line 3"),
        ("t.csv", "path,label\n", "the table has no rows"),
        ("t.csv", "", "the table cannot be read: No columns to parse"),
        ("t.csv", 'path,label\n"0.png,a', "the table cannot be read"),
        ("t.csv", rows(*"aaaaaa"), "there is 1 class (a)"),
        ("t.csv", "path,label\n8.png,a\n1.png,b\n", "8.png: there is no such file"),
        ("t.parquet", "no parquet", "the table cannot be read"),
        ("t.txt", rows(*"ababab"), "a manifest ends in .csv, .tsv, .parquet, .pq"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(root: Path, tmp_path: Path, name: str, content: str, message: str) -> None:
    (root / name).write_text(content)
    with pytest.raises(errors.DataError) as caught:
        sources.open(manifest(root / name), cache=tmp_path / "cache")
    assert str(caught.value).startswith(f"{root / name}: ")
    assert message in str(caught.value)


def test_a_table_of_bytes_that_are_no_text_is_refused(root: Path, tmp_path: Path) -> None:
    (root / "t.csv").write_bytes(b"path,label\n\xff\xfe.png,a\n")
    with pytest.raises(errors.DataError, match="the table cannot be read: .*utf-8"):
        sources.open(manifest(root / "t.csv"), cache=tmp_path / "cache")


def test_missing_labels_of_a_parquet_table_are_refused(root: Path, tmp_path: Path) -> None:
    pd.DataFrame({"path": ["0.png", "1.png"], "label": ["a", None]}).to_parquet(root / "t.parquet")
    with pytest.raises(errors.DataError, match="label is empty in 1 row, first in line 3"):
        sources.open(manifest(root / "t.parquet"), cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("path", "root_name", "message"),
    [
        ("none.csv", None, "there is no such file; check data.path"),
        (".", None, "this is a folder; for one sub-folder a class use data.source: folder"),
        ("t.csv", "nowhere", "there is no such folder; check data.root"),
    ],
)
def test_a_table_or_folder_that_is_not_there_is_named(root: Path, tmp_path: Path, path: str, root_name: str | None, message: str) -> None:
    (root / "t.csv").write_text(rows(*"ababab"))
    more = {} if root_name is None else {"root": root / root_name}
    with pytest.raises(errors.DataError, match=message):
        sources.open(manifest(root / path, **more), cache=tmp_path / "cache")


def test_whole_numbers_of_a_parquet_table_are_labels(root: Path, tmp_path: Path) -> None:
    pd.DataFrame({"path": [f"{n}.png" for n in range(6)], "label": np.array([2, 10, 2, 10, 2, 10])}).to_parquet(root / "t.parquet")
    assert sources.open(manifest(root / "t.parquet"), cache=tmp_path / "cache").classes == ("2", "10")
