"""Images with several labels each: which of three shapes are drawn, with a 0 or 1 for each."""

import numpy as np

SHAPES = ["disk", "ring", "cross"]


def load():
    """Return 300 images, for each image a row of 0 and 1, and what the columns mean. An image may have no shape at all."""
    random = np.random.default_rng(0)
    images = random.integers(0, 60, (300, 32, 32, 3), np.uint8)
    labels = random.random((300, 3)) < [0.5, 0.4, 0.25]
    rows, columns = np.mgrid[:32, :32]
    for image, present in zip(images, labels, strict=True):
        for shape in np.flatnonzero(present):
            x, y = random.integers(7, 25, 2)
            distance = np.hypot(rows - y, columns - x)
            across, down = np.abs(columns - x), np.abs(rows - y)
            inside = [distance < 6, np.abs(distance - 5) < 1.5, (np.minimum(across, down) < 2) & (np.maximum(across, down) < 7)]
            image[inside[shape]] = random.integers(150, 256, 3)
    return images, labels.astype(np.uint8), SHAPES
