"""Functions that return images with several labels, and images with numbers."""

import numpy as np
from numpy.typing import NDArray

_NUM = 120


def several() -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[str]]:
    """Return images that are dark, have a wide stripe, or a rare spot."""
    random = np.random.default_rng(0)
    labels = (random.random((_NUM, 3)) < [0.5, 0.4, 0.15]).astype(np.uint8)
    images = random.integers(120, 200, (_NUM, 16, 16, 3))
    for image, (dark, wide, rare) in zip(images, labels, strict=True):
        image[:] = image // (2 if dark else 1)
        image[6:10] += 55 * int(wide)
        image[:4, :4] = 255 if rare else image[:4, :4]
    return images.astype(np.uint8), labels, ["dark", "wide", "rare"]


def numbers() -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return images and their brightness, from 100 to 300."""
    random = np.random.default_rng(0)
    brightness = random.uniform(0, 1, _NUM)
    images = random.integers(0, 55, (_NUM, 16, 16, 3)) + (200 * brightness).astype(int)[:, None, None, None]
    return images.astype(np.uint8), 100 + 200 * brightness
