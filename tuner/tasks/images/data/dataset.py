"""Images, their labels, and what identifies each of them, as one frozen value.

A Dataset into one short name for its whole content.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tuner import errors

Pixels = NDArray[np.uint8]
T = TypeVar("T")
#: values of `Dataset.official`
NONE, TRAIN, VALIDATION, TEST = range(4)


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """An image that was left out."""

    path: str
    reason: str


class PixelSource(Protocol):
    """Where the pixels come from, one image at a time."""

    def read(self, index: int) -> Pixels:
        """The image as uint8 (height, width, 3)."""

    def name(self, index: int) -> str:
        """What a user knows the image by."""

    def map(self, function: Callable[[Pixels], T], indices: Sequence[int], *, least: int | None = None) -> Iterator[T]:
        """The function's value for each image, in order; a few images are in memory at a time.

        With `least` an image may be given smaller than it is, its shorter side no less than twice that.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Labelled images; the pixels are read when they are asked for."""

    #: names of the classes; a label is an index into them
    classes: tuple[str, ...]
    #: int64 (n,)
    labels: NDArray[np.int64]
    #: S32 (n,): SHA-256 of the decoded pixels and their shape; equal for identical images
    digests: NDArray[np.bytes_]
    #: int32 (n, 2): width and height in pixels
    sizes: NDArray[np.int32]
    images: PixelSource
    #: int8 (n,): the source's own split of each image, NONE, TRAIN, VALIDATION or TEST; None where it brings none
    official: NDArray[np.int8] | None = None
    #: images that were left out
    unreadable: tuple[Unreadable, ...] = ()
    #: files that are no images by their names
    num_ignored: int = 0
    #: copies of images that were left out
    num_dropped: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Images of each class."""
        return np.bincount(self.labels, minlength=len(self.classes)).astype(np.int64)

    def read(self, index: int) -> Pixels:
        """One image as uint8 (height, width, 3)."""
        return self.images.read(int(index))

    def name(self, index: int) -> str:
        """What a user knows an image by: its path, or its number."""
        return self.images.name(int(index))


def check_classes(classes: Sequence[str], labels: NDArray[np.int64], *, origin: str) -> None:
    """Refuse labels that nothing can be learnt from.

    Raises:
        DataError: there are no images, fewer than two classes, two classes of one name, or a class without an image.
    """
    if not len(labels):
        raise errors.DataError(f"{origin}: there are no images")
    if len(classes) < 2:
        raise errors.DataError(f"{origin}: there is {len(classes)} class ({', '.join(classes)}); telling classes apart needs at least two")
    if len(set(classes)) < len(classes):
        raise errors.DataError(f"{origin}: two classes have the same name; the names are {', '.join(classes)}")
    counts = np.bincount(labels, minlength=len(classes))
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if empty:
        raise errors.DataError(f"{origin}: no images of {_first(empty)}; add some, or leave the class out")


def digest(pixels: Pixels) -> bytes:
    """SHA-256 of an image (height, width, 3) and its shape."""
    height, width, _ = pixels.shape
    return hashlib.sha256(b"%d %d " % (height, width) + np.ascontiguousarray(pixels).data).digest()


def content_hash(digests: NDArray[np.bytes_], labels: NDArray[np.int64]) -> bytes:
    """SHA-256 over labelled images, whatever their order."""
    order = np.lexsort((labels, digests))
    return hashlib.sha256(digests[order].tobytes() + labels[order].astype("<i8").tobytes()).digest()


def notes(dataset: Dataset) -> list[str]:
    """What a user should know of the images before training on them, one line each."""
    lines = [f"left out, unreadable: {image.path}: {image.reason}" for image in dataset.unreadable[:5]]
    if len(dataset.unreadable) > 5:
        lines.append(f"… and {len(dataset.unreadable) - 5} more unreadable images")
    if dataset.num_ignored:
        lines.append(f"ignored, no images by their names: {count(dataset.num_ignored, 'file')}")
    if dataset.num_dropped:
        lines.append(f"left out, copies of other images: {count(dataset.num_dropped, 'image')}")
    return lines + twins(dataset)


def twins(dataset: Dataset) -> list[str]:
    """What is to be said of identical images, one line each."""
    _, group, sizes = np.unique(dataset.digests, return_inverse=True, return_counts=True)
    num_copies = int((sizes - 1).sum())
    lines = [f"kept in one split with their originals: {count(num_copies, 'copy', 'copies')} of other images"] if num_copies else []
    first = np.zeros(len(sizes), np.int64)
    first[group] = dataset.labels
    torn = np.flatnonzero(np.bincount(group, weights=dataset.labels != first[group]))
    if len(torn):
        names = [dataset.name(row) for row in np.flatnonzero(group == torn[0]).tolist()]
        lines.append(f"under two labels: {count(len(torn), 'image')}, the first is {' = '.join(names[:3])}; decide which label is right")
    return lines


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 image`, `2,000 images`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _first(names: Sequence[str], *, most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def fingerprint(data: Dataset) -> str:
    """SHA-256 in hex over every image, label and class name; the same wherever the files lie and whatever their names and order."""
    names = json.dumps(data.classes).encode()
    return hashlib.sha256(names + content_hash(data.digests, data.labels)).hexdigest()
