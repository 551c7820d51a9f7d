"""Properties of every split."""

import re
from dataclasses import replace
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


def test_a_validation_split_of_its_own_that_is_too_small_is_reported_with_the_step_and_the_cure() -> None:
    spread = official(images([100, 100]), [[3, 2, *[1] * 10][number % 12] for number in range(200)])
    found = splits.split(spread, shares(), 0)
    assert splits.notes(spread, found, shares()) == [
        "validation has only 17 images: accuracy moves in steps of 6 points, too coarse to choose the best trial. The data has this "
        "validation split of its own, so data.validation: 0.15 does not apply; to draw one from the training images, set "
        "data.validation_from: train"
    ]


def test_validation_from_train_draws_validation_from_the_training_images_and_leaves_test_as_it_is() -> None:
    data = official(images([600, 600]), [3, 2, *[1] * 10] * 100)
    own, drawn = (splits.split(data, shares(**given), 0) for given in ({}, {"validation_from": "train"}))
    assert len(own.validation) == 100
    assert drawn.test.tolist() == own.test.tolist() == list(range(0, 1200, 12))
    assert len(drawn.validation) == 180  # 15 % of all images
    assert len(drawn.train) == 1200 - 100 - 180  # the images of the old validation split are in one of the two
    assert splits.notes(data, drawn, shares(validation_from="train")) == []


def test_a_share_that_does_not_apply_is_reported_only_if_the_file_gives_it() -> None:
    data = official(images([600, 600]), [3, 2, *[1] * 10] * 100)
    given = shares(validation=0.2)
    assert splits.notes(data, splits.split(data, given, 0), given) == [
        "data.validation: 0.2 does not apply: the data has a validation split of its own, 100 images; to draw one from the training "
        "images, set data.validation_from: train"
    ]
    assert splits.notes(data, splits.split(data, shares(), 0), shares()) == []


@pytest.mark.parametrize(("number", "points"), [(2, "50 points"), (16, "6 points"), (30, "3 points"), (99, "1 point")])
def test_a_small_validation_split_is_described_by_its_steps(number: int, points: str) -> None:
    assert f"{number} images: accuracy moves in steps of {points}," in splits.describe_step(number)


def test_the_commonest_class_is_that_of_the_training_images() -> None:
    train, validation, test = (np.repeat([0, 1], counts) for counts in ([990, 10], [8, 8], [0, 0]))
    found = splits.baseline(train, validation, test)
    assert (found.label, found.validation, found.test) == (0, 0.5, None)


def test_rare_classes_are_reported_with_what_the_commonest_class_scores() -> None:
    data = images([990, 10])
    found = splits.split(data, shares(), 0)
    assert splits.notes(data, found, shares()) == [
        "always answering class 0, the commonest class, has a validation accuracy of 0.9867, and class 1 has only 2 validation images: "
        "accuracy says little about rare classes. Compare with this figure; "
        "objective: balanced_accuracy or macro_f1 counts every class alike; "
        "class_weights: [none, balanced] searches weights for rare classes"
    ]


def grouped(labels: list[int], groups: list[int], *, seed: int = 0) -> dataset.Dataset:
    """Return different images with these labels and groups, in an order of their own."""
    order = np.random.default_rng(seed).permutation(len(labels))
    pixels = np.arange(len(labels), dtype=np.uint32).view(np.uint8).reshape(-1, 2, 2)
    names = [f"class {label}" for label in range(max(labels) + 1)]
    made = in_memory.from_arrays(pixels[order], np.array(labels)[order], names)
    return replace(made, groups=np.array(groups, np.int64)[order])


#: labels and groups of images, and whether groups have several classes
PATIENTS: dict[str, tuple[list[int], list[int]]] = {
    "ten photos of each patient": ([patient % 2 for patient in range(20) for _ in range(10)], [p for p in range(20) for _ in range(10)]),
    "patients with both classes": ([int(number % 3 == 0) for number in range(400)], [number // 8 for number in range(400)]),
    "groups of many sizes": (
        [size % 3 for size in range(1, 40) for _ in range(size)],
        [size for size in range(1, 40) for _ in range(size)],
    ),
    "a rare class that is never alone": ([int(number % 10 == 0) for number in range(500)], [number // 10 for number in range(500)]),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", PATIENTS)
def test_images_of_a_group_stay_in_one_split_and_each_class_has_its_share(name: str, seed: int) -> None:
    labels, groups = PATIENTS[name]
    data = grouped(labels, groups)
    assert data.groups is not None
    found = parts(splits.split(data, shares(validation=0.2, test=0.2), seed))
    assert sorted(np.concatenate(found).tolist()) == list(range(len(data)))
    held = [set(data.groups[part].tolist()) for part in found]
    assert not held[0] & held[1] | held[0] & held[2] | held[1] & held[2]
    for part in found[1:]:
        counts = np.bincount(data.labels[part], minlength=len(data.classes))
        largest = max(groups.count(group) for group in groups)
        assert (counts > 0).all()
        assert (np.abs(counts - 0.2 * data.counts) <= largest).all()


def test_the_split_of_groups_depends_on_the_seed_and_not_on_the_order_or_names_of_the_groups() -> None:
    labels, groups = PATIENTS["ten photos of each patient"]
    one, shuffled = grouped(labels, groups), grouped(labels, [97 - group for group in groups], seed=5)
    digests = [splits.split(data, shares(), seed).digest for data, seed in ((one, 0), (shuffled, 0), (one, 1))]
    assert digests[0] == digests[1] != digests[2]


def test_a_copy_of_an_image_joins_its_group() -> None:
    labels, groups = PATIENTS["ten photos of each patient"]
    data = grouped(labels, groups)
    assert data.groups is not None
    digests = data.digests.copy()
    first, second = (int(np.flatnonzero(data.groups == group)[0]) for group in (0, 2))
    digests[second] = digests[first]
    for seed in range(4):
        found = parts(splits.split(replace(data, digests=digests), shares(), seed))
        (side,) = [set(data.groups[part].tolist()) for part in found if first in part]
        assert {0, 2} <= side


def test_a_class_of_too_few_groups_is_refused() -> None:
    data = grouped([0] * 40 + [1] * 40, [number // 4 for number in range(40)] + [number // 20 + 100 for number in range(40)])
    with pytest.raises(errors.DataError, match=r"class 1 has images of 2 groups, but needs 3, one for each of train \+ validation \+ test"):
        splits.split(data, shares(), 0)


def test_training_images_of_a_group_in_the_official_test_split_are_left_out_and_counted() -> None:
    labels, groups = PATIENTS["ten photos of each patient"]
    data = grouped(labels, groups)
    assert data.groups is not None
    sides = np.where(data.groups < 4, dataset.TEST, dataset.TRAIN).astype(np.int8)
    sides[np.flatnonzero(data.groups == 0)[:7]] = dataset.TRAIN
    found = splits.split(replace(data, official=sides), shares(), 0)
    assert len(found.test) == 33
    assert not set(data.groups[found.train].tolist()) & {0, 1, 2, 3}
    assert found.num_leaking == 7
    assert splits.notes(replace(data, official=sides), found, shares())[0] == (
        "left out because they equal images of, or belong to groups in, another split of the data: 7 images"
    )


def test_groups_that_change_nothing_or_too_much_are_reported() -> None:
    alone = grouped([0, 1] * 50, list(range(100)))
    assert splits.notes(alone, splits.split(alone, shares(), 0), shares())[0].startswith("every image is a group of its own, so the groups")
    large = grouped([0, 1] * 60, [number // 30 for number in range(120)])
    assert splits.notes(large, splits.split(large, shares(test=0), 0), shares(test=0))[0] == (
        "validation has 30 images instead of 18, because the 4 groups of images are not divided"
    )


@pytest.mark.parametrize("given", [{"train": 60}, {"validation": 40, "test": 40}, {"test": 0}])
def test_groups_go_with_numbers_of_images(given: dict[str, Any]) -> None:
    labels, groups = PATIENTS["ten photos of each patient"]
    data = grouped(labels, groups)
    found = splits.split(data, shares(**given), 0)
    for name, number in given.items():
        assert abs(len(getattr(found, name)) - number) <= 10


def few(labels: list[int], same: list[int], names: list[str], **more: Any) -> str:
    """Return the refusal of images with labels, where images with the same number are identical."""
    pixels = np.array(same, dtype=np.uint32).view(np.uint8).reshape(-1, 2, 2)
    data = replace(in_memory.from_arrays(pixels, np.array(labels), names), **more)
    with pytest.raises(errors.DataError) as caught:
        splits.split(data, shares(), seed=0)
    return str(caught.value)


def test_images_with_two_labels_explain_a_class_with_few_images() -> None:
    said = few([0, 1] * 6, [n // 2 for n in range(12)], ["cat", "dog"])
    found = re.search(r"; 6 images of it also have another label, first image (\d+) = image (\d+) of cat. Give each image one label$", said)
    assert found is not None, said
    assert int(found[1]) == int(found[2]) + 1


def test_copies_in_the_test_split_explain_a_class_with_few_images() -> None:
    official = np.array([dataset.TRAIN] * 6 + [dataset.TEST] * 6, np.int8)
    said = few([0, 1] * 6, [n % 6 for n in range(12)], ["cat", "dog"], official=official)
    assert said.endswith(
        "6 images were left out because they equal, or belong to, images of another split of the data; remove these from one of the splits"
    )


def test_measurements_explain_classes_with_few_images() -> None:
    said = few(list(range(12)), list(range(12)), [f"{n}.5" for n in range(12)])
    assert "the 12 images have 12 different labels, which seem to be measurements or names of images" in said
    assert said.endswith("check data.label_column")


def test_a_placeholder_explains_a_class_with_few_images() -> None:
    said = few([0] * 9 + [1], list(range(10)), ["cat", "?"])
    assert said.endswith("; programs write it for a missing value; if these images have no label, remove them")


def test_a_class_without_training_images_is_explained() -> None:
    official = np.array([dataset.TRAIN] * 8 + [dataset.TEST] * 4, np.int8)
    said = few([0, 1] * 4 + [0, 1, 2, 2], list(range(12)), ["cat", "dog", "bird"], official=official)
    assert said.endswith("; its 2 images are all in other splits of the data; add training images, or leave the class out")


def test_a_split_without_images_of_a_class_is_reported() -> None:
    data = images([8, 8, 8])
    official = np.array([*[dataset.TRAIN] * 6, *[dataset.TEST] * 2] * 2 + [dataset.TRAIN] * 8, np.int8)
    data = replace(data, official=official)
    asked = shares()
    said = "test has no images of class 2, so its accuracy says nothing about this class; add some"
    assert said in splits.notes(data, splits.split(data, asked, seed=0), asked)
    without = shares(test=0)
    assert not [line for line in splits.notes(data, splits.split(data, without, seed=0), without) if line.startswith("test has no images")]


def test_the_baseline_is_measured_in_the_metric_of_the_study() -> None:
    train, validation, test = (np.repeat([0, 1], counts) for counts in ([90, 10], [8, 8], [0, 0]))
    found = splits.baseline(train, validation, test, metric="macro_f1")
    assert (found.label, found.test) == (0, None)
    assert found.validation == pytest.approx((2 / 3 + 0) / 2)
    found = splits.baseline(train, validation, test, metric="log_loss")
    assert found.validation == pytest.approx(-(np.log(0.9) + np.log(0.1)) / 2)


def test_a_metric_that_counts_classes_alike_is_recommended_for_unequal_classes() -> None:
    train, validation = (np.repeat([0, 1], counts) for counts in ([90, 30], [18, 6]))
    assert splits.recommend(["ok", "crack"], train, validation) == (
        "the largest class has 3 times as many images as the smallest: always ok scores 0.7500 in accuracy, 0.5000 in balanced_accuracy "
        "and 0.4286 in macro_f1. To count every class alike, set objective: balanced_accuracy or objective: macro_f1"
    )
    assert splits.recommend(["ok", "crack"], train, validation, "macro_f1") == ""
    assert splits.recommend(["ok", "crack"], np.repeat([0, 1], [90, 31]), validation) == ""
    assert splits.recommend(["ok", "crack"], train, validation[:0]) == ""


def test_rare_classes_are_no_matter_for_a_metric_that_counts_classes_alike() -> None:
    data = images([990, 10])
    found = splits.split(data, shares(), 0)
    assert splits.notes(data, found, shares(), "balanced_accuracy") == []


def test_a_metric_that_says_nothing_about_the_images_is_refused() -> None:
    few = images([10] * 5)
    found = splits.split(few, shares(), 0)
    with pytest.raises(errors.DataError, match="top_5_accuracy, but the data has only 5 classes, so every answer is right"):
        splits.require_measurable(few, found, "top_5_accuracy")
    splits.require_measurable(few, found, "auc")
    more = images([10] * 6)
    splits.require_measurable(more, splits.split(more, shares(), 0), "top_5_accuracy")
    one_class = replace(found, validation=np.flatnonzero(few.labels == 2))
    with pytest.raises(errors.DataError, match="all validation images are of the class class 2, and AUC compares classes"):
        splits.require_measurable(few, one_class, "auc")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("counts", "copies", "num_folds"), [([30, 30], 0, 5), ([23, 11, 7], 0, 3), ([60, 20], 20, 4), ([5, 5], 0, 4)])
def test_folds_have_their_share_of_each_class_and_no_image_in_common(counts: list[int], copies: int, num_folds: int, seed: int) -> None:
    data = images(counts, copies=copies, seed=seed)
    given = shares(validation=0.1, test=0.1)
    found = splits.split(data, given, seed)
    rows = np.sort(np.concatenate([found.train, found.validation]))
    folds = splits.divide(data, found, given, num_folds, seed)
    assert folds.shape == rows.shape
    assert sorted(set(folds.tolist())) == list(range(num_folds))
    digests = [set(data.digests[rows[folds == fold]].tolist()) for fold in range(num_folds)]
    assert sum(map(len, digests)) == len(set.union(*digests))
    if not copies:
        for label in range(len(counts)):
            each = [int((data.labels[rows[folds == fold]] == label).sum()) for fold in range(num_folds)]
            assert max(each) - min(each) <= 1
            assert min(each) >= 1


def test_folds_depend_on_the_seed_and_the_images_and_not_on_their_order() -> None:
    data, given = images([30, 20]), shares(validation=0.1, test=0.1)
    found = splits.split(data, given, 1)
    folds = splits.divide(data, found, given, 3, 1)
    assert (folds == splits.divide(data, found, given, 3, 1)).all()
    assert (folds != splits.divide(data, found, given, 3, 2)).any()
    order = np.random.default_rng(0).permutation(len(data))
    assert isinstance(data.images, in_memory.ArrayImages)
    other = in_memory.from_arrays(data.images.array[order], data.labels[order], data.classes)
    again = splits.split(other, given, 1)
    rows = np.sort(np.concatenate([found.train, found.validation]))
    others = np.sort(np.concatenate([again.train, again.validation]))
    known = {data.digests[row]: fold for row, fold in zip(rows, folds, strict=True)}
    refound = splits.divide(other, again, given, 3, 1)
    assert known == {other.digests[row]: fold for row, fold in zip(others, refound, strict=True)}


def test_images_of_a_group_are_in_one_fold() -> None:
    data = replace(images([40, 40]), groups=np.repeat(np.arange(20), 4))
    given = shares(validation=0.1, test=0.1)
    found = splits.split(data, given, 0)
    rows = np.sort(np.concatenate([found.train, found.validation]))
    folds = splits.divide(data, found, given, 4, 0)
    assert data.groups is not None
    for group in range(20):
        assert len(set(folds[data.groups[rows] == group].tolist())) <= 1
    for label in (0, 1):
        assert all((data.labels[rows[folds == fold]] == label).any() for fold in range(4))


@pytest.mark.parametrize(
    ("data", "num_folds", "message"),
    [
        (
            images([40, 6]),
            6,
            "validation.folds is 6, but the class class 1 has only 5 different images outside the test split, so that a "
            "fold would be without it; give at most 5 folds, or add images of it",
        ),
        (replace(images([40, 40]), groups=np.repeat(np.arange(8), 10)), 4, "the class class 0 has only 3 groups outside the test split"),
        (
            replace(images([40, 40]), official=np.array([dataset.VALIDATION] * 5 + [dataset.NONE] * 75, np.int8)),
            4,
            "validation.folds is 4, but the data has a validation split of its own, 5 images; to divide these and the training images "
            "together, set data.validation_from: train",
        ),
    ],
)
def test_folds_that_are_impossible_are_refused(data: dataset.Dataset, num_folds: int, message: str) -> None:
    given = shares(validation=0.1, test=0.2)
    with pytest.raises(errors.DataError, match=re.escape(message)):
        splits.divide(data, splits.split(data, given, 0), given, num_folds, 0)


def test_an_official_validation_split_is_divided_if_the_file_says_so() -> None:
    data = replace(images([40, 40]), official=np.array([dataset.VALIDATION] * 5 + [dataset.NONE] * 75, np.int8))
    given = shares(validation=0.1, test=0.2, validation_from="train")
    found = splits.split(data, given, 0)
    assert len(splits.divide(data, found, given, 4, 0)) == len(found.train) + len(found.validation) == 64
