"""An .npz file of images and labels into a Dataset."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner import errors
from tuner.data import arrays, dataset, manifest

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
        arrays.check_images(x, origin=f"{path}: x{part}")
        if len(x) != len(y):
            raise errors.DataError(f"{path}: x{part} has {len(x)} images and y{part} {len(y)} labels; expected one label an image")
    if len({x.shape[1:] for x in images}) > 1:
        shapes = ", ".join(f"x{part} {x.shape}" for part, x in zip(parts, images, strict=True))
        raise errors.DataError(f"{path}: images of different sizes: {shapes}; save them in one size")
    numbers, classes = name_labels(_join(labels, path), given.get("classes"), origin=str(path))
    official = np.concatenate([np.full(len(x), _PARTS[part], np.int8) for part, x in zip(parts, images, strict=True)])
    return arrays.from_arrays(np.concatenate(images), numbers, classes, None if parts == [""] else official, origin=str(path))


def name_labels(labels: NDArray[Any], names: Any, *, origin: str) -> tuple[NDArray[np.int64], list[str]]:
    """Labels that are numbers or words, as indices into the names of their classes, and these names.

    Without `names` the classes are the labels that occur.

    Raises:
        DataError: labels are neither, or a word is not among the names.
    """
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    given = None if names is None else [str(name) for name in np.asarray(names).ravel().tolist()]
    if flat.ndim != 1 or (flat.dtype.kind in "iu" and given is not None):
        return arrays.check_labels(flat, len(flat), origin=origin), given or []
    if flat.dtype.kind not in "iuU":
        raise errors.DataError(f"{origin}: labels are {labels.dtype}; expected whole numbers or words")
    words = [str(label) for label in flat.tolist()]
    classes = given or manifest.sort_names(set(words))
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
