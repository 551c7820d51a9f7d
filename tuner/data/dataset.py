"""Images, their labels, and what identifies each of them, as one frozen value."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tuner import errors

Pixels = NDArray[np.uint8]
T = TypeVar("T")
#: values of `Dataset.official`
NONE, TRAIN, VALIDATION, TEST = range(4)

_HASHED_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """An image that was left out."""

    path: str
    reason: str


class Images(Protocol):
    """Where the pixels come from, one image at a time."""

    def read(self, index: int) -> Pixels:
        """The image as uint8 (height, width, 3)."""

    def name(self, index: int) -> str:
        """What a user knows the image by."""

    def map(self, function: Callable[[Pixels], T], indices: Sequence[int]) -> Iterator[T]:
        """The function's value for each image, in order; a few images are in memory at a time."""


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
    images: Images
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


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images of one size that are in memory."""

    #: uint8 (n, height, width) or (n, height, width, 3)
    array: Pixels

    def read(self, index: int) -> Pixels:
        """The image as uint8 (height, width, 3)."""
        return _rgb(self.array[index])

    def name(self, index: int) -> str:
        """The image's number."""
        return f"image {index}"

    def map(self, function: Callable[[Pixels], T], indices: Sequence[int]) -> Iterator[T]:
        """The function's value for each image, in order."""
        return (function(self.read(index)) for index in indices)


def from_arrays(
    images: NDArray[Any], labels: NDArray[Any], classes: Sequence[str], official: NDArray[Any] | None = None, *, origin: str = "images"
) -> Dataset:
    """Images in memory as a Dataset.

    `images` is uint8 (n, height, width), (n, height, width, 1) or (n, height, width, 3); `labels` are indices into `classes`, (n,) or
    (n, 1). `origin` starts the message of an error.

    Raises:
        DataError: a shape, type or label is wrong, or a class has no image.
    """
    array = check_images(images, origin=origin)
    numbers = check_labels(labels, len(array), origin=origin)
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(classes):
        raise errors.DataError(
            f"{origin}: labels run from {numbers.min()} to {numbers.max()}, but there are {len(classes)} class names; "
            f"expected 0 to {len(classes) - 1}"
        )
    check_classes(classes, numbers, origin=origin)
    if official is not None and official.shape != numbers.shape:
        raise errors.DataError(f"{origin}: official splits have the shape {official.shape}; expected {numbers.shape}, one for each image")
    height, width = array.shape[1:3]
    return Dataset(
        classes=tuple(classes),
        labels=numbers,
        digests=_digests(array),
        sizes=np.tile(np.array([width, height], np.int32), (len(array), 1)),
        images=ArrayImages(array),
        official=None if official is None else official.astype(np.int8),
    )


def check_images(images: NDArray[Any], *, origin: str) -> Pixels:
    """The array if it is images, grey ones as (n, height, width).

    Raises:
        DataError: its shape or type is wrong.
    """
    expected = "expected uint8 from 0 to 255, shape (images, height, width), (images, height, width, 1) or (images, height, width, 3)"
    if images.dtype != np.uint8:
        cure = "; for fractions from 0 to 1, save (x * 255).round().astype('uint8')" if images.dtype.kind == "f" else ""
        raise errors.DataError(f"{origin}: pixels are {images.dtype}; {expected}{cure}")
    if images.ndim == 4 and images.shape[3] not in (1, 3):
        cure = "; the channels come second: save np.moveaxis(x, 1, -1)" if images.shape[1] in (1, 3) else ""
        raise errors.DataError(f"{origin}: the shape is {images.shape}; {expected}{cure}")
    if images.ndim not in (3, 4) or 0 in images.shape[1:]:
        raise errors.DataError(f"{origin}: the shape is {images.shape}; {expected}")
    return images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images


def check_labels(labels: NDArray[Any], num_images: int, *, origin: str) -> NDArray[np.int64]:
    """The labels as int64 (n,).

    Raises:
        DataError: they are no whole numbers, or not one for each image.
    """
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim == 2:
        raise errors.DataError(
            f"{origin}: labels have the shape {labels.shape}; expected one number an image. If they are one-hot, save y.argmax(1)"
        )
    if flat.shape != (num_images,):
        raise errors.DataError(
            f"{origin}: labels have the shape {labels.shape}; expected ({num_images},), one for each of the {num_images} images"
        )
    if flat.dtype.kind not in "iu":
        raise errors.DataError(f"{origin}: labels are {labels.dtype}; expected whole numbers")
    return flat.astype(np.int64)


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


def distinct(dataset: Dataset) -> Dataset:
    """The dataset with the first of identical images only; its images must be in memory."""
    kept = np.sort(np.unique(dataset.digests, return_index=True)[1])
    assert isinstance(dataset.images, ArrayImages)
    return replace(
        dataset,
        labels=dataset.labels[kept],
        digests=dataset.digests[kept],
        sizes=dataset.sizes[kept],
        images=ArrayImages(dataset.images.array[kept]),
        official=None if dataset.official is None else dataset.official[kept],
        num_dropped=len(dataset) - len(kept),
    )


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
        lines.append(f"{dataset.num_ignored} files are no images by their names and were ignored")
    if dataset.num_dropped:
        lines.append(f"{dataset.num_dropped} copies of identical images were left out")
    return lines + twins(dataset)


def twins(dataset: Dataset) -> list[str]:
    """What is to be said of identical images, one line each."""
    _, group, sizes = np.unique(dataset.digests, return_inverse=True, return_counts=True)
    num_copies = int((sizes - 1).sum())
    lines = [f"{num_copies} images are copies of others; copies always stay in one split"] if num_copies else []
    first = np.zeros(len(sizes), np.int64)
    first[group] = dataset.labels
    torn = np.flatnonzero(np.bincount(group, weights=dataset.labels != first[group]))
    if len(torn):
        names = [dataset.name(row) for row in np.flatnonzero(group == torn[0]).tolist()]
        lines.append(f"{len(torn)} images appear under two labels, the first is {' = '.join(names[:3])}; decide which label is right")
    return lines


def _rgb(pixels: Pixels) -> Pixels:
    return np.repeat(pixels[..., None], 3, axis=-1) if pixels.ndim == 2 else pixels


def _digests(array: Pixels) -> NDArray[np.bytes_]:
    found = np.empty(len(array), "S32")
    for start in range(0, len(array), _HASHED_AT_ONCE):
        part = array[start : start + _HASHED_AT_ONCE]
        part = np.ascontiguousarray(part if part.ndim == 4 else np.repeat(part[..., None], 3, axis=-1))
        found[start : start + len(part)] = [digest(pixels) for pixels in part]
    return found


def _first(names: Sequence[str], *, most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
