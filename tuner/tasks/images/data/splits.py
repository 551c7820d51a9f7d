"""Splits: the images of a dataset that train, that choose the winner (validation), and that score it (test)."""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner import errors, wording
from tuner.kernels import scoring, targets
from tuner.kernels.targets import ImageTarget
from tuner.spec import study
from tuner.spec.hyperparameters import TargetKind
from tuner.spec.objective import ImageMetric
from tuner.tasks.images.data import dataset
from tuner.tasks.images.data.dataset import NONE, TEST, TRAIN, VALIDATION

Rows = NDArray[np.int64]
#: validation images below which the steps of the accuracy are too coarse to choose by
FEW = 100
#: relative difference from a requested share that is reported
_FAR = 0.3
#: share of the commonest class above which the accuracy says little
_UNEQUAL = 0.8
#: images of the largest class for each image of the smallest, from which classes are unequal enough for a metric that counts them alike
IMBALANCED = 3.0
#: metrics in which a rare class counts as little as its images
_BY_IMAGE: frozenset[ImageMetric] = frozenset({"accuracy", "top_5_accuracy", "log_loss"})
#: strata of numbers at most, and groups of equal images that a stratum has at least
_MOST_STRATA, _LEAST_UNITS = 10, 6
_NAMES = {TRAIN: "train", VALIDATION: "validation", TEST: "test"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """The rows of a dataset in each split, ascending."""

    train: Rows
    validation: Rows
    test: Rows
    #: SHA-256 over images and labels of the three splits, in hex
    digest: str
    #: images left out, because they equal an image of a later official split or belong to the same group
    num_leaking: int = 0


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What a model scores that looks at no image (`ImageTarget.constant`): it always answers with the shares of the classes, say."""

    #: index of the commonest class, which is its answer if an image has one label
    label: int
    #: the metric on each split; None: the split has no images, or the metric is undefined
    validation: float | None
    test: float | None


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Identical images, or images that belong together, which are always in the same split."""

    rows: tuple[int, ...]
    #: the most frequent label
    label: int


def split(data: dataset.Dataset, shares: study.Data, seed: int) -> Splits:
    """Draw the three splits that the `data` section describes.

    - The draw depends on the content of the images and on the seed, not on file names or their order.
    - Each class has the same share in each split, to within one image, and at least one image.
    - Identical images are in the same split. If they have two labels, the more frequent one counts.
    - Images of one group of the dataset are in the same split. Splits then have their shares to within a group.
    - A share below 1 is a fraction of all images. A share of 1 or more is a number of images.
    - Official splits are used whole, or as many of their images as a share of 1 or more says. The other splits are drawn from images that
      are not in official validation or test splits.
    - With `validation_from: train`, official validation images join the training images, and validation is drawn from these.
    - Changing `train` changes neither validation nor test.
    - Of images with several labels, the rarest label counts as the class, so that rare labels have their share in each split; numbers are
      in up to ten classes of equally many images, by their size. Such classes that are too small to divide are joined (`_strata`).

    Raises:
        DataError: a class has too few images for the splits, or the splits need more images than there are.
    """
    units = _units(data)
    sides = _official(data, shares, units)
    labeled = data
    if data.kind is not TargetKind.LABEL:
        data = _strata(data, shares, units, np.isin(sides, (NONE, TRAIN)))
    pool = _shuffled_groups(data, np.isin(sides, (NONE, TRAIN)), seed, units)
    chosen: dict[int, Rows] = {}
    drawn = [side for side in (TEST, VALIDATION) if not (sides == side).any() and _share(shares, side) != 0]
    if labeled.kind is TargetKind.LABELS:
        _check_labels(labeled, units, np.isin(sides, (NONE, TRAIN)), [*drawn, TRAIN])
    _check_classes(data, pool, [*drawn, TRAIN], num_leaking=int((sides < NONE).sum()))
    for position, side in enumerate(drawn):
        chosen[side], pool = _draw(data, pool, _share(shares, side), side, reserve=len(drawn) - position)
    for side in (TEST, VALIDATION):
        if side not in drawn:
            chosen[side] = _official_rows(data, shares, sides == side, side, seed, units)
    chosen[TRAIN] = _rows(pool) if shares.train is None else _draw(data, pool, shares.train, TRAIN, reserve=0)[0]
    return Splits(
        train=chosen[TRAIN],
        validation=chosen[VALIDATION],
        test=chosen[TEST],
        digest=_digest(labeled, chosen),
        num_leaking=int((sides < NONE).sum()),
    )


def divide(data: dataset.Dataset, parts: Splits, shares: study.Data, num_folds: int, seed: int) -> Rows:
    """Divide the train and the validation split together into folds, as `split` draws splits; return the fold of each row, ascending.

    Each class has the same share in each fold, to within an image, or about a group. Equal images and groups are in one fold.

    Raises:
        DataError: the data has a validation split of its own, or a class has too few images or groups.
    """
    units, rows = _units(data), np.sort(np.concatenate([parts.train, parts.validation]))
    own = 0 if data.official is None or shares.validation_from is not None else int((data.official == VALIDATION).sum())
    if own:
        raise errors.DataError(
            f"validation.folds is {num_folds}, but the data has a validation split of its own, {dataset.count(own, 'image')}; to divide "
            "these and the training images together, set data.validation_from: train"
        )
    is_open = np.isin(np.arange(len(data)), rows)
    _check_folds(data, units, is_open, num_folds)
    drawn = data
    if data.kind is not TargetKind.LABEL:
        equal = shares.model_copy(update={"validation": 1 / num_folds, "test": 0})
        drawn = _strata(data, equal, units, is_open, least=num_folds)
    pool, found = _shuffled_groups(drawn, is_open, seed, units), np.zeros(len(data), np.int64)
    for fold in range(1, num_folds):
        left = num_folds - fold
        chosen, pool = _draw(drawn, pool, round(sum(len(group.rows) for group in pool) / (left + 1)), VALIDATION, reserve=left)
        found[chosen] = fold
    folds: Rows = found[rows]
    _check_no_fold_lacks_a_class(data, rows, folds, num_folds)
    return folds


def _check_folds(data: dataset.Dataset, units: Rows, is_open: NDArray[np.bool_], num_folds: int) -> None:
    """Refuse more folds than a class has images or groups."""
    what = "different image" if data.groups is None else "group"
    counts = [len(np.unique(units[is_open & has_label])) for has_label in _by_class(data)]
    if counts and min(counts) < num_folds:
        few, name = min(zip(counts, data.classes, strict=True))
        fewer = f"give at most {few} folds, or add images of it" if few > 1 else "add images of it"
        raise errors.DataError(
            f"validation.folds is {num_folds}, but the class {wording.cut(name)} has only {dataset.count(few, what)} outside the "
            f"test split, so that a fold would be without it; {fewer}"
        )
    if len(np.unique(units[is_open])) < num_folds:
        number = dataset.count(len(np.unique(units[is_open])), what)
        raise errors.DataError(f"validation.folds is {num_folds}, but there are only {number} outside the test split; give fewer folds")


def _by_class(data: dataset.Dataset) -> list[NDArray[np.bool_]]:
    """Return for each class which images have it; [] if the labels are numbers."""
    if data.kind is TargetKind.NUMBER:
        return []
    return [data.labels == label if data.kind is TargetKind.LABEL else data.labels[:, label] > 0 for label in range(len(data.classes))]


def _check_no_fold_lacks_a_class(data: dataset.Dataset, rows: Rows, folds: Rows, num_folds: int) -> None:
    for name, has_label in zip(data.classes, _by_class(data), strict=False):
        for fold in range(num_folds):
            if not (has_label[rows] & (folds == fold)).any():
                raise errors.DataError(
                    f"validation.folds is {num_folds}, but fold {fold + 1} would have no image of the class {wording.cut(name)}, because "
                    "its images belong to few groups, or have other labels, too; give fewer folds, or add images of it"
                )


def _strata(
    data: dataset.Dataset, shares: study.Data, units: Rows, is_open: NDArray[np.bool_], *, least: int = _LEAST_UNITS
) -> dataset.Dataset:
    """Return a dataset with one label for each image, by which splits are drawn: its rarest label, or the size of its number.

    Small classes are joined, until each has enough groups of images for all splits, and until a split has an image of each.
    """
    amounts = [round(share * len(data)) if share < 1 else int(share) for share in (shares.validation, shares.test) if share]
    most = max(1, min([_MOST_STRATA if data.kind is TargetKind.NUMBER else len(data), *(amount // 2 for amount in amounts)]))
    if data.kind is TargetKind.NUMBER:
        limits = np.quantile(data.labels, np.arange(1, most) / most)
        found = np.searchsorted(np.unique(limits), data.labels, side="right")
    else:
        order = np.argsort(data.counts, kind="stable")  # the rarest class first
        found = np.where(data.labels.any(1), data.labels[:, order].argmax(1), len(data.classes))
    found = found.astype(np.int64)
    while True:
        names, found = np.unique(found, return_inverse=True)
        own = [len(np.unique(units[is_open & (found == name)])) for name in range(len(names))]
        if len(names) == 1 or (min(own) >= least and len(names) <= most):
            return replace(data, kind=TargetKind.LABEL, labels=found, classes=tuple(f"part {name}" for name in range(len(names))))
        smallest, second = np.argsort(own, kind="stable")[:2]
        found = np.where(found == smallest, second, found)


def _check_labels(data: dataset.Dataset, units: Rows, is_open: NDArray[np.bool_], needed: Sequence[int]) -> None:
    """Refuse a class that is on fewer images, or groups of images, than there are splits to draw."""
    for label, name in enumerate(data.classes):
        number = len(np.unique(units[is_open & (data.labels[:, label] > 0)]))
        if number < len(needed):
            what = "different image" if data.groups is None else "group"
            names = " + ".join(_NAMES[side] for side in sorted(needed))
            cure = "add images, leave the class out, or set data.test: 0" if TEST in needed else "add images, or leave the class out"
            raise errors.DataError(
                f"the class {wording.cut(name)} has {dataset.count(number, what)}, but needs {len(needed)}, one for each of {names}; {cure}"
            )


def baseline(
    train: NDArray[Any],
    validation: NDArray[Any],
    test: NDArray[Any],
    *,
    metric: ImageMetric = "accuracy",
    target: ImageTarget = targets.ONE_LABEL,
) -> Baseline:
    """Return what a model scores that answers the same for every image, given the encoded labels of the three splits."""
    has_one = target.kind is TargetKind.LABEL
    num_classes = 1 + max(int(labels.max(initial=0)) for labels in (train, validation, test)) if has_one else train.shape[1]
    scores = [target.constant(metric, train, labels, num_classes) if len(labels) else math.nan for labels in (validation, test)]
    known = [score if math.isfinite(score) else None for score in scores]
    return Baseline(label=int(np.bincount(train).argmax()) if has_one else 0, validation=known[0], test=known[1])


def require_measurable(data: dataset.Dataset, parts: Splits, metric: ImageMetric) -> None:
    """Refuse a metric that says nothing about the validation images.

    Raises:
        DataError: every answer counts as right, or there is nothing to compare.
    """
    given = f"objective.metric is {metric}, but"
    if metric == "top_5_accuracy" and len(data.classes) <= scoring.NUM_ANSWERS:
        few = wording.count(len(data.classes), "class")
        raise errors.DataError(f"{given} the data has only {few}, so every answer is right; choose accuracy")
    found = np.unique(data.labels[parts.validation])
    if data.kind is not TargetKind.LABEL and len(found) < 2:
        of_labels = "have every label" if found[0] else "have no label"
        what = of_labels if data.kind is TargetKind.LABELS else f"have the number {wording.number(float(found[0]))}"
        raise errors.DataError(
            f"{given} all validation images {what}, so it says nothing; add other validation images, or raise data.validation"
        )
    if metric == "auc" and len(found) == 1:
        raise errors.DataError(
            f"{given} all validation images are of the class {wording.shorten(data.classes[found[0]])}, and AUC compares classes; add "
            "validation images of other classes, or choose another metric"
        )


def recommend(classes: Sequence[str], train: NDArray[np.int64], labels: NDArray[np.int64], metric: ImageMetric = "accuracy") -> str:
    """Return the advice to choose a metric that counts every class alike; "" if `metric` does, or if the classes are about equal.

    `labels` are those of the images on which "always the commonest class" is scored.
    """
    if metric not in _BY_IMAGE:
        return ""
    counts = np.bincount(train, minlength=len(classes))
    if counts.max() < IMBALANCED * max(1, counts.min()) or not len(labels):
        return ""
    names: tuple[ImageMetric, ...] = ("accuracy", "balanced_accuracy", "macro_f1")
    own, balanced, f1 = (scoring.constant(name, train, labels, len(classes)) for name in names)
    name = wording.shorten(classes[int(counts.argmax())])
    return (
        f"the largest class has {counts.max() / max(1, counts.min()):.0f} times as many images as the smallest: always {name} scores "
        f"{own:.4f} in accuracy, {balanced:.4f} in balanced_accuracy and {f1:.4f} in macro_f1. To count every class alike, set "
        "objective: balanced_accuracy or objective: macro_f1"
    )


def notes(data: dataset.Dataset, parts: Splits, shares: study.Data, metric: ImageMetric = "accuracy", *, num_folds: int = 1) -> list[str]:
    """Return notes on the splits that a user should read before training, as lines. With folds, all images but the test split validate."""
    return [
        *_note_leaking(data, parts),
        *_note_groups(data, parts, shares),
        *(_note_few(data, parts, shares) if num_folds == 1 else ()),
        *_note_absent(data, parts),
        *(_note_unequal(data, parts) if metric in _BY_IMAGE else ()),
    ]


def _note_leaking(data: dataset.Dataset, parts: Splits) -> list[str]:
    if not parts.num_leaking:
        return []
    why = "equal images of" if data.groups is None else "equal images of, or belong to groups in,"
    return [f"left out because they {why} another split of the data: {dataset.count(parts.num_leaking, 'image')}"]


def _note_groups(data: dataset.Dataset, parts: Splits, shares: study.Data) -> list[str]:
    """Return notes on groups that change nothing, or that keep a split from its share."""
    if data.groups is None:
        return []
    num_groups = len(np.unique(data.groups))
    if num_groups == len(data):
        return ["every image is a group of its own, so the groups change nothing; check data.group_column or data.group_pattern"]
    lines = []
    for side, rows in ((VALIDATION, parts.validation), (TEST, parts.test)):
        share = _share(shares, side)
        wanted = share * len(data) if share < 1 else share
        is_own = data.official is not None and bool((data.official == side).any())
        if not is_own and abs(len(rows) - wanted) > _FAR * wanted:
            lines.append(
                f"{_NAMES[side]} has {dataset.count(len(rows), 'image')} instead of {wanted:,.0f}, because the {num_groups:,} groups of "
                "images are not divided"
            )
    return lines


def _note_few(data: dataset.Dataset, parts: Splits, shares: study.Data) -> list[str]:
    """Return notes on a validation split that is too small to choose by, or to which a share does not apply."""
    is_own = data.official is not None and bool((data.official == VALIDATION).any()) and shares.validation_from is None
    unused = f"data.validation: {shares.validation:g} does not apply" if is_own and shares.validation < 1 else ""
    cure = "to draw one from the training images, set data.validation_from: train"
    number = len(parts.validation)
    if number < FEW:
        step = describe_step(number)
        if data.kind is not TargetKind.LABEL:
            step = f"validation has only {dataset.count(number, 'image')}: too few to choose the best trial"
        if is_own:
            return [f"{step}. The data has this validation split of its own{unused and f', so {unused}'}; {cure}"]
        return [f"{step}; raise data.validation, or add images"]
    if unused and "validation" in shares.model_fields_set:
        return [f"{unused}: the data has a validation split of its own, {dataset.count(number, 'image')}; {cure}"]
    return []


def _note_absent(data: dataset.Dataset, parts: Splits) -> list[str]:
    """Return notes on splits that have no image of some class."""
    lines = []
    for side, rows in ((VALIDATION, parts.validation), (TEST, parts.test)):
        counts = data.counts_of(rows)
        absent = [wording.shorten(data.classes[label]) for label in np.flatnonzero(counts == 0).tolist()]
        if len(rows) and absent:
            more = f" and {len(absent) - 5:,} more" if len(absent) > 5 else ""
            lines.append(
                f"{_NAMES[side]} has no images of {', '.join(absent[:5])}{more}, so its accuracy says nothing about "
                f"{'this class' if len(absent) == 1 else 'these classes'}; add some"
            )
    return lines


def describe_step(number: int) -> str:
    """Say in which steps the accuracy of a small validation split moves: `16 images: accuracy moves in steps of 6 points`."""
    points = dataset.count(max(1, round(100 / number)), "point")
    return f"validation has only {dataset.count(number, 'image')}: accuracy moves in steps of {points}, too coarse to choose the best trial"


def _note_unequal(data: dataset.Dataset, parts: Splits) -> list[str]:
    """Return a note if a model that always answers the commonest class has a high accuracy."""
    found = baseline(data.labels[parts.train], data.labels[parts.validation], data.labels[parts.test])
    if found.validation is None or found.validation < _UNEQUAL:
        return []
    counts = np.bincount(data.labels[parts.validation], minlength=len(data.classes))
    rarest = int(counts.argmin())
    name, rare = (wording.shorten(data.classes[label]) for label in (found.label, rarest))
    return [
        f"always answering {name}, the commonest class, has a validation accuracy of {found.validation:.4f}, and "
        f"{rare} has only {dataset.count(int(counts[rarest]), 'validation image')}: accuracy says little about rare "
        "classes. Compare with this figure; objective: balanced_accuracy or macro_f1 counts every class alike; "
        "class_weights: [none, balanced] searches weights for rare classes"
    ]


def _units(data: dataset.Dataset) -> Rows:
    """Return a number for each row: equal for images that must be in one split, and independent of the order of the rows."""
    _, units = np.unique(data.digests, return_inverse=True)
    if data.groups is None:
        return units.astype(np.int64)
    # identical images join their groups: each round gives every image the lowest number of its group, then of its copies
    found = units.astype(np.int64)
    while True:
        before = found
        for members in (data.groups, units):
            lowest = np.full(members.max() + 1, len(data), np.int64)
            np.minimum.at(lowest, members, found)
            found = lowest[members]
        if (found == before).all():
            return found


def _official(data: dataset.Dataset, shares: study.Data, units: Rows) -> NDArray[np.int8]:
    """Return the official split of each row, or -1 for an image that would leak from a later split."""
    if data.official is None:
        return np.full(len(data), NONE, np.int8)
    official = data.official
    if shares.validation_from == "train":
        official = np.where(official == VALIDATION, TRAIN, official)
    last = np.zeros(units.max() + 1, np.int8)
    np.maximum.at(last, units, official)
    # NONE and TRAIN are one pool
    leaks = (last[units] > TRAIN) & (official < last[units])
    return np.where(leaks, -1, official).astype(np.int8)


def _shuffled_groups(data: dataset.Dataset, mask: NDArray[np.bool_], seed: int, units: Rows) -> list[_Group]:
    rows = np.flatnonzero(mask)
    _, group = np.unique(units[rows], return_inverse=True)
    order = np.lexsort((rows, group))
    members = np.split(rows[order], np.flatnonzero(np.diff(group[order])) + 1) if len(rows) else []
    groups = [_Group(rows=tuple(part.tolist()), label=_common_label(data.labels[part])) for part in members]
    return [groups[index] for index in np.random.default_rng(seed).permutation(len(groups))]


def _common_label(labels: Rows) -> int:
    """Return the most frequent label, the lowest of several; the time does not depend on the number of classes."""
    if len(labels) == 1:
        return int(labels[0])
    found, counts = np.unique(labels, return_counts=True)
    return int(found[counts.argmax()])


def _draw(data: dataset.Dataset, pool: Sequence[_Group], share: float, side: int, *, reserve: int) -> tuple[Rows, list[_Group]]:
    """Take a share from the pool, class by class, and leave at least `reserve` groups of each class."""
    if data.groups is not None:
        return _draw_groups(data, pool, share, side, reserve=reserve)
    counts = _counts(data, pool)
    quotas = _apportion(_amount(data, counts, share, side, reserve), counts, reserve)
    taken, left = [], []
    by_class: dict[int, list[_Group]] = {}
    for group in pool:
        by_class.setdefault(group.label, []).append(group)
    for label, groups in by_class.items():
        ours = _fill(groups, int(quotas[label]), len(groups) - reserve)
        taken += [group for group, is_ours in zip(groups, ours, strict=True) if is_ours]
        left += [group for group, is_ours in zip(groups, ours, strict=True) if not is_ours]
    return _rows(taken), left


def _draw_groups(data: dataset.Dataset, pool: Sequence[_Group], share: float, side: int, *, reserve: int) -> tuple[Rows, list[_Group]]:
    """Take groups of any classes from the pool, each if it brings the classes closer to their shares."""
    labels = [Counter(data.labels[list(group.rows)].tolist()) for group in pool]
    counts = np.bincount(data.labels[_rows(pool)], minlength=len(data.classes))
    wanted = _apportion(_amount(data, counts, share, side, reserve), counts, reserve).astype(np.int64)
    left = Counter(label for held in labels for label in held)
    taken: set[int] = set()

    def change(index: int) -> int:
        """Return by how much the group would change the distance from the shares."""
        return sum(abs(int(wanted[label]) - count) - abs(int(wanted[label])) for label, count in labels[index].items())

    def take(index: int) -> None:
        taken.add(index)
        for label, count in labels[index].items():
            wanted[label] -= count
            left[label] -= 1

    def is_free(index: int) -> bool:
        return index not in taken and all(left[label] > reserve for label in labels[index])

    holders: dict[int, list[int]] = {}
    for index, held in enumerate(labels):
        for label in held:
            holders.setdefault(label, []).append(index)
    lacking = set(np.flatnonzero(wanted).tolist())
    for index in range(len(pool)):
        if is_free(index) and change(index) < 0:
            take(index)
            lacking -= labels[index].keys()
    for label in sorted(lacking):  # at least one group of each class
        free = [index for index in holders[label] if is_free(index)]
        if free and taken.isdisjoint(holders[label]):
            take(min(free, key=change))
    return _rows([pool[index] for index in sorted(taken)]), [group for index, group in enumerate(pool) if index not in taken]


def _fill(groups: Sequence[_Group], quota: int, most: int) -> list[bool]:
    """Choose groups with `quota` images in total, the first ones first; at least one, unless the quota is 0."""
    ours, wanted = [False] * len(groups), quota
    for index, group in enumerate(groups):
        if most and len(group.rows) <= wanted:
            ours[index], wanted, most = True, wanted - len(group.rows), most - 1
    if quota and not any(ours):
        ours[min(range(len(groups)), key=lambda index: len(groups[index].rows))] = True
    return ours


def _apportion(amount: int, counts: Rows, reserve: int) -> Rows:
    """Divide an amount among the classes by largest remainders; at least one each, if the amount allows it."""
    exact = amount * counts / counts.sum()
    high = np.maximum(counts - reserve, 0)
    low = np.minimum(high, 1 if amount >= np.count_nonzero(high) else 0)
    quotas: Rows = np.clip(np.floor(exact).astype(np.int64), low, high)
    while quotas.sum() < amount:
        quotas[np.where(quotas < high, exact - quotas, -np.inf).argmax()] += 1
    while quotas.sum() > amount:
        quotas[np.where(quotas > low, exact - quotas, np.inf).argmin()] -= 1
    return quotas


def _official_rows(data: dataset.Dataset, shares: study.Data, mask: NDArray[np.bool_], side: int, seed: int, units: Rows) -> Rows:
    share = _share(shares, side)
    if share == 0:
        return np.empty(0, np.int64)
    if share < 1:
        return np.flatnonzero(mask)
    return _draw(data, _shuffled_groups(data, mask, seed, units), share, side, reserve=0)[0]


def _check_classes(data: dataset.Dataset, pool: Sequence[_Group], needed: Sequence[int], *, num_leaking: int) -> None:
    """Refuse a class with fewer images, or groups of images, than drawn splits; `num_leaking` images are not in the pool."""
    if data.groups is None:
        labels = [group.label for group in pool]
    else:
        labels = [label for group in pool for label in np.unique(data.labels[list(group.rows)]).tolist()]
    have = np.bincount(np.array(labels, np.int64), minlength=len(data.classes))
    poor = [(have[label], name) for label, name in enumerate(data.classes) if have[label] < len(needed)]
    if poor:
        number, name = min(poor)
        others = f" ({dataset.count(len(poor) - 1, 'more class', 'more classes')} with too few)" if len(poor) > 1 else ""
        names = " + ".join(_NAMES[side] for side in sorted(needed))
        cure = "add images, leave the class out, or set data.test: 0" if TEST in needed else "add images, or leave the class out"
        found = dataset.count(int(number), "different image") if data.groups is None else f"images of {dataset.count(int(number), 'group')}"
        why = _explain_few(data, pool, data.classes.index(name), num_leaking, len(poor))
        raise errors.DataError(
            f"the class {wording.cut(name)} has {found}, but needs {len(needed)}, one for each of {names}{others}; {why or cure}"
        )


def _explain_few(data: dataset.Dataset, pool: Sequence[_Group], label: int, num_leaking: int, num_poor: int) -> str:
    """Say why a class has few images that can be drawn, and what to do; "" if it simply has few."""
    disputed = [group for group in pool if data.groups is None and group.label != label and label in data.labels[list(group.rows)]]
    if disputed:
        rows = disputed[0].rows
        own, other = (next(row for row in rows if data.labels[row] == one) for one in (label, disputed[0].label))
        return (
            f"{dataset.count(len(disputed), 'image')} of it also have another label, first {data.name(own)} = {data.name(other)} of "
            f"{wording.cut(data.classes[disputed[0].label])}. Give each image one label"
        )
    if dataset.is_placeholder(data.classes[label]):
        return "programs write it for a missing value; if these images have no label, remove them"
    if data.groups is None and not num_leaking and not any(group.label == label for group in pool) and (number := int(data.counts[label])):
        return f"its {dataset.count(number, 'image')} are all in other splits of the data; add training images, or leave the class out"
    if num_leaking:
        return (
            f"{dataset.count(num_leaking, 'image')} were left out because they equal, or belong to, images of another split of the data; "
            "remove these from one of the splits"
        )
    if num_poor > 1 and 2 * len(data.classes) > len(data):
        return (
            f"the {len(data):,} images have {len(data.classes):,} different labels, which seem to be measurements or names of images. "
            "Expected the name of a class, which many images share; check data.label_column"
        )
    return ""


def _amount(data: dataset.Dataset, counts: Rows, share: float, side: int, reserve: int) -> int:
    """Return the number of images in a share of a pool that must keep `reserve` groups of each class."""
    num_classes = int(np.count_nonzero(counts))
    most = int(counts.sum()) - reserve * num_classes
    amount = max(round(share * len(data)), num_classes) if share < 1 else int(share)
    if amount < num_classes:
        raise errors.DataError(f"data.{_NAMES[side]} is {amount} images for {num_classes} classes; expected at least one for each class")
    # fractions are rounded, and each class gets at least one image, so they may add up to a few images too many
    slack = 2 * num_classes if share < 1 else 0
    if amount > most + slack:
        raise errors.DataError(
            f"data.{_NAMES[side]} is {amount} of the {len(data)} images, but only {most} are available; choose a smaller value"
        )
    return min(amount, most)


def _share(shares: study.Data, side: int) -> float:
    return {TRAIN: shares.train or 0.0, VALIDATION: shares.validation, TEST: shares.test}[side]


def _counts(data: dataset.Dataset, groups: Sequence[_Group]) -> Rows:
    counts = np.zeros(len(data.classes), np.int64)
    for group in groups:
        counts[group.label] += len(group.rows)
    return counts


def _rows(groups: Sequence[_Group]) -> Rows:
    return np.sort(np.array([row for group in groups for row in group.rows], np.int64))


def _digest(data: dataset.Dataset, chosen: dict[int, Rows]) -> str:
    parts = [dataset.content_hash(data.digests[chosen[side]], data.labels[chosen[side]]) for side in (TRAIN, VALIDATION, TEST)]
    return hashlib.sha256(b"".join(parts)).hexdigest()
