"""A Python function of the user's into a Dataset."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tuner import errors
from tuner.data import arrays, dataset, npz


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
    arrays.check_images(images, origin=origin)
    numbers, classes = npz.name_labels(labels, result[2] if len(result) == 3 else None, origin=origin)
    return arrays.from_arrays(images, numbers, classes, origin=origin)


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
