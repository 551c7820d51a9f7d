"""Small real images on disk."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image


def noise(seed: int, *, width: int = 12, height: int = 10) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight images in two classes."""
    for number in range(8):
        folder = tmp_path / "photos" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(number)).save(folder / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Two hundred tiny images in two classes."""
    for number in range(200):
        folder = tmp_path / "many" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(number, width=4, height=4)).save(folder / f"{number:03}.bmp")
    return tmp_path / "many"
