"""Properties of every split."""

from typing import Any

import numpy as np
import pytest

from tuner import errors
from tuner.spec import study
from tuner.tasks.images.data import dataset, in_memory, splits


def images(counts: list[int], *, copies: int = 0, seed: int = 0) -> dataset.Dataset:
    """A number of images of each class, `copies` of them identical to another image of the class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = np.arange(len(labels), dtype=np.uint32).view(np.uint8).reshape(-1, 2, 2).copy()
    random = np.random.default_rng(seed)
    for row in random.choice(len(labels), copies, replace=False):
        pixels[row] = pixels[random.choice(np.flatnonzero(labels == labels[row]))]
    return in_memory.from_arrays(pixels, labels, [f"class {label}" for label in range(len(counts))])


def shares(**more: Any) -> study.Data:
    return study.DigitsData(source="digits", **more)


def parts(split: splits.Splits) -> list[np.ndarray]:
    return [split.train, split.validation, split.test]


CASES = [
    ([50, 50], 0, {}),
    ([300, 200, 100], 0, {"validation": 0.2, "test": 0.1}),
    ([1000] * 10, 0, {"train": 1000, "validation": 500, "test": 2000}),
    ([40, 41, 42, 43], 0, {"train": 0.5, "validation": 0.25, "test": 0.25}),
    ([100, 100], 0, {"test": 0}),
    ([97, 61, 33], 20, {}),  # identical images
    ([200, 200], 100, {"train": 100, "validation": 50, "test": 50}),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("counts", "copies", "given"), CASES)
def test_splits_are_disjoint_ascending_and_never_share_an_image(counts: list[int], copies: int, given: dict[str, Any], seed: int) -> None:
    data = images(counts, copies=copies, seed=seed)
    found = parts(splits.split(data, shares(**given), seed))
    rows = np.concatenate(found)
    assert len(set(rows.tolist())) == len(rows)
    assert all((np.diff(part) > 0).all() for part in found)
    digests = [set(data.digests[part].tolist()) for part in found]
    assert not digests[0] & digests[1] | digests[0] & digests[2] | digests[1] & digests[2]
    if "train" not in given:
        assert len(rows) == len(data)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("counts", "copies", "given"), [case for case in CASES if case[1] == 0])
def test_each_class_has_its_share_of_each_split_to_within_one_image(
    counts: list[int], copies: int, given: dict[str, Any], seed: int
) -> None:
    data = images(counts, copies=copies)
    for part in parts(splits.split(data, shares(**given), seed)):
        expected = len(part) * data.counts / len(data)
        assert (np.abs(np.bincount(data.labels[part], minlength=len(counts)) - expected) < 1.5).all()


@pytest.mark.parametrize(("counts", "copies", "given"), CASES)
def test_splits_have_the_requested_sizes(counts: list[int], copies: int, given: dict[str, Any]) -> None:
    data = images(counts, copies=copies)
    found = splits.split(data, shares(**given), 0)
    for name, default in [("validation", 0.15), ("test", 0.15)]:
        share = given.get(name, default)
        expected = share if share >= 1 else round(share * len(data))
        assert abs(len(getattr(found, name)) - expected) <= (3 if copies else 0)
    if given.get("train", 0) >= 1:
        assert len(found.train) == given["train"]


def test_one_seed_gives_one_split_and_another_seed_another() -> None:
    data = images([200, 200], copies=30)
    one, same, other = (splits.split(data, shares(), seed) for seed in (1, 1, 2))
    assert [part.tolist() for part in parts(one)] == [part.tolist() for part in parts(same)]
    assert one.digest == same.digest
    assert one.digest != other.digest


def test_the_split_does_not_depend_on_the_order_of_the_images() -> None:
    data = images([60, 40], copies=10)
    order = np.random.default_rng(3).permutation(len(data))
    assert isinstance(data.images, in_memory.ArrayImages)
    shuffled = in_memory.from_arrays(data.images.array[order], data.labels[order], data.classes)
    one, other = splits.split(data, shares(), 0), splits.split(shuffled, shares(), 0)
    assert one.digest == other.digest
    assert set(data.digests[one.test].tolist()) == set(shuffled.digests[other.test].tolist())


def test_more_training_images_change_neither_validation_nor_test() -> None:
    data = images([300, 300])
    few, many = (splits.split(data, shares(train=number), 0) for number in (20, 200))
    assert few.validation.tolist() == many.validation.tolist()
    assert few.test.tolist() == many.test.tolist()
    assert set(few.train) < set(many.train)


def test_a_class_of_three_images_is_in_every_split() -> None:
    data = images([500, 3])
    for part in parts(splits.split(data, shares(), 0)):
        assert (data.labels[part] == 1).sum() == 1


def test_identical_images_under_two_labels_are_in_one_split() -> None:
    data = images([50, 50])
    assert isinstance(data.images, in_memory.ArrayImages)
    pixels = data.images.array.copy()
    pixels[[0, 1, 60, 70]] = pixels[99]
    torn = in_memory.from_arrays(pixels, data.labels, data.classes)
    for seed in range(5):
        sides = [set(part.tolist()) & {0, 1, 60, 70, 99} for part in parts(splits.split(torn, shares(), seed))]
        assert sorted(map(len, sides)) == [0, 0, 5]


def test_identical_images_are_split_if_there_are_no_others() -> None:
    labels = np.repeat([0, 1], 6)
    pixels = np.repeat(np.arange(6, dtype=np.uint8), 2)[:, None, None].repeat(2, 1).repeat(2, 2)
    data = in_memory.from_arrays(pixels, labels, ["a", "b"])
    for part in parts(splits.split(data, shares(), 0)):
        assert np.bincount(data.labels[part]).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("counts", "given", "message"),
    [
        (
            [50, 2],
            {},
            "the class class 1 has 2 different images, but needs 3, one for each of train + validation + test;",
        ),
        ([50, 2], {}, "add images, leave the class out, or set data.test: 0"),
        ([50, 1, 2], {}, "(1 more class with too few)"),
        ([50, 1], {"test": 0}, "the class class 1 has 1 different image, but needs 2, one for each of train + validation;"),
        ([50, 50], {"test": 100}, "data.test is 100 of the 100 images, but only 96 are available; choose a smaller value"),
        ([50, 50], {"test": 40, "validation": 70}, "data.validation is 70 of the 100 images, but only 58 are available"),
        ([50, 50], {"train": 90}, "data.train is 90 of the 100 images, but only 70 are available"),
        ([20, 20, 20], {"validation": 2}, "data.validation is 2 images for 3 classes; expected at least one for each class"),
    ],
)
def test_splits_that_are_impossible_are_refused(counts: list[int], given: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.DataError) as caught:
        splits.split(images(counts), shares(**given), 0)
    assert message in str(caught.value)


@pytest.mark.parametrize("given", [{"validation": 0.45, "test": 0.45}, {"train": 0.34, "validation": 0.33, "test": 0.33}])
@pytest.mark.parametrize("count", range(3, 12))
def test_few_images_are_split_as_evenly_as_possible(count: int, given: dict[str, float]) -> None:
    data = images([count, count + 1, count])
    for part in parts(splits.split(data, shares(**given), 0)):
        assert (np.bincount(data.labels[part], minlength=3) > 0).all()


def official(data: dataset.Dataset, sides: list[int]) -> dataset.Dataset:
    assert isinstance(data.images, in_memory.ArrayImages)
    return in_memory.from_arrays(data.images.array, data.labels, data.classes, np.array(sides))


def test_official_splits_are_taken_whole() -> None:
    sides = [1, 1, 1, 2, 3] * 20
    found = splits.split(official(images([50, 50]), sides), shares(), 0)
    assert [[sides[row] for row in part] for part in parts(found)] == [[1] * 60, [2] * 20, [3] * 20]


@pytest.mark.parametrize("beside", [dataset.NONE, dataset.TRAIN])
def test_a_split_that_is_not_official_is_drawn_from_the_others(beside: int) -> None:
    sides = [beside, beside, beside, beside, dataset.TEST] * 20
    found = splits.split(official(images([50, 50]), sides), shares(validation=0.2), 0)
    assert found.test.tolist() == list(range(4, 100, 5))
    assert len(found.validation) == 20
    assert len(found.train) == 60


def test_a_number_limits_an_official_split() -> None:
    data = official(images([50, 50]), [1, 1, 1, 2, 3] * 20)
    found = splits.split(data, shares(train=10, validation=6, test=4), 0)
    assert [np.bincount(data.labels[part]).tolist() for part in parts(found)] == [[5, 5], [3, 3], [2, 2]]
    assert not splits.split(data, shares(test=0), 0).test.size
    with pytest.raises(errors.DataError, match="data.test is 21 of the 100 images, but only 20 are available"):
        splits.split(data, shares(test=21), 0)


def test_an_image_of_the_official_test_split_is_not_trained_on() -> None:
    data = images([50, 50])
    assert isinstance(data.images, in_memory.ArrayImages)
    pixels = data.images.array.copy()
    pixels[0] = pixels[4]
    leaking = official(in_memory.from_arrays(pixels, data.labels, data.classes), [1, 1, 1, 2, 3] * 20)
    found = splits.split(leaking, shares(), 0)
    assert 4 in found.test
    assert 0 not in np.concatenate(parts(found))


def test_a_class_without_official_training_images_is_refused() -> None:
    with pytest.raises(errors.DataError, match="the class class 1 has 0 different images, but needs 1, one for each of train;"):
        splits.split(official(images([50, 50]), [1, 2] * 25 + [2, 3] * 25), shares(), 0)
