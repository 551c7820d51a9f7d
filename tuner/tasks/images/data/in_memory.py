"""Images in memory into a Dataset.

An .npz file of images and labels into a Dataset.

The data sets that come inside Python packages into Datasets, without importing these packages.
"""

import gzip
import importlib.util
import io
import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tuner import errors
from tuner.tasks.images.data import dataset, table
from tuner.trust import pickles

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


_PARTS = {"": dataset.NONE, "_train": dataset.TRAIN, "_val": dataset.VALIDATION, "_test": dataset.TEST}
_EXPECTED = "expected x and y, or x_train and y_train, with x_val and y_val, x_test and y_test where they are given"


def read(path: Path) -> dataset.Dataset:
    """The images of `x`, `y`, or of `x_train`, `y_train` and companions, which are then the data's own splits; `classes` are names.

    Labels are numbers or words.

    Raises:
        DataError: the file cannot be read, an array is missing, or has the wrong shape or type.
    """
    given = _read(path)
    parts = _parts(given, path)
    images, labels = ([given[f"{letter}{part}"] for part in parts] for letter in "xy")
    for part, x, y in zip(parts, images, labels, strict=True):
        check_images(x, origin=f"{path}: x{part}")
        if len(x) != len(y):
            raise errors.DataError(f"{path}: x{part} has {len(x)} images and y{part} {len(y)} labels; expected one label an image")
    if len({x.shape[1:] for x in images}) > 1:
        shapes = ", ".join(f"x{part} {x.shape}" for part, x in zip(parts, images, strict=True))
        raise errors.DataError(f"{path}: images of different sizes: {shapes}; save them in one size")
    numbers, classes = name_labels(_join(labels, path), given.get("classes"), origin=str(path))
    official = np.concatenate([np.full(len(x), _PARTS[part], np.int8) for part, x in zip(parts, images, strict=True)])
    return from_arrays(np.concatenate(images), numbers, classes, None if parts == [""] else official, origin=str(path))


def name_labels(labels: NDArray[Any], names: Any, *, origin: str) -> tuple[NDArray[np.int64], list[str]]:
    """Labels that are numbers or words, as indices into the names of their classes, and these names.

    Without `names` the classes are the labels that occur.

    Raises:
        DataError: labels are neither, or a word is not among the names.
    """
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    given = None if names is None else [str(name) for name in np.asarray(names).ravel().tolist()]
    if flat.ndim != 1 or (flat.dtype.kind in "iu" and given is not None):
        return check_labels(flat, len(flat), origin=origin), given or []
    if flat.dtype.kind not in "iuU":
        raise errors.DataError(f"{origin}: labels are {labels.dtype}; expected whole numbers or words")
    words = [str(label) for label in flat.tolist()]
    classes = given or table.sort_names(set(words))
    index = {name: number for number, name in enumerate(classes)}
    unknown = sorted(set(words) - set(classes))
    if unknown:
        raise errors.DataError(f"{origin}: the label {unknown[0]} is not among the class names {', '.join(classes[:10])}")
    return np.array([index[word] for word in words], np.int64), classes


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise errors.DataError(f"{path}: {'this is a folder' if path.is_dir() else 'there is no such file'}; check data.path")
    try:
        with path.open("rb") as file:
            given = np.load(file, allow_pickle=False)
            if isinstance(given, np.ndarray):
                raise errors.DataError(f"{path}: this is a single array; {_EXPECTED}, saved with np.savez_compressed")
            return dict(given)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "Object arrays" in str(error):
            raise errors.DataError(
                f"{path}: it holds Python objects, which are not read because they could run code; save arrays of numbers or words"
            ) from error
        raise errors.DataError(f"{path}: this is no .npz file that can be read ({error})") from error


def _parts(given: Mapping[str, Any], path: Path) -> list[str]:
    there = f"the file has {', '.join(given) or 'no arrays'}"
    parts = [part for part in _PARTS if f"x{part}" in given or f"y{part}" in given]
    for part in parts:
        missing = [name for name in (f"x{part}", f"y{part}") if name not in given]
        if missing:
            raise errors.DataError(f"{path}: there is no {missing[0]}; {there}; {_EXPECTED}")
    if "" in parts and len(parts) > 1:
        raise errors.DataError(f"{path}: both x and x{parts[1]} are there; save either one")
    if parts[:1] not in ([""], ["_train"]):
        raise errors.DataError(f"{path}: there is no x_train; {there}; {_EXPECTED}")
    return parts


def _join(labels: list[NDArray[Any]], path: Path) -> NDArray[Any]:
    if len({(y.dtype.kind in "iu", y.ndim) for y in labels}) > 1:
        raise errors.DataError(
            f"{path}: the labels of the splits differ in shape or type: {', '.join(f'{y.dtype} {y.shape}' for y in labels)}"
        )
    return np.concatenate(labels)


ANIMALS = ("Bear", "Bird", "Cat", "Cow", "Dog", "Elephant", "Giraffe", "Horse", "Sheep", "Zebra")


def open_animals() -> dataset.Dataset:
    """The 9,716 distinct ones of 10,000 silhouettes of ten animals, 28 x 28."""
    folder = _folder("animal_mnist", "animal-mnist==0.4") / "data" / "Animal_MNIST"
    images, labels = (read_array(folder / f"animal_{part}_version_3.gz") for part in ("data", "label"))
    return distinct(from_arrays(images, labels, ANIMALS, origin="animal-mnist"))


def open_digits() -> dataset.Dataset:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8."""
    path = _folder("sklearn", "scikit-learn") / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    # sixteen shades, white on black
    images = np.round(table[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return distinct(from_arrays(images, table[:, 64], [str(digit) for digit in range(10)], origin="scikit-learn"))


def read_array(path: Path) -> NDArray[Any]:
    """A gzipped pickle of one numpy array; nothing else in it is loaded.

    Raises:
        DataError: it holds something else, or is damaged.
    """
    try:
        value = pickles.ArrayUnpickler(io.BytesIO(gzip.decompress(path.read_bytes()))).load()
    except (OSError, EOFError, ValueError, TypeError, pickle.UnpicklingError) as error:
        raise errors.DataError(f"{path}: this is no pickled array ({error}); install its package again") from error
    if not isinstance(value, np.ndarray):
        raise errors.DataError(f"{path}: this is a pickled {type(value).__name__}, no array; install its package again")
    return value


def _folder(package: str, requirement: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise errors.DataError(f"the package {requirement} is not installed. Install it with: pip install '{requirement}'")
    return Path(found.origin).parent
