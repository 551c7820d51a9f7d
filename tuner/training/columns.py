"""Rows of numbers into the moments of their columns, and into the type that keeps them."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: a vector's column that varies less than this is as good as constant
SMALLEST_VARIANCE = 1e-6
#: float16 is kept where its rounding is below this part of a column's spread, in so many of the columns
_ROUNDING = 0.02
_MOST_COLUMNS = 0.99
_LARGEST_HALF = 60000.0
_ROWS_AT_ONCE = 4096

#: mean and variance (d,), the variance never too small to divide by
Moments = tuple[NDArray[np.float32], NDArray[np.float32]]


def measure(stored: NDArray[Any]) -> Moments:
    """Mean and variance of the columns of vectors (n, d), the variance never too small to divide by."""
    mean = np.sum([part.sum(0, dtype=np.float64) for part in _parts(stored)], 0) / len(stored)
    variance = np.sum([np.square(part - mean).sum(0) for part in _parts(stored)], 0) / len(stored)
    return mean.astype(np.float32), np.maximum(variance, SMALLEST_VARIANCE).astype(np.float32)


def is_half_enough(values: NDArray[np.float32]) -> bool:
    """Whether float16 keeps these rows (n, d): it has three digits, and nothing above 65,504.

    What it does to a column that varies little beside its size is lost; a few such columns of many are no loss.
    """
    if not np.isfinite(values).all() or np.abs(values).max(initial=0.0) > _LARGEST_HALF:
        return False
    errors = (values.astype(np.float16).astype(np.float32) - values).std(0)
    spreads = np.sqrt(np.maximum(values.var(0), SMALLEST_VARIANCE))
    return float(np.mean(errors <= _ROUNDING * spreads)) >= _MOST_COLUMNS


def rounded(rows: Iterator[NDArray[np.float32]]) -> tuple[str, Iterator[NDArray[Any]]]:
    """Rows in the type that keeps them, judged by the first of them."""
    first = next(rows)
    parts = itertools.chain([first], rows)
    if not is_half_enough(first):
        return "float32", parts
    return "float16", (np.clip(part, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16) for part in parts)


def _parts(stored: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(stored), _ROWS_AT_ONCE):
        yield np.asarray(stored[start : start + _ROWS_AT_ONCE], np.float32)
