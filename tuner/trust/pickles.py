"""Pickles: read pickled numpy arrays and plain containers, and refuse everything else."""

import pickle
from typing import Any

import numpy as np

_RECONSTRUCT = np.empty(0).__reduce__()[0]
#: everything that a pickled array needs, by its names in old and new versions of numpy
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class ArrayUnpickler(pickle.Unpickler):
    """Raises UnpicklingError for everything that an array does not need."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the class or function of a name if arrays need it."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]
