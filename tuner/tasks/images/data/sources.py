"""Data sources: the `data` section of a study file, opened as a dataset."""

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner import errors
from tuner.spec import study
from tuner.tasks.images.data import dataset, in_memory, listings, manifests
from tuner.trust import user_code

#: arguments that need no value: `*args` and `**kwargs`
_OPTIONAL = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


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
            return call_function(data)
        case study.KerasData() | study.TfdsData():
            raise ValueError(f"only the trainer reads data.source {data.source}, see needs_keras")


def needs_keras(data: study.Data) -> bool:
    """Return whether only the trainer can read this source, so that `tuner check` cannot see its images."""
    return isinstance(data, study.KerasData | study.TfdsData)


def call_function(data: study.PythonData) -> dataset.Dataset:
    """Return the dataset of what `module:function` returns.

    That is images, labels and, optionally, class names; or `(x_train, y_train), (x_test, y_test)`, as data sets of Keras have it; or a dict
    of arrays with the names of an .npz file. The function is imported from the user's environment, including the current folder. Its own
    exceptions are passed on.

    Raises:
        DataError: the function cannot be imported, or returns something else.
    """
    with user_code.current_folder(), _usable_keras():
        function = import_function(data.function)
        _require_no_arguments(function, data.function)
        result = function()
    origin = f"data.function {data.function}"
    named = _named_arrays(result, origin)
    if named is not None:
        return in_memory.from_named(named, data, origin=origin)
    if not isinstance(result, tuple | list) or len(result) not in (2, 3):
        raise errors.DataError(
            f"{origin} returned {_describe(result)}; expected (images, labels) or (images, labels, classes), or a dict of arrays"
        )
    if data.group_column is not None:
        raise errors.DataError(
            f"{origin} returned no array {data.group_column}, which data.group_column names; return a dict of arrays, for example "
            f"{{'x': images, 'y': labels, '{data.group_column}': groups}}"
        )
    images, labels = _read_images(result[0], origin), _read_array(result[1], origin)
    names = result[2] if len(result) == 3 else None
    if isinstance(images, list):
        many, known = in_memory.in_range(images, data.value_range, origin=origin)
        numbers, classes = in_memory.read_labels(labels, names, data, origin=origin)
        return replace(in_memory.from_images(many, numbers, classes, origin=origin, kind=data.kind), value_range=known)
    [one], known = in_memory.in_range([images], data.value_range, origin=origin)
    in_memory.check_images(one, origin=origin)
    numbers, classes = in_memory.read_labels(labels, names, data, origin=origin)
    return replace(in_memory.from_arrays(one, numbers, classes, origin=origin, kind=data.kind), value_range=known)


def _require_no_arguments(function: Callable[..., Any], name: str) -> None:
    """Refuse a function that cannot be called without arguments."""
    try:
        wanted = inspect.signature(function)
    except ValueError:  # some functions of C have no signature
        return
    needed = [one.name for one in wanted.parameters.values() if one.default is one.empty and one.kind not in _OPTIONAL]
    if needed:
        raise errors.DataError(
            f"data.function {name} has the arguments {', '.join(needed)}, but tuner calls it without any; give them defaults, or write a "
            "function that calls it with their values"
        )


def _named_arrays(result: Any, origin: str) -> dict[str, NDArray[Any]] | None:
    """Return the arrays of a function by their names in an .npz file; None if the function returned images, labels and class names."""
    if isinstance(result, Mapping):
        return {str(name): _read_array(array, origin) for name, array in result.items()}
    if isinstance(result, tuple | list) and len(result) == 2 and all(map(_is_pair, result)):
        (x_train, y_train), (x_test, y_test) = result
        given = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
        return {name: _read_array(array, origin) for name, array in given.items()}
    return None


def _is_pair(given: Any) -> bool:
    """Return whether this is an array of images with their labels."""
    return isinstance(given, tuple | list) and len(given) == 2 and getattr(given[0], "ndim", 0) > 2


def _read_images(given: Any, origin: str) -> NDArray[Any] | list[NDArray[Any]]:
    """Return images as one array, or, if their sizes differ, as a list of arrays."""
    if not isinstance(given, list | tuple):
        return _read_array(given, origin)
    images = [_read_array(image, origin) for image in given]
    return images if len({image.shape for image in images}) > 1 else np.asarray(images)


def _read_array(given: Any, origin: str) -> NDArray[Any]:
    try:
        return np.asarray(given)
    except ValueError as error:
        raise errors.DataError(
            f"{origin} returned images or labels that are not arrays ({error}); return one array each, or a list of arrays of images"
        ) from error


def _describe(result: Any) -> str:
    """Say what a function returned, and what to return instead if that is clear."""
    if hasattr(result, "as_numpy_iterator"):
        return (
            f"a {type(result).__name__}. Read it into arrays first: images, labels = map(numpy.stack, "
            "zip(*result.unbatch().as_numpy_iterator())) for a batched tf.data.Dataset"
        )
    if hasattr(result, "to_parquet"):
        return f"a {type(result).__name__}. Write a table of paths and labels to a file, for data.source: manifest"
    if isinstance(result, tuple | list):
        cure = ". For several splits, return a dict: {'x_train': …, 'y_train': …, 'x_test': …, 'y_test': …}" if len(result) > 3 else ""
        return f"a {type(result).__name__} of {len(result)}{cure}"
    return f"a {type(result).__name__}"


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
