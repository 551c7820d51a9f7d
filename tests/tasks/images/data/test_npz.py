"""Arrays on disk, good and bad."""

import pickle
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuner import errors
from tuner.spec import study
from tuner.tasks.images.data import dataset, sources, splits

X = np.random.default_rng(0).integers(0, 256, (6, 5, 4), np.uint8)
Y = np.array([0, 1, 2, 0, 1, 2])


def read(path: Path) -> dataset.Dataset:
    return sources.open(study.NpzData(source="npz", path=path), cache=path.parent)


def test_images_and_labels_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=X, y=Y)
    data = read(tmp_path / "a.npz")
    assert data.classes == ("0", "1", "2")
    assert data.official is None
    assert (data.read(4) == X[4][..., None]).all()


def test_arrays_named_train_and_test_are_official_splits(tmp_path: Path) -> None:
    parts = {"x_train": X[:3], "y_train": Y[:3], "x_val": X[3:4], "y_val": Y[3:4], "x_test": X[4:], "y_test": Y[4:]}
    np.savez(tmp_path / "a.npz", classes=["a", "b", "c"], **parts)  # type: ignore[arg-type]
    data = read(tmp_path / "a.npz")
    assert data.classes == ("a", "b", "c")
    assert data.official is not None
    assert data.official.tolist() == [dataset.TRAIN] * 3 + [dataset.VALIDATION] + [dataset.TEST] * 2
    assert data.labels.tolist() == Y.tolist()


@pytest.mark.parametrize(
    "names",
    [
        ["train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"],
        ["X_train", "y_train", "X_valid", "y_valid", "X_test", "y_test"],
        ["x_train", "y_train", "x_dev", "y_dev", "x_test", "y_test"],
        ["training_data", "training_targets", "validation_data", "validation_targets", "testing_data", "testing_targets"],
    ],
)
def test_names_that_people_give_arrays_are_read_as_splits(tmp_path: Path, names: list[str]) -> None:
    values = X[:3], Y[:3, None], X[3:4], Y[3:4, None], X[4:], Y[4:, None]
    np.savez(tmp_path / "a.npz", **dict(zip(names, values, strict=True)))  # type: ignore[arg-type]
    data = read(tmp_path / "a.npz")
    assert data.official is not None
    assert data.official.tolist() == [dataset.TRAIN] * 3 + [dataset.VALIDATION] + [dataset.TEST] * 2
    assert data.labels.tolist() == Y.tolist()


def test_arrays_of_other_names_beside_images_and_labels_are_ignored(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=X, y_train=Y, class_names=["a", "b", "c"], labels=[1], train_names=["p"], x_train_test=X[:1])
    data = read(tmp_path / "a.npz")
    assert data.labels.tolist() == Y.tolist()
    assert data.classes == ("a", "b", "c")


def test_two_arrays_with_one_meaning_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", train_images=X, train_data=X, train_labels=Y)
    with pytest.raises(errors.DataError, match="arrays train_images and train_data, which both look like x_train; save only one of them"):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("labels", "names", "classes", "numbers"),
    [
        (Y[:, None], None, ("0", "1", "2"), Y),  # as keras.datasets has them
        (Y * 5 + 5, None, ("5", "10", "15"), Y),  # any numbers
        (np.array(list("bacbac")), None, ("a", "b", "c"), [1, 0, 2, 1, 0, 2]),  # words
        (np.array(list("bacbac")), ["c", "b", "a"], ("c", "b", "a"), [1, 2, 0, 1, 2, 0]),  # words in the user's order
        (Y, ["c", "b", "a"], ("c", "b", "a"), Y),
    ],
)
def test_labels_are_numbers_or_words(tmp_path: Path, labels: Any, names: Any, classes: tuple[str, ...], numbers: Any) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=labels, **({} if names is None else {"classes": names}))
    data = read(tmp_path / "a.npz")
    assert data.classes == classes
    assert data.labels.tolist() == list(numbers)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"scans": X, "ids": Y}, "has no x_train; the file has scans, ids; expected x and y, or x_train and y_train"),
        ({"x": X}, "has no y; the file has x"),
        ({"x_train": X, "y_train": Y, "x_test": X}, "has no y_test; the file has x_train, y_train, x_test"),
        ({"x_test": X, "y_test": Y}, "has no x_train; the file has x_test, y_test"),
        ({"x": X, "y": Y, "x_train": X, "y_train": Y}, "has both x and x_train; save only one of them"),
        ({"x": X, "y": Y[:4]}, "x has 6 images and y has 4 labels"),
        ({"x": X / 255, "y": Y}, "x has pixels of type float64; expected uint8"),
        ({"x": X, "y": np.eye(3, dtype=int)[Y]}, "has labels of shape (6, 3); expected one number for each image"),
        ({"x": X, "y": Y / 2}, "has labels of type float64; expected integers or strings; these seem to be measurements, not classes"),
        ({"x": X, "y": np.where(Y == 1, np.nan, Y)}, "expected integers or strings; 2 labels are missing or infinite: remove these images"),
        (
            {"x": X, "y": np.array([b"a", b"\xe4"])[Y % 2]},
            "expected integers or strings; save np.char.decode(y, ENCODING)",
        ),
        ({"x": X.reshape(6, -1), "y": Y}, "if each row is an image, save x.reshape(len(x), height, width, channels)"),
        ({"x": np.stack([X] * 4, axis=-1), "y": Y}, "if the last channel is the opacity, save x[..., :3]"),
        ({"x": X, "y": Y, "classes": ["a", "b"]}, "has labels from 0 to 2 for 2 class names"),
        ({"x": X, "y": np.array(list("abcabc")), "classes": ["a", "b"]}, "has the label c; expected one of the class names a, b"),
        ({"x": X, "y": np.array([0, 1, None] * 2)}, "contains Python objects, which are not read"),
        (
            {"x_train": X, "y_train": Y, "x_test": X[:, :3], "y_test": Y},
            "has images of different sizes: x_train (6, 5, 4), x_test (6, 3, 4)",
        ),
        (
            {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y.astype(str)},
            "expected labels of one shape and type in all splits, not int64 (6,)",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(errors.DataError) as caught:
        read(tmp_path / "a.npz")
    path = tmp_path / "a.npz"
    assert str(caught.value).startswith((f"{path} ", f"{path}: "))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"cannot be read .*; expected an \.npz file"),
        (b"hello", r"cannot be read .*; expected an \.npz file"),
        (b"PK\x03\x04hello", r"cannot be read .*; expected an \.npz file"),
        (pickle.dumps({"x": 1}), r"cannot be read .*; expected an \.npz file"),  # never unpickled
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(errors.DataError, match=message):
        read(tmp_path / "a.npz")


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    with pytest.raises(errors.DataError, match="is a single array; expected x and y"):
        read(tmp_path / "a.npy")


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=X, y=Y)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[100:120] = bytes(20)
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(errors.DataError, match=r"cannot be read .*; expected an \.npz file"):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize(("name", "message"), [("none.npz", "does not exist"), (".", "is a folder")])
def test_a_missing_file_is_reported_by_name(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(errors.DataError, match=rf"{message}; expected an \.npz file. Check data.path"):
        read(tmp_path / name)


def test_words_have_the_natural_order_and_are_compared_in_nfc(tmp_path: Path) -> None:
    nfc, nfd = (unicodedata.normalize(form, "Löwe 10") for form in ("NFC", "NFD"))
    np.savez(tmp_path / "a.npz", x=X, y=np.array([nfc, nfd, "Löwe 9", "a", "a", "a"]))
    assert read(tmp_path / "a.npz").classes == ("Löwe 9", nfc, "a")
    np.savez(tmp_path / "b.npz", x=X, y=np.array([nfc, nfd, "a", "a", "a", "a"]), classes=["a", nfd])
    assert (read(tmp_path / "b.npz").classes, read(tmp_path / "b.npz").labels.tolist()) == (("a", nfc), [1, 1, 0, 0, 0, 0])
    earlier = study.NpzData(source="npz", path=tmp_path / "a.npz", class_order="earlier")
    assert sources.open(earlier, cache=tmp_path).classes == (nfd, nfc, "Löwe 9", "a")


def test_images_of_a_group_stay_in_one_split(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (60, 5, 4), np.uint8)
    patients = np.repeat([f"p{number}" for number in range(20)], 3)
    np.savez(tmp_path / "a.npz", x=images, y=np.repeat(np.arange(20) % 2, 3), patients=patients)
    data = study.NpzData(source="npz", path=tmp_path / "a.npz", group_column="patients")
    found = sources.open(data, cache=tmp_path)
    assert found.groups is not None
    assert np.bincount(found.groups).tolist() == [3] * 20
    parts = splits.split(found, data, 0)
    held = [set(patients[rows]) for rows in (parts.train, parts.validation, parts.test)]
    assert all(held)
    assert sum(map(len, held)) == 20


def test_groups_of_official_splits_have_an_array_for_each(tmp_path: Path) -> None:
    arrays = {"x_train": X[:4], "y_train": Y[:4], "x_test": X[4:], "y_test": Y[4:], "patient_train": [7, 7, 8, 9], "patient_test": [8, 10]}
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    found = sources.open(study.NpzData(source="npz", path=tmp_path / "a.npz", group_column="patient"), cache=tmp_path)
    assert found.groups is not None
    assert found.groups[0] == found.groups[1] != found.groups[2] == found.groups[4]


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({}, "has no array patient; the file has x, y. Save one value for each image of x under this name, or change data.group_column"),
        ({"patient": [1, 2]}, "patient has 2 values and x has 6 images; expected one for each image"),
    ],
)
def test_groups_that_do_not_fit_are_refused(tmp_path: Path, groups: dict[str, Any], said: str) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y, **groups)
    with pytest.raises(errors.DataError) as raised:
        sources.open(study.NpzData(source="npz", path=tmp_path / "a.npz", group_column="patient"), cache=tmp_path)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("labels", "more", "classes"),
    [
        (np.array([b"b", b"a"])[Y % 2], {}, ("a", "b")),
        (Y % 2 == 0, {}, ("False", "True")),
        (Y % 2 == 0, {"classes": ["no", "yes"]}, ("no", "yes")),
        ((Y + 1).astype(float), {}, ("1", "2", "3")),
    ],
)
def test_labels_of_other_types_are_understood(tmp_path: Path, labels: Any, more: dict[str, Any], classes: tuple[str, ...]) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=labels, **more)
    assert read(tmp_path / "a.npz").classes == classes


@pytest.mark.parametrize("names", [("images", "labels"), ("data", "target"), ("X", "Y")])
def test_arrays_without_splits_may_have_usual_names(tmp_path: Path, names: tuple[str, str]) -> None:
    np.savez(tmp_path / "a.npz", **dict(zip(names, (X, Y), strict=True)), file_names=np.array(["p"]))  # type: ignore[arg-type]
    assert read(tmp_path / "a.npz").labels.tolist() == Y.tolist()


def test_arrays_of_unclear_names_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=X, pixels=X, labels=Y)
    with pytest.raises(errors.DataError, match="has no x_train; the file has images, pixels, labels"):
        read(tmp_path / "a.npz")
