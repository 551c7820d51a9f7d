"""Images in memory as a dataset: arrays, .npz files, and data sets that ship inside Python packages."""

import gzip
import importlib.util
import io
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tuner import errors, wording
from tuner.spec import study
from tuner.spec.hyperparameters import TargetKind
from tuner.tasks.images.data import dataset, folder_files, folders
from tuner.trust import pickles

T = TypeVar("T")
_HASHED_AT_ONCE = 1024
_PARTS = {"": dataset.NONE, "_train": dataset.TRAIN, "_val": dataset.VALIDATION, "_test": dataset.TEST}
#: words in the names of arrays of images and of labels
_LETTERS = {
    "x": {"x", "image", "images", "img", "imgs", "data", "pixels"},
    "y": {"y", "label", "labels", "target", "targets"},
}
_CLASS_NAMES = frozenset({"class_names", "classnames", "label_names"})
_EXPECTED = "expected x and y, or x_train and y_train, and optionally x_val and y_val, x_test and y_test"
ANIMALS = ("Bear", "Bird", "Cat", "Cow", "Dog", "Elephant", "Giraffe", "Horse", "Sheep", "Zebra")


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images of one size, in memory."""

    #: uint8 (n, height, width) or (n, height, width, 3)
    array: dataset.Pixels

    def read(self, index: int) -> dataset.Pixels:
        """Return the image as uint8 (height, width, 3)."""
        return _rgb(self.array[index])

    def name(self, index: int) -> str:
        """Return the number of the image."""
        return f"image {index}"

    def map(self, function: Callable[[dataset.Pixels], T], indices: Sequence[int], *, least: int | None = None) -> Iterator[T]:
        """Yield the function's value for each image, in order."""
        return (function(self.read(index)) for index in indices)


@dataclass(frozen=True, eq=False)
class ListImages:
    """Images of any size, in memory."""

    #: each uint8 (height, width) or (height, width, 3)
    pixels: tuple[dataset.Pixels, ...]

    def read(self, index: int) -> dataset.Pixels:
        """Return the image as uint8 (height, width, 3)."""
        return _rgb(self.pixels[index])

    def name(self, index: int) -> str:
        """Return the number of the image."""
        return f"image {index}"

    def map(self, function: Callable[[dataset.Pixels], T], indices: Sequence[int], *, least: int | None = None) -> Iterator[T]:
        """Yield the function's value for each image, in order."""
        return (function(self.read(index)) for index in indices)


def from_arrays(
    images: NDArray[Any],
    labels: NDArray[Any],
    classes: Sequence[str],
    official: NDArray[Any] | None = None,
    *,
    origin: str = "images",
    kind: TargetKind = TargetKind.LABEL,
) -> dataset.Dataset:
    """Return the dataset of images of one size.

    `images` is uint8 (n, height, width), (n, height, width, 1) or (n, height, width, 3); `labels` are indices into `classes`, (n,) or
    (n, 1), or what `read_labels` returns for the other kinds. `origin` names them in error messages.

    Raises:
        DataError: a shape, type or label is wrong, or a class has no images.
    """
    array = check_images(images, origin=origin)
    height, width = array.shape[1:3]
    return dataset.Dataset(
        classes=tuple(classes),
        labels=_check_all_labels(labels, len(array), classes, kind, origin=origin),
        digests=_digests(array),
        sizes=np.tile(np.array([width, height], np.int32), (len(array), 1)),
        images=ArrayImages(array),
        official=_check_official(official, len(array), origin=origin),
        kind=kind,
    )


def from_images(
    images: Sequence[NDArray[Any]],
    labels: NDArray[Any],
    classes: Sequence[str],
    official: NDArray[Any] | None = None,
    *,
    origin: str = "images",
    kind: TargetKind = TargetKind.LABEL,
) -> dataset.Dataset:
    """Return the dataset of images of different sizes, each uint8 (height, width), (height, width, 1) or (height, width, 3).

    Raises:
        DataError: a shape, type or label is wrong, or a class has no images.
    """
    pixels = tuple(check_images(image[None], origin=f"{origin}: image {number}")[0] for number, image in enumerate(images))
    return dataset.Dataset(
        classes=tuple(classes),
        labels=_check_all_labels(labels, len(pixels), classes, kind, origin=origin),
        digests=np.array([dataset.digest(_rgb(image)) for image in pixels], "S32"),
        sizes=np.array([image.shape[1::-1] for image in pixels], np.int32).reshape(-1, 2),
        images=ListImages(pixels),
        official=_check_official(official, len(pixels), origin=origin),
        kind=kind,
    )


def check_images(images: NDArray[Any], *, origin: str) -> dataset.Pixels:
    """Check an array of images and return it, gray images as (n, height, width).

    Raises:
        DataError: its shape or type is wrong.
    """
    expected = "expected uint8 from 0 to 255, shape (images, height, width), (images, height, width, 1) or (images, height, width, 3)"
    if images.dtype != np.uint8:
        raise errors.DataError(f"{origin} has pixels of type {images.dtype}; {expected}{_cure_pixels(images)}")
    if images.ndim == 4 and images.shape[3] not in (1, 3):
        cure = "; if the channels come second, save np.moveaxis(x, 1, -1)" if images.shape[1] in (1, 3) else ""
        cure = cure or ("; if the last channel is the opacity, save x[..., :3]" if images.shape[3] == 4 else "")
        raise errors.DataError(f"{origin} has shape {images.shape}; {expected}{cure}")
    if images.ndim not in (3, 4) or 0 in images.shape[1:]:
        cure = "; if each row is an image, save x.reshape(len(x), height, width, channels)" if images.ndim == 2 else ""
        raise errors.DataError(f"{origin} has shape {images.shape}; {expected}{cure}")
    return images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images


def _cure_pixels(images: NDArray[Any]) -> str:
    """Return what to do with pixels of another type, as the end of a message; "" if that is not clear."""
    if images.dtype.kind in "OU":
        return "; if these are paths of files, write a table of paths and labels for data.source: manifest"
    finite = images[np.isfinite(images)] if images.dtype.kind in "iuf" else images[:0]
    if not finite.size:
        return ""
    if images.dtype.kind == "f" and finite.max() <= 1:
        return "; if they are fractions from 0 to 1, save (x * 255).round().astype('uint8')"
    return f"; its values are from {finite.min():.6g} to {finite.max():.6g}: set data.value_range to their range, or to auto"


def in_range(
    images: Sequence[NDArray[Any]], wanted: dataset.WantedRange, *, origin: str
) -> tuple[Sequence[NDArray[Any]], dataset.ValueRange | None]:
    """Return arrays of numbers with the values of a range mapped to 0 to 255, and the range; unchanged if no range is wanted.

    Raises:
        DataError: `auto` is wanted, and there are no values, or all values are the same.
    """
    if wanted is None or any(one.dtype.kind not in "biuf" for one in images):
        return images, None
    if isinstance(wanted, tuple):
        known = wanted
    else:
        filled = [finite for one in images if (finite := one[np.isfinite(one)]).size]
        if not filled:
            raise errors.DataError(f"{origin} has no pixels with a number, so data.value_range: auto is unknown; check the images")
        known = dataset.known_range(min(one.min().item() for one in filled), max(one.max().item() for one in filled), origin=origin)
    return [dataset.scale(one, known) for one in images], known


def check_labels(labels: NDArray[Any], num_images: int, *, origin: str) -> NDArray[np.int64]:
    """Check labels and return them as int64 (n,).

    Raises:
        DataError: they are not integers, or not one for each image.
    """
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim == 2:
        raise errors.DataError(
            f"{origin} has labels of shape {labels.shape}; expected one number for each image. If they are one-hot, save y.argmax(1)"
        )
    if flat.shape != (num_images,):
        raise errors.DataError(
            f"{origin} has labels of shape {labels.shape}; expected ({num_images},), one for each of the {num_images} images"
        )
    if flat.dtype.kind not in "iu":
        raise errors.DataError(f"{origin} has labels of type {labels.dtype}; expected integers")
    return flat.astype(np.int64)


def _check_all_labels(labels: NDArray[Any], num_images: int, classes: Sequence[str], kind: TargetKind, *, origin: str) -> NDArray[Any]:
    if kind is not TargetKind.LABEL:
        if len(labels) != num_images:
            raise errors.DataError(f"{origin} has {len(labels)} labels for {dataset.count(num_images, 'image')}; expected one for each")
        dataset.check_classes(classes, labels, origin=origin, kind=kind)
        return labels
    numbers = check_labels(labels, num_images, origin=origin)
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(classes):
        raise errors.DataError(
            f"{origin} has labels from {numbers.min()} to {numbers.max()} for {len(classes)} class names; expected 0 to {len(classes) - 1}"
        )
    dataset.check_classes(classes, numbers, origin=origin)
    return numbers


def _check_official(official: NDArray[Any] | None, num_images: int, *, origin: str) -> NDArray[np.int8] | None:
    if official is None:
        return None
    if official.shape != (num_images,):
        raise errors.DataError(f"{origin} has official splits of shape {official.shape}; expected ({num_images},), one for each image")
    return official.astype(np.int8)


def distinct(data: dataset.Dataset) -> dataset.Dataset:
    """Return a dataset in memory with only the first of identical images."""
    first = np.sort(np.unique(data.digests, return_index=True)[1])
    assert isinstance(data.images, ArrayImages)
    return replace(
        data,
        labels=data.labels[first],
        digests=data.digests[first],
        sizes=data.sizes[first],
        images=ArrayImages(data.images.array[first]),
        official=None if data.official is None else data.official[first],
        num_dropped=len(data) - len(first),
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


def read_npz(data: study.NpzData) -> dataset.Dataset:
    """Read an .npz file with the arrays `x` and `y`, or with official splits as `x_train`, `y_train` and so on, or `train_images`.

    Labels are integers or strings. The array `classes` is optional and names the classes.

    Raises:
        DataError: the file cannot be read, or an array is missing or has the wrong shape or type.
    """
    return from_named(_load_npz(data.path), data, origin=str(data.path))


def from_named(arrays: Mapping[str, NDArray[Any]], data: study.NpzData | study.PythonData, *, origin: str) -> dataset.Dataset:
    """Return the dataset of arrays with names, as an .npz file has them or a function returns them.

    Raises:
        DataError: an array is missing, or has the wrong shape or type.
    """
    given = _rename(arrays, origin)
    held = _say_arrays(arrays, origin)
    parts = _parts_of(given, held, origin)
    labels = [given[f"y{part}"] for part in parts]
    images, known = in_range([given[f"x{part}"] for part in parts], data.value_range, origin=origin)
    for part, x, y in zip(parts, images, labels, strict=True):
        check_images(x, origin=f"{origin}: x{part}")
        if len(x) != len(y):
            raise errors.DataError(
                f"{origin}: x{part} has {len(x)} images and y{part} has {len(y)} labels; expected one label for each image"
            )
    if len({x.shape[1:] for x in images}) > 1:
        shapes = ", ".join(f"x{part} {x.shape}" for part, x in zip(parts, images, strict=True))
        raise errors.DataError(f"{origin} has images of different sizes: {shapes}; save them in one size")
    numbers, classes = read_labels(_join_labels(labels, origin), given.get("classes"), data, origin=origin)
    official = np.concatenate([np.full(len(x), _PARTS[part], np.int8) for part, x in zip(parts, images, strict=True)])
    found = from_arrays(np.concatenate(images), numbers, classes, None if parts == [""] else official, origin=origin, kind=data.kind)
    groups = None if data.group_column is None else _read_groups(data.group_column, given, parts, images, held=held, origin=origin)
    return replace(found, value_range=known, groups=groups)


def _read_groups(
    column: str, given: Mapping[str, NDArray[Any]], parts: Sequence[str], images: Sequence[NDArray[Any]], *, held: str, origin: str
) -> NDArray[np.int64]:
    """Return the number of each image's group, from one array for each split; `held` says which arrays there are."""
    found = []
    for part, x in zip(parts, images, strict=True):
        name = f"{column}{part}"
        if name not in given:
            raise errors.DataError(
                f"{origin} has no array {name}; {held}. Save one value for each image of x{part} under this name, or "
                "change data.group_column"
            )
        values = given[name].ravel()
        if len(values) != len(x):
            sizes_differ = f"{name} has {len(values)} values and x{part} has {len(x)} images"
            raise errors.DataError(f"{origin}: {sizes_differ}; expected one for each image")
        found.append(values.astype("U"))
    return np.unique(np.concatenate(found), return_inverse=True)[1].astype(np.int64)


def _cure_labels(labels: NDArray[Any]) -> str:
    """Return what to do with labels of another type, as the end of a message; "" if that is not clear."""
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        number = dataset.count(int((~np.isfinite(labels)).sum()), "label")
        return f"; {number} are missing or infinite: remove these images, and save y.astype(int)"
    if labels.dtype.kind == "f" and (labels != np.floor(labels)).any():
        return "; these seem to be measurements, not classes"
    return "; save np.char.decode(y, ENCODING), since they are not in UTF-8" if labels.dtype.kind == "S" else ""


def read_labels(
    labels: NDArray[Any], names: Any, data: study.NpzData | study.PythonData, *, origin: str
) -> tuple[NDArray[Any], Sequence[str]]:
    """Turn the labels of arrays into those of a dataset, and return them with the names of the classes.

    Raises:
        DataError: they are not what `data` says.
    """
    if data.kind is TargetKind.LABEL:
        return name_labels(labels, names, data.class_order, origin=origin)
    given = [] if names is None else [dataset.nfc(str(name)) for name in np.asarray(names).ravel().tolist()]
    if data.kind is TargetKind.NUMBER:
        return _read_numbers(labels, origin=origin), given[:1] or ["number"]
    return _read_matrix(labels, len(given), origin=origin), given or [str(number) for number in range(labels.shape[1])]


def _read_matrix(labels: NDArray[Any], num_names: int, *, origin: str) -> NDArray[np.uint8]:
    """Return a matrix of 0 and 1 (n, classes)."""
    expected = "expected a matrix of 0 and 1, with a row for each image and a column for each class"
    if labels.ndim != 2 or labels.dtype.kind not in "biuf":
        raise errors.DataError(
            f"{origin} has labels of type {labels.dtype} and shape {labels.shape}; {expected}. For one label, drop data.labels"
        )
    wrong = np.argwhere((labels != 0) & (labels != 1))
    if len(wrong):
        row, column = wrong[0].tolist()
        raise errors.DataError(f"{origin} has the label {labels[row, column]} in row {row}, column {column}; {expected}")
    if num_names and num_names != labels.shape[1]:
        raise errors.DataError(
            f"{origin} has {num_names} class names for {labels.shape[1]} columns of labels; expected one for each column"
        )
    return labels.astype(np.uint8)


def _read_numbers(labels: NDArray[Any], *, origin: str) -> NDArray[np.float64]:
    """Return numbers (n,)."""
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1 or flat.dtype.kind not in "biufO":
        raise errors.DataError(f"{origin} has labels of type {labels.dtype} and shape {labels.shape}; expected one number for each image")
    try:
        numbers = flat.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise errors.DataError(f"{origin} has labels that are not numbers ({error}); expected one number for each image") from error
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if len(wrong):
        raise errors.DataError(
            f"{origin} has the number {numbers[wrong[0]]} in row {wrong[0]}; expected a finite one. Correct it, or remove the image"
        )
    return numbers


def name_labels(labels: NDArray[Any], names: Any, order: study.ClassOrder, *, origin: str) -> tuple[NDArray[np.int64], Sequence[str]]:
    """Turn labels that are integers or strings into indices into class names, and return both.

    Given `names` keep their order. Without them, the classes are the labels that occur.

    Raises:
        DataError: labels are neither, or a label is not among the names.
    """
    labels = _plain_labels(labels) if names is None or labels.dtype.kind != "b" else labels.astype(np.int64)
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    form = str if order == "earlier" else dataset.nfc
    given = None if names is None else [form(str(name)) for name in np.asarray(names).ravel().tolist()]
    if flat.ndim != 1 or (flat.dtype.kind in "iu" and given is not None):
        return check_labels(flat, len(flat), origin=origin), given or []
    if flat.dtype.kind not in "iuU":
        raise errors.DataError(f"{origin} has labels of type {labels.dtype}; expected integers or strings{_cure_labels(flat)}")
    words = [form(str(label)) for label in flat.tolist()]
    if not given:
        classes, found = dataset.name_classes(words, order, earlier=dataset.sort_earlier)
        return np.array(found, np.int64), classes
    index = {name: number for number, name in enumerate(given)}
    unknown = sorted(set(words) - set(given))
    if unknown:
        raise errors.DataError(
            f"{origin} has the label {wording.cut(unknown[0])}; expected one of the class names {', '.join(map(wording.cut, given[:10]))}"
        )
    return np.array([index[word] for word in words], np.int64), given


def _plain_labels(labels: NDArray[Any]) -> NDArray[Any]:
    """Return labels that are bytes, booleans, or whole numbers as floats as strings and integers; all others as they are."""
    if labels.dtype.kind == "S":
        try:
            return np.char.decode(labels, "utf-8")
        except UnicodeDecodeError:
            return labels
    if labels.dtype.kind == "b":
        return labels.astype("U")
    if labels.dtype.kind == "O" and labels.size:  # a column of pandas, for example
        kinds = {type(label) for label in labels.ravel().tolist()}
        return labels.astype("U") if kinds == {str} else labels.astype(np.int64) if kinds == {int} else labels
    if labels.dtype.kind == "f" and labels.size and np.isfinite(labels).all() and (labels == np.round(labels)).all():
        return labels.astype(np.int64)
    return labels


def _load_npz(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise errors.DataError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; expected an .npz file. Check data.path")
    if folder_files.is_archive(path) and not _holds_arrays(path):
        raise errors.DataError(
            f"{path} is an archive; unpack it with: {folder_files.unpack(str(path))}, and set data.path to the .npz file in it"
        )
    try:
        with path.open("rb") as file:
            given = np.load(file, allow_pickle=False)
            if isinstance(given, np.ndarray):
                raise errors.DataError(f"{path} is a single array; {_EXPECTED}, saved with np.savez_compressed")
            return dict(given)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "Object arrays" in str(error):
            raise errors.DataError(
                f"{path} contains Python objects, which are not read because they could run code; save arrays of numbers or strings"
            ) from error
        raise errors.DataError(f"{path} cannot be read ({error}); expected an .npz file") from error


def _holds_arrays(path: Path) -> bool:
    """Return whether an archive is an .npz file under another name."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _rename(given: Mapping[str, NDArray[Any]], origin: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of splits under the names of `_PARTS`, given names that people use: `train_images` and `X_train` are `x_train`.

    Raises:
        DataError: two arrays have the same meaning.
    """
    found: dict[str, str] = {}
    for name in given:
        meant = _meaning(name)
        if meant is None or meant in given:
            continue
        if meant in found:
            raise errors.DataError(
                f"{origin} has the arrays {found[meant]} and {name}, which both look like {meant}; save only one of them"
            )
        found[meant] = name
    if not found and not {"x", "y"} & given.keys() and not any(name.startswith(("x_", "y_")) for name in given):
        found = _without_splits(given)
    return {**given, **{meant: given[name] for meant, name in found.items()}}


def _without_splits(given: Mapping[str, Any]) -> dict[str, str]:
    """Return which arrays `x` and `y` stand for, if one array is named like images and one like labels: `images`, `labels`."""
    named = {letter: [name for name in given if _words(name) and _words(name) <= words] for letter, words in _LETTERS.items()}
    return {letter: names[0] for letter, names in named.items()} if all(len(names) == 1 for names in named.values()) else {}


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z]+", name.lower()))


def _meaning(name: str) -> str | None:
    """Return the name of `_PARTS` that the name of an array of a split stands for: `test_labels` is `y_test`."""
    if name in _CLASS_NAMES:
        return "classes"
    words = _words(name)
    role, rest = folders.role_of(name)
    part = next((part for part, official in _PARTS.items() if part and official == role), None)
    letters = [letter for letter, its_words in _LETTERS.items() if its_words & words]
    is_clear = part is not None and len(letters) == 1 and set(rest) <= _LETTERS[letters[0]]
    return f"{letters[0]}{part}" if is_clear else None


def _say_arrays(given: Mapping[str, Any], origin: str) -> str:
    """Return which arrays there are, as a part of a sentence."""
    holder = "the function returned" if origin.startswith("data.function") else "the file has"
    return f"{holder} {', '.join(map(wording.cut, given)) or 'no arrays'}"


def _parts_of(given: Mapping[str, Any], held: str, origin: str) -> list[str]:
    parts = [part for part in _PARTS if f"x{part}" in given or f"y{part}" in given]
    for part in parts:
        missing = [name for name in (f"x{part}", f"y{part}") if name not in given]
        if missing:
            raise errors.DataError(f"{origin} has no {missing[0]}; {held}; {_EXPECTED}")
    if "" in parts and len(parts) > 1:
        raise errors.DataError(f"{origin} has both x and x{parts[1]}; save only one of them")
    if parts[:1] not in ([""], ["_train"]):
        raise errors.DataError(f"{origin} has no x_train; {held}; {_EXPECTED}")
    return parts


def _join_labels(labels: list[NDArray[Any]], origin: str) -> NDArray[Any]:
    if len({(y.dtype.kind in "iuf", y.shape[1:]) for y in labels}) > 1:
        raise errors.DataError(
            f"{origin}: expected labels of one shape and type in all splits, not {', '.join(f'{y.dtype} {y.shape}' for y in labels)}"
        )
    return np.concatenate(labels)


def open_animals() -> dataset.Dataset:
    """Open the 9,716 distinct silhouettes, of 10,000, of ten animals, 28 x 28."""
    folder = _package_folder("animal_mnist", "animal-mnist==0.4") / "data" / "Animal_MNIST"
    images, labels = (read_pickled_array(folder / f"animal_{part}_version_3.gz") for part in ("data", "label"))
    return distinct(from_arrays(images, labels, ANIMALS, origin="animal-mnist"))


def open_digits() -> dataset.Dataset:
    """Open the 1,797 handwritten digits of scikit-learn, 8 x 8."""
    path = _package_folder("sklearn", "scikit-learn") / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    # 16 shades of gray, white on black
    images = np.round(table[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return distinct(from_arrays(images, table[:, 64], [str(digit) for digit in range(10)], origin="scikit-learn"))


def read_pickled_array(path: Path) -> NDArray[Any]:
    """Read a gzipped pickle of one NumPy array, and load nothing else from it.

    Raises:
        DataError: the file contains something else, or is damaged.
    """
    try:
        value = pickles.ArrayUnpickler(io.BytesIO(gzip.decompress(path.read_bytes()))).load()
    except (OSError, EOFError, ValueError, TypeError, pickle.UnpicklingError) as error:
        raise errors.DataError(f"{path} is not a pickled array ({error}); install its package again") from error
    if not isinstance(value, np.ndarray):
        raise errors.DataError(f"{path} is a pickled {type(value).__name__}; expected an array. Install its package again")
    return value


def _package_folder(package: str, requirement: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise errors.DataError(f"the package {requirement} is not installed. Install it with: pip install '{requirement}'")
    return Path(found.origin).parent
