"""A confusion matrix into figures of each class, and into the mistakes that were made most."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """How a trial does on the images of one class."""

    #: place of the class, counted from 0
    label: int
    name: str
    num_images: int
    #: part of the images of the class that were recognized; None: there are none
    recall: float | None
    #: part of what was taken for the class that is of it; None: nothing was
    precision: float | None


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """Images of one class that were taken for another."""

    truth: str
    taken_for: str
    num_images: int


def figures(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> list[ClassFigures]:
    """The figures of each class; rows are the true classes, columns what was predicted."""
    columns = [sum(column) for column in zip(*confusion, strict=True)]
    return [
        ClassFigures(
            label=label,
            name=name_of(label, names),
            num_images=sum(row),
            recall=row[label] / sum(row) if sum(row) else None,
            precision=row[label] / columns[label] if columns[label] else None,
        )
        for label, row in enumerate(confusion)
    ]


def mistakes(confusion: Sequence[Sequence[int]], names: Sequence[str], *, most: int) -> list[Mistake]:
    """What was taken for something else most often."""
    wrong = [(num, truth, taken) for truth, row in enumerate(confusion) for taken, num in enumerate(row) if num and truth != taken]
    wrong.sort(key=lambda found: (-found[0], found[1], found[2]))
    return [Mistake(truth=name_of(truth, names), taken_for=name_of(taken, names), num_images=num) for num, truth, taken in wrong[:most]]


def name_of(label: int, names: Sequence[str]) -> str:
    """A class's name, or its place where the names are not known."""
    return names[label] if label < len(names) else f"class {label}"
