import numpy as np
import pytest

from tuner.tasks.images.data import corruptions
from tuner.tasks.images.data.corruptions import STRENGTHS, UNITS, Corruption, Pixels, corrupt

EACH = [(kind, strength) for kind in Corruption for strength in STRENGTHS[kind]]


@pytest.fixture(scope="module")
def images() -> Pixels:
    """Smooth colors with an edge."""
    across, down = np.meshgrid(np.linspace(40, 200, 48), np.linspace(60, 180, 48))
    image = np.stack([across, down, 255 - across], -1)
    image[16:32, 10:30] = (200, 30, 90)
    return np.stack([image, image[::-1]]).astype(np.uint8)


def difference(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


@pytest.mark.parametrize(("kind", "strength"), EACH)
def test_a_corruption_keeps_the_shape_and_the_original_and_is_repeatable(images: Pixels, kind: Corruption, strength: float) -> None:
    before = images.copy()
    made = corrupt(images, kind, strength, seed=3)
    assert made.shape == images.shape and made.dtype == np.uint8
    assert np.array_equal(images, before)
    assert np.array_equal(made, corrupt(images, kind, strength, seed=3))
    assert difference(made, images) > 0.1


@pytest.mark.parametrize("kind", [kind for kind in Corruption if len(STRENGTHS[kind]) > 1])
def test_stronger_corruptions_change_more(images: Pixels, kind: Corruption) -> None:
    far = [difference(corrupt(images, kind, strength, seed=0), images) for strength in STRENGTHS[kind]]
    assert far == sorted(far) and len(far) == 3


def test_every_corruption_has_strengths_and_a_unit() -> None:
    assert set(STRENGTHS) == set(UNITS) == set(Corruption) == set(corruptions._CORRUPTIONS)


def test_each_corruption_has_its_effect(images: Pixels) -> None:
    grey = corrupt(images, Corruption.GREY, 1.0, seed=0)
    assert np.array_equal(grey[..., 0], grey[..., 1]) and np.array_equal(grey[..., 0], grey[..., 2])
    flat = corrupt(images, Corruption.CONTRAST, 0.2, seed=0)
    assert flat.std(axis=(1, 2)) == pytest.approx(0.2 * images.std(axis=(1, 2)), abs=0.5)
    noisy = corrupt(np.full((4, 48, 48, 3), 128, np.uint8), Corruption.NOISE, 0.08, seed=0)
    assert noisy.std() == pytest.approx(0.08 * 255, rel=0.05)
    brighter = corrupt(images, Corruption.BRIGHTNESS, 0.1, seed=0)
    assert brighter.max(-1).mean() - images.max(-1).mean() == pytest.approx(25.5, abs=2)


def test_a_translation_moves_the_image_and_mirrors_it_at_the_edges(images: Pixels) -> None:
    (moved,) = corrupt(images[:1], Corruption.TRANSLATION, 0.06, seed=0)
    image = images[0]
    shifts = [(down, across) for down in (-3, 3) for across in (-3, 3)]
    same = [np.array_equal(moved[6:-6, 6:-6], image[6 + down : 42 + down, 6 + across : 42 + across]) for down, across in shifts]
    assert sum(same) == 1


def test_a_rotation_leaves_no_corner_empty() -> None:
    white = np.full((1, 48, 48, 3), 255, np.uint8)
    assert corrupt(white, Corruption.ROTATION, 15, seed=0).min() == 255


def test_the_blur_of_a_small_image_is_smaller() -> None:
    point = np.zeros((1, 224, 224, 3), np.uint8)
    point[0, 112, 112] = 255
    small = point[:, 84:140, 84:140]
    peaks = [int(corrupt(image, Corruption.BLUR, 3.0, seed=0).max()) for image in (point, small)]
    assert peaks[1] > 4 * peaks[0]
