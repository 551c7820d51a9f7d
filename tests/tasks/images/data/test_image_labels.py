"""Several labels of an image and numbers: read from tables and arrays, and split."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.tasks.images.data.conftest import noise
from tuner import errors
from tuner.spec import study
from tuner.spec.hyperparameters import TargetKind
from tuner.tasks.images.data import dataset, in_memory, sources, splits, survey


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six images whose labels are only in a table."""
    for number in range(6):
        Image.fromarray(noise(number)).save(tmp_path / f"{number}.png")
    return tmp_path


def opened(path: Path, **more: Any) -> dataset.Dataset:
    return sources.open(study.ManifestData.model_validate({"source": "manifest", "path": path, **more}), cache=path.parent / "cache")


def refused(path: Path, **more: Any) -> str:
    with pytest.raises(errors.DataError) as caught:
        opened(path, **more)
    return str(caught.value)


def write(root: Path, cells: list[Any], name: str = "label") -> Path:
    pd.DataFrame({"path": [f"{number}.png" for number in range(6)], name: cells}).to_csv(root / "t.csv", index=False)
    return root / "t.csv"


EXPECTED = [[1, 0], [1, 1], [0, 1], [0, 0], [1, 0], [0, 1]]


@pytest.mark.parametrize(
    "cells",
    [
        ["rust", "rust scab", "scab", "", "rust", "scab"],
        ["rust", "scab;rust", "scab", None, "rust; ", "scab"],
        ["rust", "rust|scab", "scab", "", "rust", "scab"],
        ["rust", "rust,  scab", "scab", "", "rust", "scab"],
        [json.dumps(names) for names in (["rust"], ["scab", "rust"], ["scab"], [], ["rust"], ["scab"])],
        [str(names) for names in (["rust"], ["scab", "rust"], ["scab"], [], ["rust"], ["scab"])],
        ["[rust]", "[scab, rust]", "[scab]", "[]", "[rust]", "[scab]"],
        ["['rust']", "['scab' 'rust']", "['scab']", "[]", "['rust']", "['scab']"],  # of NumPy
    ],
)
def test_a_cell_has_several_labels(root: Path, cells: list[Any]) -> None:
    found = opened(write(root, cells), labels="several")
    assert (found.classes, found.kind) == (("rust", "scab"), TargetKind.LABELS)
    assert found.labels.tolist() == EXPECTED
    assert found.counts.tolist() == [3, 3]


def test_names_in_a_list_may_have_apostrophes(root: Path) -> None:
    cells = ['["crow\'s feet", "scab"]', "['scab']", '["crow\'s feet"]', "[]", "['scab']", '["scab"]']
    assert opened(write(root, cells), labels="several").classes == ("crow's feet", "scab")


def test_a_damaged_list_is_refused_with_its_line(root: Path) -> None:
    cells = ["['a']", "['b' a]", "[]", "a", "b", "a"]
    assert "in line 3; expected names of classes" in refused(write(root, cells), labels="several")


def test_an_image_with_two_rows_of_other_labels_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "0.png")
    (tmp_path / "t.csv").write_text("path,a,b\n0.png,1,0\n0.png,0,1\n")
    said = refused(tmp_path / "t.csv", labels="several", label_columns=["a", "b"])
    assert "0.png: 1 0 in line 2 and 0 1 in line 3. write all labels of an image in one row" in said


def test_names_may_have_spaces_if_something_else_separates_them(root: Path) -> None:
    found = opened(write(root, ["frog eye", "frog eye, scab", "scab", "", "frog eye", "scab"]), labels="several")
    assert found.classes == ("frog eye", "scab")


def test_a_column_of_parquet_has_lists_of_labels(root: Path) -> None:
    names: list[Any] = [["rust"], ["scab", "rust"], ["scab"], None, ["rust"], ["scab"]]
    pd.DataFrame({"path": [f"{number}.png" for number in range(6)], "label": names}).to_parquet(root / "t.parquet")
    assert opened(root / "t.parquet", labels="several").labels.tolist() == EXPECTED


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("form", [int, float, bool])
def test_each_class_has_a_column(root: Path, ending: str, form: Any) -> None:
    table = pd.DataFrame(
        {"path": [f"{number}.png" for number in range(6)]} | dict(zip("ab", np.array(EXPECTED).T.astype(form), strict=True))
    )
    path = root / f"t.{ending}"
    table.to_csv(path, index=False) if ending == "csv" else table.to_parquet(path)
    found = opened(path, labels="several", label_columns=["b", "a"])
    assert found.classes == ("b", "a")
    assert found.labels[:, ::-1].tolist() == EXPECTED


def test_wrong_flags_and_missing_columns_are_refused_with_their_line(root: Path) -> None:
    path = write(root, [0, 1, 2, 0, 1, 1], "rust")
    assert "the column rust has '2' in line 4; expected 1 if the image belongs to the class, or 0" in refused(
        path, labels="several", label_columns=["rust"]
    )
    assert "has no column scab; its columns are path, rust. Set data.label_columns" in refused(
        path, labels="several", label_columns=["scab"]
    )
    pd.DataFrame({"path": ["0.png"], "rust": [1], "scab": [0]}).to_csv(path, index=False)
    assert 'Set data.label_columns: ["rust", "scab"]' in refused(path, labels="several")
    assert 'set data.labels: several and data.label_columns: ["rust", "scab"]' in refused(path)


def test_numbers_are_read_from_a_column(root: Path) -> None:
    found = opened(write(root, [1.5, -2, "3e1", 0, "7", 8], "age"), target="number", label_column="age")
    assert (found.classes, found.kind, found.labels.tolist()) == (("age",), TargetKind.NUMBER, [1.5, -2, 30, 0, 7, 8])
    assert dataset.describe_label(found.labels[0], found.classes, found.kind) == "1.5"


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("", "the column age is empty in line 4; expected a number such as 3.5: correct it, or remove the row"),
        ("nan", "the column age is nan in line 4"),
        ("inf", "the column age is inf in line 4"),
        ("old", "the column age is old in line 4"),
        ("3,5", "expected a number such as 3.5: write a point, not a comma"),
    ],
)
def test_what_is_no_number_is_refused_with_its_line(root: Path, cell: str, said: str) -> None:
    assert said in refused(write(root, ["1", "2", cell, "4", "5", "6"], "age"), target="number", label_column="age")


def test_a_number_that_all_images_share_is_refused(root: Path) -> None:
    assert "has the number 4 for every image, so there is nothing to learn" in refused(write(root, [4] * 6), target="number")


def images(num: int) -> np.ndarray:
    return np.arange(num, dtype=np.uint32).view(np.uint8).reshape(-1, 2, 2).copy()


def returned(given: Any, names: Any = None, **more: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    data = study.PythonData.model_validate({"source": "python", "function": "m:f", **more})
    found, classes = in_memory.read_labels(np.asarray(given), names, data, origin="m:f")
    return found, tuple(classes)


def test_a_function_returns_a_matrix_or_numbers() -> None:
    assert returned([[0, 1], [1, 1]], ["a", "b"], labels="several")[1] == ("a", "b")
    assert returned([[False, True]], labels="several")[0].tolist() == [[0, 1]]
    assert returned([1.5, 2], target="number")[0].tolist() == [1.5, 2]
    assert returned([[1], [2]], target="number")[1] == ("number",)


@pytest.mark.parametrize(
    ("labels", "names", "more", "said"),
    [
        ([0, 1], None, {"labels": "several"}, "expected a matrix of 0 and 1, with a row for each image and a column for each class"),
        ([[0, 2]], None, {"labels": "several"}, "has the label 2 in row 0, column 1"),
        ([[0, 1]], ["a"], {"labels": "several"}, "has 1 class names for 2 columns of labels"),
        ([1.0, float("nan")], None, {"target": "number"}, "has the number nan in row 1; expected a finite one"),
        (["a", "b"], None, {"target": "number"}, "expected one number for each image"),
        ([[1, 2], [3, 4]], None, {"target": "number"}, "expected one number for each image"),
    ],
)
def test_what_a_function_returns_must_suit_the_target(labels: Any, names: Any, more: dict[str, Any], said: str) -> None:
    with pytest.raises(errors.DataError) as caught:
        returned(labels, names, **more)
    assert said in str(caught.value)


def several(num: int = 300, *, seed: int = 0) -> dataset.Dataset:
    labels = (np.random.default_rng(seed).random((num, 4)) < [0.5, 0.3, 0.1, 0.04]).astype(np.uint8)
    return in_memory.from_arrays(images(num), labels, list("abcd"), kind=TargetKind.LABELS)


def numbers(num: int = 300, *, seed: int = 0) -> dataset.Dataset:
    labels = np.random.default_rng(seed).lognormal(size=num)
    return in_memory.from_arrays(images(num), labels, ["age"], kind=TargetKind.NUMBER)


SHARES = study.DigitsData(source="digits", validation=0.2, test=0.2)


@pytest.mark.parametrize("seed", range(5))
def test_rare_labels_have_their_share_in_each_split(seed: int) -> None:
    data = several(seed=seed)
    found = splits.split(data, SHARES, seed)
    assert sorted([*found.train, *found.validation, *found.test]) == list(range(300))
    for part in (found.validation, found.test):
        assert abs(len(part) - 60) <= 5
        for label in (2, 3):
            assert abs(int(data.counts_of(part)[label]) - 0.2 * int(data.counts[label])) <= 2


@pytest.mark.parametrize("seed", range(5))
def test_numbers_are_spread_alike_over_the_splits(seed: int) -> None:
    data = numbers(seed=seed)
    found = splits.split(data, SHARES, seed)
    tenths = np.quantile(data.labels, np.arange(1, 10) / 10)
    for part in (found.validation, found.test):
        assert np.bincount(np.searchsorted(tenths, data.labels[part]), minlength=10).tolist() == [6] * 10


@pytest.mark.parametrize("data", [several(), numbers()])
def test_groups_stay_in_one_split(data: dataset.Dataset) -> None:
    groups = np.arange(300) // 5
    found = splits.split(replace(data, groups=groups), SHARES, 0)
    held = [set(groups[part].tolist()) for part in (found.train, found.validation, found.test)]
    assert not held[0] & held[1] | held[0] & held[2] | held[1] & held[2]
    assert all(len(part) >= 40 for part in (found.validation, found.test))


@pytest.mark.parametrize("make", [several, numbers])
@pytest.mark.parametrize("given", [{"validation": 8, "test": 4}, {"test": 0}, {"train": 50, "validation": 20, "test": 20}])
def test_splits_of_any_size_are_drawn(make: Any, given: dict[str, Any]) -> None:
    found = splits.split(make(), study.DigitsData(source="digits", **given), 0)
    assert len(found.validation) >= 8
    assert len(found.test) == given.get("test", 45)


def test_a_label_on_too_few_images_is_refused() -> None:
    labels = np.zeros((50, 2), np.uint8)
    labels[:20, 0], labels[:2, 1] = 1, 1
    data = in_memory.from_arrays(images(50), labels, ["scab", "rust"], kind=TargetKind.LABELS)
    with pytest.raises(errors.DataError, match="the class rust has 2 different images, but needs 3, one for each of train"):
        splits.split(data, SHARES, 0)


def test_fingerprints_depend_on_the_labels_and_not_on_their_order() -> None:
    for data in (several(), numbers()):
        turned = dataset.Dataset(
            classes=data.classes, labels=data.labels[::-1], digests=data.digests[::-1], sizes=data.sizes, images=data.images, kind=data.kind
        )
        assert dataset.fingerprint(turned) == dataset.fingerprint(data)
        changed = data.labels.copy()
        changed[0] = 1 - changed[0]
        other = dataset.Dataset(
            classes=data.classes, labels=changed, digests=data.digests, sizes=data.sizes, images=data.images, kind=data.kind
        )
        assert dataset.fingerprint(other) != dataset.fingerprint(data)


@pytest.mark.parametrize("data", [several(), numbers()])
def test_warnings_of_images_need_no_class(data: dataset.Dataset, tmp_path: Path) -> None:
    found = splits.split(data, SHARES, 0)
    metric: Any = "macro_f1" if data.kind is TargetKind.LABELS else "mae"
    splits.require_measurable(data, found, metric)
    said = survey.warnings(data, found, SHARES, cache=tmp_path, metric=metric)
    assert "validation has only 60 images: too few to choose the best trial; raise data.validation, or add images" in said
    assert not [line for line in said if "commonest class" in line]


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (TargetKind.LABELS, 0, "macro_f1, but all validation images have no label, so it says nothing"),
        (TargetKind.LABELS, 1, "macro_f1, but all validation images have every label, so it says nothing"),
        (TargetKind.NUMBER, 0.0, "mae, but all validation images have the number 0, so it says nothing"),
        (TargetKind.NUMBER, 2.5, "mae, but all validation images have the number 2.5, so it says nothing"),
    ],
)
def test_validation_images_that_are_all_labeled_alike_are_refused_with_their_labels(kind: TargetKind, value: float, words: str) -> None:
    data = several() if kind is TargetKind.LABELS else numbers()
    found = splits.split(data, SHARES, 0)
    data.labels[found.validation] = value
    metric: Any = "macro_f1" if kind is TargetKind.LABELS else "mae"
    with pytest.raises(errors.DataError, match=words):
        splits.require_measurable(data, found, metric)


def test_equal_images_with_other_labels_are_reported() -> None:
    for data in (several(), numbers()):
        data.digests[1] = data.digests[0]
        data.labels[1] = 1 - data.labels[0]
        what = "sets of labels" if data.kind is TargetKind.LABELS else "numbers"
        assert f"with two {what}: 1 image, first image 0 = image 1" in dataset.note_copies(data)[1]
