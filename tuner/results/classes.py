"""A confusion matrix into the mistakes that were made most."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Confused:
    """Images of one class that were taken for another."""

    truth: str
    taken_for: str
    num_images: int


def most_confused(confusion: Sequence[Sequence[int]], names: Sequence[str], *, most: int) -> list[Confused]:
    """What was taken for something else most often; rows are the true classes, columns what was predicted."""
    wrong = [(num, truth, taken) for truth, row in enumerate(confusion) for taken, num in enumerate(row) if num and truth != taken]
    wrong.sort(key=lambda found: (-found[0], found[1], found[2]))
    return [Confused(truth=name_of(truth, names), taken_for=name_of(taken, names), num_images=num) for num, truth, taken in wrong[:most]]


def name_of(label: int, names: Sequence[str]) -> str:
    """A class's name, or its place where the names are not known."""
    return names[label] if label < len(names) else f"class {label}"
