"""Pickles of numpy arrays and plain containers into what they hold; nothing else in them is loaded."""

import pickle
from typing import Any

import numpy as np

_RECONSTRUCT = np.empty(0).__reduce__()[0]
#: all that a pickled array needs, by the names that old and new numpy give it
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class ArrayUnpickler(pickle.Unpickler):
    """Refuses, with UnpicklingError, whatever an array does not need."""

    def find_class(self, module: str, name: str) -> Any:
        """The class or function of a name, if arrays need it."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]
