"""Datasets of arrays, and their notes."""

import unicodedata
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tuner import errors
from tuner.tasks.images.data import dataset, in_memory

GREY = np.arange(4 * 3 * 2, dtype=np.uint8).reshape(4, 3, 2)
LABELS = np.array([0, 1, 0, 1])


def test_grey_images_are_read_as_three_equal_channels() -> None:
    data = in_memory.from_arrays(GREY, LABELS, ["a", "b"])
    assert data.read(1).shape == (3, 2, 3)
    assert (data.read(1) == GREY[1][..., None]).all()
    assert data.sizes.tolist() == [[2, 3]] * 4


def test_an_image_has_one_digest_whether_it_is_stored_grey_or_in_colour() -> None:
    grey = in_memory.from_arrays(GREY, LABELS, ["a", "b"])
    channel = in_memory.from_arrays(GREY[..., None], LABELS[:, None], ["a", "b"])
    colour = in_memory.from_arrays(np.repeat(GREY[..., None], 3, axis=-1), LABELS, ["a", "b"])
    assert grey.digests.tolist() == channel.digests.tolist() == colour.digests.tolist()
    assert dataset.digest(grey.read(2)) == grey.digests[2]


def test_images_of_different_sizes_are_kept_as_they_are() -> None:
    images = [GREY[0], np.zeros((5, 4, 3), np.uint8), np.zeros((1, 7, 1), np.uint8), GREY[3]]
    data = in_memory.from_images(images, LABELS, ["a", "b"], np.array([1, 1, 3, 3]))
    assert data.sizes.tolist() == [[2, 3], [4, 5], [7, 1], [2, 3]]
    assert [data.read(row).shape for row in range(4)] == [(3, 2, 3), (5, 4, 3), (1, 7, 3), (3, 2, 3)]
    assert [dataset.digest(pixels) for pixels in data.images.map(np.copy, range(4))] == data.digests.tolist()
    assert data.digests[[0, 3]].tolist() == in_memory.from_arrays(GREY, LABELS, ["a", "b"]).digests[[0, 3]].tolist()
    assert data.official is not None and data.official.tolist() == [1, 1, 3, 3]


def test_an_array_that_is_not_an_image_is_reported_by_its_number() -> None:
    with pytest.raises(errors.DataError, match=r"^some set: image 1 has pixels of type float64"):
        in_memory.from_images([GREY[0], GREY[1] / 255], LABELS[:2], ["a", "b"], origin="some set")


def test_images_of_equal_bytes_and_another_shape_have_different_digests() -> None:
    assert dataset.digest(np.zeros((2, 3, 3), np.uint8)) != dataset.digest(np.zeros((3, 2, 3), np.uint8))


@pytest.mark.parametrize(
    ("images", "labels", "classes", "message"),
    [
        (GREY / 255.0, LABELS, "ab", "has pixels of type float64; expected uint8 from 0 to 255"),
        (GREY / 255.0, LABELS, "ab", "(x * 255).round().astype('uint8')"),
        (GREY.astype(np.int32), LABELS, "ab", "has pixels of type int32"),
        (np.zeros((4, 3, 8, 8), np.uint8), LABELS, "ab", "if the channels come second, save np.moveaxis(x, 1, -1)"),
        (np.zeros((4, 8, 8, 4), np.uint8), LABELS, "ab", "has shape (4, 8, 8, 4)"),
        (np.zeros((4, 64), np.uint8), LABELS, "ab", "has shape (4, 64); expected uint8"),
        (np.zeros((4, 0, 8), np.uint8), LABELS, "ab", "has shape (4, 0, 8)"),
        (GREY, LABELS[:3], "ab", "has labels of shape (3,); expected (4,), one for each of the 4 images"),
        (GREY, np.eye(4, dtype=int), "abcd", "If they are one-hot, save y.argmax(1)"),
        (GREY, LABELS / 2, "ab", "has labels of type float64; expected integers"),
        (GREY, LABELS + 1, "ab", "has labels from 1 to 2 for 2 class names; expected 0 to 1"),
        (GREY, LABELS - 1, "ab", "has labels from -1 to 0"),
        (GREY, LABELS * 0, "a", "has 1 class (a); expected at least two"),
        (GREY, LABELS, "abc", "has no images of c; add some, or leave the class out"),
        (GREY, LABELS, "aa", "has two classes with the same name"),
        (GREY[:0], LABELS[:0], "ab", "has no images; expected at least one for each class"),
    ],
)
def test_arrays_that_are_not_labelled_images_are_refused(images: NDArray[Any], labels: NDArray[Any], classes: str, message: str) -> None:
    with pytest.raises(errors.DataError) as caught:
        in_memory.from_arrays(images, labels, list(classes), origin="some.npz")
    assert str(caught.value).startswith("some.npz ")
    assert message in str(caught.value)


def test_official_splits_of_another_length_are_refused() -> None:
    with pytest.raises(errors.DataError, match=r"has official splits of shape \(3,\); expected \(4,\)"):
        in_memory.from_arrays(GREY, LABELS, ["a", "b"], np.zeros(3, np.int8))


def test_only_the_first_of_identical_images_is_kept() -> None:
    data = in_memory.distinct(in_memory.from_arrays(GREY[[0, 1, 0, 3]], LABELS, ["a", "b"], np.array([1, 1, 1, 3])))
    assert data.labels.tolist() == [0, 1, 1]
    assert data.official is not None
    assert data.official.tolist() == [1, 1, 3]
    assert (data.read(2) == GREY[3][..., None]).all()
    assert dataset.notes(data) == ["left out because they are copies: 1 image"]


def test_notes_report_images_that_were_left_out_and_labels_that_contradict() -> None:
    broken = tuple(dataset.Unreadable(path=f"{number}.png", reason="the file is empty") for number in range(7))
    data = replace(in_memory.from_arrays(GREY[[0, 1, 1, 1]], LABELS, ["a", "b"]), unreadable=broken, ignored={".txt": 2, ".zip": 1})
    assert dataset.notes(data) == [
        *(f"left out because it cannot be read: {number}.png: the file is empty" for number in range(5)),
        "… and 2 more unreadable images",
        "ignored because of their names: 3 files (2 .txt, 1 .zip)",
        "in the same split as their originals: 2 copies of other images",
        "with two labels: 1 image, first image 1 = image 2 = image 3; decide which label is right",
    ]


def test_the_fingerprint_does_not_depend_on_the_order_of_the_images() -> None:
    order = [2, 0, 3, 1]
    one = in_memory.from_arrays(GREY, LABELS, ["a", "b"])
    other = in_memory.from_arrays(GREY[order], LABELS[order], ["a", "b"])
    assert dataset.fingerprint(one) == dataset.fingerprint(other)


@pytest.mark.parametrize(
    ("images", "labels", "classes"),
    [
        (GREY + 1, LABELS, ["a", "b"]),  # other pixels
        (GREY, LABELS[::-1], ["a", "b"]),  # other labels
        (GREY, LABELS, ["a", "c"]),  # other names
        (GREY[:3], LABELS[:3], ["a", "b"]),  # fewer images
    ],
)
def test_the_fingerprint_changes_with_the_content(images: NDArray[Any], labels: NDArray[Any], classes: list[str]) -> None:
    one = in_memory.from_arrays(GREY, LABELS, ["a", "b"])
    assert dataset.fingerprint(one) != dataset.fingerprint(in_memory.from_arrays(images, labels, classes))


@pytest.mark.parametrize(
    "names",
    [
        [str(number) for number in range(12)],
        ["class 1", "class 2", "class 10", "class 10b", "class 11"],
        ["1_one", "2_two", "10_ten"],
        ["-10", "-2", "0", "+1", "1.5", "2", "10"],
        ["0.25", "0.5", "1"],
        ["001", "2", "010", "11"],
        ["01", "1", "1a", "01b"],
        ["Bird", "Cat", "ant", "bee", "Ämse"],
        ["", "9" * 5_000],
        ["v1.2", "v1.10", "v2"],
        ["٣", "٤"],  # digits of other scripts are text
        ["cat"],
        [],
    ],
)
def test_classes_have_a_natural_order(names: list[str]) -> None:
    assert dataset.sort_natural(set(names)) == names
    found, numbers = dataset.name_classes(names[::-1], "natural", earlier=sorted)
    assert (list(found), numbers) == ([unicodedata.normalize("NFC", name) for name in names], list(range(len(names)))[::-1])


def test_names_that_unicode_composes_differently_are_one_class() -> None:
    names = [unicodedata.normalize(form, "Löwe") for form in ("NFC", "NFD", "NFC")]
    assert dataset.name_classes(["ant", *names], "natural", earlier=sorted) == (("L\u00f6we", "ant"), [1, 0, 0, 0])
    assert dataset.name_classes(names, "earlier", earlier=sorted) == (("Lo\u0308we", "L\u00f6we"), [1, 0, 1])


def noted(*names: str) -> list[str]:
    """Return the notes on class names, with an image of each class."""
    images = np.arange(len(names) * 4, dtype=np.uint8).reshape(-1, 2, 2)
    return dataset.note_names(in_memory.from_arrays(images, np.arange(len(names)), list(names)))


@pytest.mark.parametrize(
    ("one", "other"),
    [("Cat", "cat"), ("cat", "cat "), ("TRUE", "True"), ("007", "7"), ("1", "1.0"), ("class 2", "class 02"), ("big_dog", "Big Dog"),
     ("red-fox", "red fox"), ("Ａ1", "a1"), ("+1", "1"), ("-1", "-1.0"),
     ("no_tumor", "notumor"), ("cat_", "cat"), ("a ", "a"), ("\ufb01sh", "fish"), ("STRASSE", "Stra\xdfe")],
)  # fmt: skip
def test_names_that_may_be_one_class_are_named(one: str, other: str) -> None:
    said = (
        f"the class names '{one}' and '{other}' differ only in case, spaces, hyphens, quotes or zeros; "
        "if they are one class, give it one name"
    )
    assert noted(one, "bird", other) == [said]


@pytest.mark.parametrize(
    "names",
    [("A", "a", "B", "b"), ("1", "10"), ("1.5", "15"), ("cat", "cats"), ("class 1", "class 10"), ("v1.0", "v1.00"), ("-1", "1"),
     ("1 0", "10"), ("1-1", "11"), ("A2", "A10"), ("Bird [adult]", "Bird [chick]"), ("n", "\xf1", "+", "")],
)  # fmt: skip
def test_names_that_are_different_classes_are_not_named(names: tuple[str, ...]) -> None:
    assert not noted(*names)


@pytest.mark.parametrize("name", ["None", "NA", "null", "n/a", "?", "-", "NaN"])
def test_what_programs_write_for_a_missing_label_is_named(name: str) -> None:
    (line,) = noted("cat", name)
    assert line == f"the class '{name}' has 1 image, but programs write it for a missing value; if these images have no label, remove them"


def test_classes_that_join_other_classes_are_named() -> None:
    (line,) = noted("Cardiomegaly", "Effusion", "Cardiomegaly|Effusion", "Mass/Nodule")
    assert line.startswith("1 class joins other classes, first Cardiomegaly|Effusion. tuner learns one class for each image")
    assert noted("a1", "b1", "c1", "a1; b1", "b1,c1")[0].startswith("2 classes join other classes, first a1; b1.")


def test_ten_thousand_classes_have_few_notes() -> None:
    names = [name for number in range(2_000) for name in (f"Class {number}", f"class {number}")]
    assert len(noted(*names)) == 5


def test_notes_on_names_belong_to_the_notes_of_a_dataset() -> None:
    data = in_memory.from_arrays(GREY, LABELS, ["Cat", "cat"])
    assert dataset.note_names(data)[0] in dataset.notes(data)
