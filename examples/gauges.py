"""Images with a number each: the reading of a gauge, from 0 to 100."""

import numpy as np


def load():
    """Return 300 images of a dial with a hand, and the number that each shows."""
    random = np.random.default_rng(0)
    readings = random.uniform(0, 100, 300).round(1)
    images = random.integers(0, 30, (300, 32, 32, 3), np.uint8)
    for image, reading in zip(images, readings, strict=True):
        x, y, radius = *random.integers(12, 20, 2), random.uniform(9, 12)
        face, hand = random.integers(60, 120, 3), (255, 240, 220)
        rows, columns = np.mgrid[:32, :32] - np.array([y, x]).reshape(2, 1, 1)
        angle = np.pi * (1 - reading / 100)
        along = columns * np.cos(angle) - rows * np.sin(angle)
        across = columns * np.sin(angle) + rows * np.cos(angle)
        image[np.hypot(rows, columns) < radius] = face
        image[(np.abs(across) < 1.2) & (along > 0) & (along < radius)] = hand
    return images, readings
