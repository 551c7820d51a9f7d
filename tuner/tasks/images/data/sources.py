"""A Python function of the user's into a Dataset.

The `data` section of a study file into a Dataset.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tuner import errors
from tuner.spec import study
from tuner.tasks.images.data import dataset, in_memory


def read(name: str) -> dataset.Dataset:
    """The Dataset of what `module:function` returns: images, labels and, if it likes, class names.

    The function is imported from the user's environment, the current folder included. What it raises itself is passed on.

    Raises:
        DataError: it cannot be imported, or does not return what is expected.
    """
    with current_folder():
        result = load(name)()
    origin = f"data.function {name}"
    if not isinstance(result, tuple | list) or len(result) not in (2, 3):
        count = f" of {len(result)}" if isinstance(result, tuple | list) else ""
        raise errors.DataError(
            f"{origin}: it returned a {type(result).__name__}{count}; expected (images, labels) or (images, labels, classes)"
        )
    try:
        images, labels = np.asarray(result[0]), np.asarray(result[1])
    except ValueError as error:
        raise errors.DataError(f"{origin}: images or labels are no arrays ({error}); return images of one size, stacked") from error
    in_memory.check_images(images, origin=origin)
    numbers, classes = in_memory.name_labels(labels, result[2] if len(result) == 3 else None, origin=origin)
    return in_memory.from_arrays(images, numbers, classes, origin=origin)


def load(name: str) -> Callable[[], Any]:
    """The function `module:function` names.

    Raises:
        DataError: there is no such module or function.
    """
    module_name, function_name = name.split(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise errors.DataError(
            f"data.function {name}: {module_name} cannot be imported ({error}); install it, or start tuner in the folder where it lies"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise errors.DataError(f"data.function {name}: {module_name} ({module.__file__}) has no function {function_name}")
    return function  # type: ignore[no-any-return]


@contextmanager
def current_folder() -> Iterator[None]:
    """With the current folder in front of the places that modules are imported from."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


Dataset = dataset.Dataset
from_arrays = in_memory.from_arrays
from_images = in_memory.from_images


def open(data: study.Data, *, cache: Path) -> dataset.Dataset:  # noqa: A001 -- read as sources.open
    """The labelled images that a study trains on.

    `cache` keeps what decoding the files of a folder or manifest told. Each way of reading is imported when it is used, so that
    `tuner check` waits for no more than its study needs.

    Raises:
        DataError: the images or labels cannot be used as they are.
    """
    match data:
        case study.FolderData():
            from tuner.tasks.images.data import folder

            return folder.read(folder.find(data.path), cache=cache)
        case study.ManifestData():
            from tuner.tasks.images.data import folder, table

            return folder.read(table.find(data), cache=cache)
        case study.NpzData():
            from tuner.tasks.images.data import in_memory

            return in_memory.read(data.path)
        case study.AnimalsData() | study.DigitsData():
            from tuner.tasks.images.data import in_memory

            return in_memory.open_animals() if isinstance(data, study.AnimalsData) else in_memory.open_digits()
        case study.PythonData():
            return read(data.function)
        case study.KerasData() | study.TfdsData():
            raise ValueError(f"data.source {data.source} is read by the trainer, see needs_keras")


def needs_keras(data: study.Data) -> bool:
    """Whether only the trainer can read this source, so that a check of the file does not see its images."""
    return isinstance(data, study.KerasData | study.TfdsData)
