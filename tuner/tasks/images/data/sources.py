"""Data sources: the `data` section of a study file, opened as a dataset."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tuner import errors
from tuner.spec import study
from tuner.tasks.images.data import dataset, in_memory, listings, manifests

#: import path of the process that started the study; empty: only this process's own
_CALLERS_PATH: list[str] = []
#: whether code that a study names is being imported or called
_IS_IMPORTING = ContextVar("_IS_IMPORTING", default=False)


def open(data: study.Data, *, cache: Path) -> dataset.Dataset:  # noqa: A001 -- read as sources.open
    """Return the labeled images that a study trains on.

    `cache` has the index of decoded files.

    Raises:
        DataError: the images or labels cannot be used as they are.
    """
    match data:
        case study.FolderData():
            found = listings.list_folder(
                data.path,
                class_order=data.class_order,
                class_pattern=data.class_pattern,
                group_pattern=data.group_pattern,
                ignore=data.ignore,
            )
            return listings.read(found, cache=cache, value_range=data.value_range)
        case study.ManifestData():
            return listings.read(manifests.list_manifest(data), cache=cache, value_range=data.value_range)
        case study.NpzData():
            return in_memory.read_npz(data)
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
    with current_folder(), _usable_keras():
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
            f"data.function {name} cannot be imported ({error}); "
            f"install {module_name}, start tuner in its folder, or add its folder to PYTHONPATH"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise errors.DataError(f"data.function {name} does not exist: {module_name} ({module.__file__}) has no function {function_name}")
    return function  # type: ignore[no-any-return]


@contextmanager
def current_folder() -> Iterator[None]:
    """Put the current folder and the caller's import path at the start of this one inside a `with` block."""
    before, prefix = list(sys.path), [str(Path.cwd()), *_CALLERS_PATH]
    sys.path[:] = [*prefix, *(folder for folder in before if folder not in prefix)]
    token = _IS_IMPORTING.set(True)
    try:
        yield
    finally:
        _IS_IMPORTING.reset(token)
        sys.path[:] = [*before, *(folder for folder in sys.path if folder not in {*before, *prefix})]


@contextmanager
def _usable_keras() -> Iterator[None]:
    """Let code of the user import Keras inside a `with` block, as in a trainer, if KERAS_BACKEND names a backend that is not installed."""
    given = os.environ.get("KERAS_BACKEND", "")
    if "keras" in sys.modules or not given or (given.isidentifier() and importlib.util.find_spec(given)):
        yield
        return
    os.environ["KERAS_BACKEND"] = "tensorflow"
    try:
        yield
    finally:
        os.environ["KERAS_BACKEND"] = given


def use_import_path(folders: Sequence[str]) -> None:
    """Import code that a study names as another process would: the one that has this import path."""
    _CALLERS_PATH[:] = folders


def import_path() -> tuple[str, ...]:
    """Return the import path of this process in absolute paths, for `use_import_path` of another process."""
    folders: list[object] = list(sys.path)  # programs put paths of other types there, which Python ignores
    return tuple(str(Path(folder).absolute()) for folder in folders if isinstance(folder, str))


def require_outside() -> None:
    """Refuse a study that starts while code of a study is imported: its module calls `tuner.run` when it is imported.

    Raises:
        RequestError: this is such a call.
    """
    if _IS_IMPORTING.get():
        raise errors.RequestError(
            "tuner.run was called while tuner imported the code that a study names, which would start the study again and again. "
            'Put the call below `if __name__ == "__main__":`, or move the functions of the study to a file of their own.'
        )
