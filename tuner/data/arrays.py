"""Images in memory into a Dataset."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tuner import errors
from tuner.data import dataset

T = TypeVar("T")
_HASHED_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images of one size that are in memory."""

    #: uint8 (n, height, width) or (n, height, width, 3)
    array: dataset.Pixels

    def read(self, index: int) -> dataset.Pixels:
        """The image as uint8 (height, width, 3)."""
        return _rgb(self.array[index])

    def name(self, index: int) -> str:
        """The image's number."""
        return f"image {index}"

    def map(self, function: Callable[[dataset.Pixels], T], indices: Sequence[int], *, least: int | None = None) -> Iterator[T]:
        """The function's value for each image, in order."""
        return (function(self.read(index)) for index in indices)


@dataclass(frozen=True, eq=False)
class ListImages:
    """Images of any sizes that are in memory."""

    #: each uint8 (height, width) or (height, width, 3)
    pixels: tuple[dataset.Pixels, ...]

    def read(self, index: int) -> dataset.Pixels:
        """The image as uint8 (height, width, 3)."""
        return _rgb(self.pixels[index])

    def name(self, index: int) -> str:
        """The image's number."""
        return f"image {index}"

    def map(self, function: Callable[[dataset.Pixels], T], indices: Sequence[int], *, least: int | None = None) -> Iterator[T]:
        """The function's value for each image, in order."""
        return (function(self.read(index)) for index in indices)


def from_arrays(
    images: NDArray[Any], labels: NDArray[Any], classes: Sequence[str], official: NDArray[Any] | None = None, *, origin: str = "images"
) -> dataset.Dataset:
    """Images in memory as a Dataset.

    `images` is uint8 (n, height, width), (n, height, width, 1) or (n, height, width, 3); `labels` are indices into `classes`, (n,) or
    (n, 1). `origin` starts the message of an error.

    Raises:
        DataError: a shape, type or label is wrong, or a class has no image.
    """
    array = check_images(images, origin=origin)
    height, width = array.shape[1:3]
    return dataset.Dataset(
        classes=tuple(classes),
        labels=_check_all_labels(labels, len(array), classes, origin=origin),
        digests=_digests(array),
        sizes=np.tile(np.array([width, height], np.int32), (len(array), 1)),
        images=ArrayImages(array),
        official=_check_official(official, len(array), origin=origin),
    )


def from_images(
    images: Sequence[NDArray[Any]],
    labels: NDArray[Any],
    classes: Sequence[str],
    official: NDArray[Any] | None = None,
    *,
    origin: str = "images",
) -> dataset.Dataset:
    """The same of images of different sizes, each uint8 (height, width), (height, width, 1) or (height, width, 3).

    Raises:
        DataError: a shape, type or label is wrong, or a class has no image.
    """
    pixels = tuple(check_images(image[None], origin=f"{origin}: image {number}")[0] for number, image in enumerate(images))
    return dataset.Dataset(
        classes=tuple(classes),
        labels=_check_all_labels(labels, len(pixels), classes, origin=origin),
        digests=np.array([dataset.digest(_rgb(image)) for image in pixels], "S32"),
        sizes=np.array([image.shape[1::-1] for image in pixels], np.int32).reshape(-1, 2),
        images=ListImages(pixels),
        official=_check_official(official, len(pixels), origin=origin),
    )


def check_images(images: NDArray[Any], *, origin: str) -> dataset.Pixels:
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


def _check_all_labels(labels: NDArray[Any], num_images: int, classes: Sequence[str], *, origin: str) -> NDArray[np.int64]:
    numbers = check_labels(labels, num_images, origin=origin)
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(classes):
        raise errors.DataError(
            f"{origin}: labels run from {numbers.min()} to {numbers.max()}, but there are {len(classes)} class names; "
            f"expected 0 to {len(classes) - 1}"
        )
    dataset.check_classes(classes, numbers, origin=origin)
    return numbers


def _check_official(official: NDArray[Any] | None, num_images: int, *, origin: str) -> NDArray[np.int8] | None:
    if official is None:
        return None
    if official.shape != (num_images,):
        raise errors.DataError(f"{origin}: official splits have the shape {official.shape}; expected ({num_images},), one for each image")
    return official.astype(np.int8)


def distinct(data: dataset.Dataset) -> dataset.Dataset:
    """The dataset with the first of identical images only; its images must be in memory."""
    kept = np.sort(np.unique(data.digests, return_index=True)[1])
    assert isinstance(data.images, ArrayImages)
    return replace(
        data,
        labels=data.labels[kept],
        digests=data.digests[kept],
        sizes=data.sizes[kept],
        images=ArrayImages(data.images.array[kept]),
        official=None if data.official is None else data.official[kept],
        num_dropped=len(data) - len(kept),
    )


def _rgb(pixels: dataset.Pixels) -> dataset.Pixels:
    return np.repeat(pixels[..., None], 3, axis=-1) if pixels.ndim == 2 else pixels


def _digests(array: dataset.Pixels) -> NDArray[np.bytes_]:
    found = np.empty(len(array), "S32")
    for start in range(0, len(array), _HASHED_AT_ONCE):
        part = array[start : start + _HASHED_AT_ONCE]
        part = np.ascontiguousarray(part if part.ndim == 4 else np.repeat(part[..., None], 3, axis=-1))
        found[start : start + len(part)] = [dataset.digest(pixels) for pixels in part]
    return found
