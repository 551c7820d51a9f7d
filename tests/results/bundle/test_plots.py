"""The pictures of a bundle."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from tuner.results.bundle import plots
from tuner.results.statistics import Bin

BLUE = (20, 80, 160)


def of(*known: tuple[int, float, float]) -> list[Bin]:
    return [Bin(num_images=num, confidence=confidence, accuracy=accuracy) for num, confidence, accuracy in known]


def width_of_blue(picture: Image.Image, row: int) -> int:
    return sum(picture.getpixel((column, row)) == BLUE for column in range(picture.width))


def test_a_bin_is_drawn_at_its_confidence_and_accuracy() -> None:
    picture = plots.reliability(of((10, 0.5, 0.0), (90, 1.0, 1.0)))
    # 410 pixels a side, 70 from the left and 20 from above
    assert picture.getpixel((70 + 205, 20 + 410)) == BLUE
    assert picture.getpixel((70 + 410, 20)) == BLUE
    assert picture.getpixel((70 + 205 + 8, 20 + 410)) != BLUE


def test_a_disc_with_four_times_the_images_is_twice_as_wide() -> None:
    picture = plots.reliability(of((25, 0.25, 0.5), (100, 0.75, 0.9)))
    small, large = (width_of_blue(picture, 20 + round(410 * (1 - accuracy))) for accuracy in (0.5, 0.9))
    assert small == pytest.approx(large / 2, abs=2)
    assert width_of_blue(plots.reliability(of((1, 0.25, 0.5), (10_000, 0.75, 0.9))), 20 + 205) >= 5  # it is visible


@pytest.mark.parametrize("bins", [of((5, 0.9, 0.8)), []])
def test_the_reliability_of_a_version_with_bins_is_drawn(tmp_path: Path, bins: list[Bin]) -> None:
    found: Any = SimpleNamespace(curve=(), confusion=(), verdict=SimpleNamespace(calibration=SimpleNamespace(bins=bins)))
    assert list(plots.write(found, tmp_path)) == (["reliability.png"] if bins else [])
    assert [path.name for path in tmp_path.iterdir()] == (["reliability.png"] if bins else [])
