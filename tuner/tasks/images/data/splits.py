"""Splits: the images of a dataset that train, that choose the winner (validation), and that score it (test)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuner import errors
from tuner.spec import study
from tuner.tasks.images.data import dataset
from tuner.tasks.images.data.dataset import NONE, TEST, TRAIN, VALIDATION

Rows = NDArray[np.int64]
_NAMES = {TRAIN: "train", VALIDATION: "validation", TEST: "test"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """The rows of a dataset in each split, ascending."""

    train: Rows
    validation: Rows
    test: Rows
    #: SHA-256 over images and labels of the three splits, in hex
    digest: str


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Identical images, which are always in the same split."""

    rows: tuple[int, ...]
    label: int


def split(data: dataset.Dataset, shares: study.Data, seed: int) -> Splits:
    """Draw the three splits that the `data` section describes.

    - The draw depends on the content of the images and on the seed, not on file names or their order.
    - Each class has the same share in each split, to within one image, and at least one image.
    - Identical images are in the same split. If they have two labels, the more frequent one counts.
    - A share below 1 is a fraction of all images. A share of 1 or more is a number of images.
    - Official splits are used whole, or as many of their images as a share of 1 or more says. The other splits are drawn from images that
      are not in official validation or test splits.
    - Changing `train` changes neither validation nor test.

    Raises:
        DataError: a class has too few images for the splits, or the splits need more images than there are.
    """
    sides = _official(data)
    pool = _shuffled_groups(data, np.isin(sides, (NONE, TRAIN)), seed)
    chosen: dict[int, Rows] = {}
    drawn = [side for side in (TEST, VALIDATION) if not (sides == side).any() and _share(shares, side) != 0]
    _check_classes(data, pool, [*drawn, TRAIN])
    for position, side in enumerate(drawn):
        chosen[side], pool = _draw(data, pool, _share(shares, side), side, reserve=len(drawn) - position)
    for side in (TEST, VALIDATION):
        if side not in drawn:
            chosen[side] = _official_rows(data, shares, sides == side, side, seed)
    chosen[TRAIN] = _rows(pool) if shares.train is None else _draw(data, pool, shares.train, TRAIN, reserve=0)[0]
    return Splits(train=chosen[TRAIN], validation=chosen[VALIDATION], test=chosen[TEST], digest=_digest(data, chosen))


def _official(data: dataset.Dataset) -> NDArray[np.int8]:
    """Return the official split of each row, or -1 for an image that is also in a later split and would leak from it."""
    if data.official is None:
        return np.full(len(data), NONE, np.int8)
    _, group = np.unique(data.digests, return_inverse=True)
    last = np.zeros(group.max() + 1, np.int8)
    np.maximum.at(last, group, data.official)
    # NONE and TRAIN are one pool
    leaks = (last[group] > TRAIN) & (data.official < last[group])
    return np.where(leaks, -1, data.official).astype(np.int8)


def _shuffled_groups(data: dataset.Dataset, mask: NDArray[np.bool_], seed: int) -> list[_Group]:
    rows = np.flatnonzero(mask)
    _, group = np.unique(data.digests[rows], return_inverse=True)
    order = np.lexsort((rows, group))
    members = np.split(rows[order], np.flatnonzero(np.diff(group[order])) + 1) if len(rows) else []
    groups = [_Group(rows=tuple(part.tolist()), label=int(np.bincount(data.labels[part]).argmax())) for part in members]
    return [groups[index] for index in np.random.default_rng(seed).permutation(len(groups))]


def _draw(data: dataset.Dataset, pool: Sequence[_Group], share: float, side: int, *, reserve: int) -> tuple[Rows, list[_Group]]:
    """Take a share from the pool, class by class, and leave at least `reserve` groups of each class."""
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


def _official_rows(data: dataset.Dataset, shares: study.Data, mask: NDArray[np.bool_], side: int, seed: int) -> Rows:
    share = _share(shares, side)
    if share == 0:
        return np.empty(0, np.int64)
    if share < 1:
        return np.flatnonzero(mask)
    return _draw(data, _shuffled_groups(data, mask, seed), share, side, reserve=0)[0]


def _check_classes(data: dataset.Dataset, pool: Sequence[_Group], needed: Sequence[int]) -> None:
    """Refuse a class with fewer images than drawn splits."""
    have = np.bincount([group.label for group in pool], minlength=len(data.classes))
    poor = [(have[label], name) for label, name in enumerate(data.classes) if have[label] < len(needed)]
    if poor:
        count, name = min(poor)
        others = f" ({dataset.count(len(poor) - 1, 'more class', 'more classes')} with too few)" if len(poor) > 1 else ""
        names = " + ".join(_NAMES[side] for side in sorted(needed))
        cure = "add images, leave the class out, or set data.test: 0" if TEST in needed else "add images, or leave the class out"
        raise errors.DataError(
            f"the class {name} has {dataset.count(int(count), 'different image')}, but needs {len(needed)}, "
            f"one for each of {names}{others}; {cure}"
        )


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
