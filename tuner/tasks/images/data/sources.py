"""Data sources: the `data` section of a study file, opened as a dataset."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tuner import errors
from tuner.spec import study
from tuner.tasks.images.data import dataset, in_memory, listings, manifests


def open(data: study.Data, *, cache: Path) -> dataset.Dataset:  # noqa: A001 -- read as sources.open
    """Return the labeled images that a study trains on.

    `cache` has the index of decoded files.

    Raises:
        DataError: the images or labels cannot be used as they are.
    """
    match data:
        case study.FolderData():
            listing = listings.list_folder(data.path, group_pattern=data.group_pattern, class_order=data.class_order)
            return listings.read(listing, cache=cache, value_range=data.value_range)
        case study.ManifestData():
            return listings.read(manifests.list_manifest(data), cache=cache, value_range=data.value_range)
        case study.NpzData():
            return in_memory.read_npz(data.path, class_order=data.class_order, value_range=data.value_range)
        case study.AnimalsData() | study.DigitsData():
            return in_memory.open_animals() if isinstance(data, study.AnimalsData) else in_memory.open_digits()
        case study.PythonData():
            return call_function(data.function, class_order=data.class_order, value_range=data.value_range)
        case study.KerasData() | study.TfdsData():
            raise ValueError(f"only the trainer reads data.source {data.source}, see needs_keras")


def needs_keras(data: study.Data) -> bool:
    """Return whether only the trainer can read this source, so that `tuner check` cannot see its images."""
    return isinstance(data, study.KerasData | study.TfdsData)


def call_function(name: str, *, class_order: study.ClassOrder = "natural", value_range: dataset.WantedRange = None) -> dataset.Dataset:
    """Return the dataset of what `module:function` returns: images, labels and, optionally, class names.

    The function is imported from the user's environment, including the current folder. Its own exceptions are passed on.

    Raises:
        DataError: the function cannot be imported, or returns something else.
    """
    with current_folder():
        result = import_function(name)()
    origin = f"data.function {name}"
    if not isinstance(result, tuple | list) or len(result) not in (2, 3):
        count = f" of {len(result)}" if isinstance(result, tuple | list) else ""
        raise errors.DataError(
            f"{origin} returned a {type(result).__name__}{count}; expected (images, labels) or (images, labels, classes)"
        )
    try:
        images, labels = np.asarray(result[0]), np.asarray(result[1])
    except ValueError as error:
        raise errors.DataError(
            f"{origin} returned images or labels that are not arrays ({error}); return one array each, images of the same size"
        ) from error
    [images], known = in_memory.in_range([images], value_range, origin=origin)
    in_memory.check_images(images, origin=origin)
    names = result[2] if len(result) == 3 else None
    numbers, classes = in_memory.name_labels(labels, names, class_order, origin=origin)
    return replace(in_memory.from_arrays(images, numbers, classes, origin=origin), value_range=known)


def import_function(name: str) -> Callable[[], Any]:
    """Import the function that `module:function` names.

    Raises:
        DataError: the module or the function does not exist.
    """
    module_name, function_name = name.split(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise errors.DataError(
            f"data.function {name} cannot be imported ({error}); install {module_name}, or start tuner in its folder"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise errors.DataError(f"data.function {name} does not exist: {module_name} ({module.__file__}) has no function {function_name}")
    return function  # type: ignore[no-any-return]


@contextmanager
def current_folder() -> Iterator[None]:
    """Put the current folder at the start of the import path inside a `with` block."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
