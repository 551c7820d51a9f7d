"""Folds: divides the examples of small data into parts that validate one after another, by class and by group."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner import wording
from tuner.errors import DataError
from tuner.tasks.custom.spec.custom_study import Validation
from tuner.tasks.custom.training.inputs import LoadedData, Part

Rows = NDArray[np.int64]
#: whole numbers are classes if they have at most so many different values, or one for this many examples
_MOST_CLASSES, _EXAMPLES_A_CLASS = 20, 20


def divide(data: LoadedData, section: Validation, *, seed: int) -> LoadedData:
    """Return data with the fold of each example. The same examples and the same seed give the same folds.

    - The folds have the same number of examples, to within one; with groups, to within about a group.
    - Examples of one group are in one fold.
    - Each class has the same share in each fold, to within one example, or about a group, if `y` is classes.

    Raises:
        DataError: there are fewer examples, groups, or examples of a class, than folds.
    """
    count, num_folds = data.train.num_examples, section.folds
    units = np.arange(count) if data.groups is None else np.unique(data.groups, return_inverse=True)[1]
    labels = None if section.stratify == "never" else classes_of(data.train)
    num_units = int(units.max()) + 1
    if num_units < num_folds:
        what = wording.count(count, "example") if data.groups is None else wording.count(num_units, "group")
        raise DataError(f"validation.folds is {num_folds}, but the data have only {what}; at most {num_units} folds are possible")
    classes, of_class = (np.array([""]), np.zeros(count, np.int64)) if labels is None else np.unique(labels, return_inverse=True)
    if labels is not None and np.bincount(of_class).min() < num_folds:
        raise _small_class(classes, np.bincount(of_class), num_folds)
    folds = _assigned(units, of_class, num_folds, seed)
    if labels is not None:
        _require_all_classes(folds, classes, of_class, num_folds)
    words = _words(count, num_folds, None if labels is None else len(classes), None if data.groups is None else num_units)
    return dataclasses.replace(data, folds=folds, words_of_folds=words)


def classes_of(part: Part) -> NDArray[Any] | None:
    """Return the class of each example if `y` is classes: text, true and false, one-hot rows, or a few whole numbers. Else None."""
    y = part.arrays[1] if part.arrays is not None and len(part.arrays) > 1 else None
    if not isinstance(y, np.ndarray):
        return None
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and y.dtype.kind in "biuf" and ((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all():
        return np.asarray(y.argmax(1))
    if y.ndim != 1 or y.dtype.kind not in "biufOUS":
        return None
    if y.dtype.kind == "O":
        y = y.astype(str)
    if y.dtype.kind == "f" and not (np.isfinite(y).all() and (y == np.round(y)).all()):
        return None
    is_few = len(np.unique(y)) <= max(_MOST_CLASSES, len(y) // _EXAMPLES_A_CLASS)
    return y if is_few or y.dtype.kind in "bUS" else None


def _small_class(classes: NDArray[Any], counts: Rows, num_folds: int) -> DataError:
    smallest = int(counts.argmin())
    few = int(counts[smallest])
    fewer = f"give at most {few} folds, " if few > 1 else ""
    return DataError(
        f"validation.folds is {num_folds}, but the class {wording.shorten(str(classes[smallest]))} has only {wording.count(few, 'example')}"
        f", so that a fold would be without it; {fewer}add examples of it, or give `stratify: never` in the section validation"
    )


def _assigned(units: Rows, of_class: Rows, num_folds: int, seed: int) -> Rows:
    """Return the fold of each example: the largest units first, each goes to the fold that lacks its classes most.

    Of folds that lack them alike, the one with the fewest examples takes the unit.
    """
    num_units, num_classes = int(units.max()) + 1, int(of_class.max()) + 1
    table = np.zeros((num_units, num_classes), np.int64)
    np.add.at(table, (units, of_class), 1)
    drawn = np.random.default_rng([seed, num_folds]).permutation(num_units)
    # single examples class by class, so that no class waits for the last places
    order = drawn[np.lexsort((table[drawn].argmax(1), -table[drawn].sum(1)))]
    shares = table.sum(0)
    filled, chosen = np.zeros((num_folds, num_classes)), np.zeros(num_units, np.int64)
    for unit in order:
        lacking = ((filled / shares) * (table[unit] > 0)).sum(1).round(9)
        best = np.lexsort((np.arange(num_folds), filled.sum(1), lacking))[0]
        filled[best] += table[unit]
        chosen[unit] = best
    return chosen[units]


def _require_all_classes(folds: Rows, classes: NDArray[Any], of_class: Rows, num_folds: int) -> None:
    for fold in range(num_folds):
        missing = set(range(len(classes))) - set(of_class[folds == fold].tolist())
        if missing:
            raise DataError(
                f"validation.folds is {num_folds}, but fold {fold + 1} would have no example of the class "
                f"{wording.shorten(str(classes[min(missing)]))}, because its examples belong to few groups; give fewer folds, or "
                "`stratify: never` in the section validation"
            )


def _words(count: int, num_folds: int, num_classes: int | None, num_groups: int | None) -> str:
    sizes = f"{num_folds} folds of about {count // num_folds:,} of {count:,} examples"
    by_class = "" if num_classes is None else f", with the same shares of {wording.count(num_classes, 'class')}"
    return sizes + by_class + ("" if num_groups is None else f", {wording.count(num_groups, 'group')} kept whole")
