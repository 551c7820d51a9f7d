"""The learning rate of each step."""

import numpy as np
import pytest

from tuner.kernels import optimizers


def test_the_rate_rises_in_a_line_and_falls_in_a_half_cosine() -> None:
    found = optimizers.cosine(100, peak=2.0, warmup=0.2)
    assert found.shape == (100,)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:20], np.arange(1, 21) / 20 * 2.0, rtol=1e-6)
    assert found[0] == pytest.approx(0.1)
    assert found[19] == found[20] == found.max() == pytest.approx(2.0)
    assert found[60] == pytest.approx(1.0)
    assert (np.diff(found[20:]) < 0).all()
    assert 0 < found[-1] < 0.001


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.0), (1, 0.9), (2, 0.5), (3, 0.125), (7, 0.9)])
def test_a_short_schedule_has_a_positive_rate_at_each_step(steps: int, warmup: float) -> None:
    found = optimizers.cosine(steps, peak=0.1, warmup=warmup)
    assert len(found) == steps
    assert (found > 0).all()
    assert found.max() == pytest.approx(0.1)


def test_without_warmup_the_first_step_is_the_peak() -> None:
    assert optimizers.cosine(10, peak=0.3, warmup=0.0)[0] == pytest.approx(0.3)
