"""The data sets that come inside Python packages into Datasets, without importing these packages."""

import gzip
import importlib.util
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner import errors
from tuner.data import arrays, dataset, pickles

ANIMALS = ("Bear", "Bird", "Cat", "Cow", "Dog", "Elephant", "Giraffe", "Horse", "Sheep", "Zebra")


def open_animals() -> dataset.Dataset:
    """The 9,716 distinct ones of 10,000 silhouettes of ten animals, 28 x 28."""
    folder = _folder("animal_mnist", "animal-mnist==0.4") / "data" / "Animal_MNIST"
    images, labels = (read_array(folder / f"animal_{part}_version_3.gz") for part in ("data", "label"))
    return arrays.distinct(arrays.from_arrays(images, labels, ANIMALS, origin="animal-mnist"))


def open_digits() -> dataset.Dataset:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8."""
    path = _folder("sklearn", "scikit-learn") / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    # sixteen shades, white on black
    images = np.round(table[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return arrays.distinct(arrays.from_arrays(images, table[:, 64], [str(digit) for digit in range(10)], origin="scikit-learn"))


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
