"""The type that keeps columns of numbers."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tuner.kernels import head

ROWS = np.random.default_rng(0).normal(size=(64, 200)).astype(np.float32)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (ROWS, True),
        (ROWS * 1e4, True),
        (ROWS * 1e5, False),  # float16 ends at 65,504
        (ROWS + 30, True),
        (ROWS + 300, False),  # the spread is lost beside the size
        (np.where(np.arange(200) == 7, ROWS + 300, ROWS), True),  # in one column of many
        (np.full((64, 200), 0.1, np.float32), True),  # nothing to lose
        (ROWS * 1e-8, True),  # as good as constant
        (np.where(np.arange(200) == 7, np.nan, ROWS), False),
    ],
)
def test_half_precision_is_used_where_it_loses_nothing(values: NDArray[np.float32], expected: bool) -> None:
    assert head.is_half_enough(values) is expected
