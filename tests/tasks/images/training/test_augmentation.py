"""Effects of augmentation on images."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from tuner.spec.hyperparameters import Augmentation
from tuner.tasks.images.training import augmentation

SIZE, COUNT = 16, 12
#: smooth pictures with a bright corner: what a change does to them can be measured
GRID = np.linspace(0, 1, SIZE, dtype=np.float32)
SLOPES = np.random.default_rng(0).uniform(20, 110, (COUNT, 2, 1, 1, 3)).astype(np.float32)
IMAGES = SLOPES[:, 0] * GRID[None, :, None, None] + SLOPES[:, 1] * GRID[None, None, :, None] + 10
IMAGES[:, :3, :3] += 20
LABELS = np.eye(COUNT, dtype=np.float32)
#: each field alone, at a middling strength
ALONE: dict[str, Any] = {name: 0.4 for name in Augmentation.model_fields if name not in ("flip", "views")} | {"flip": "both"}


def change(seed: int = 1, step: int = 0, **strengths: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    augment = tf.function(augmentation.build(Augmentation.model_validate(strengths)))
    images, labels = augment(tf.constant(IMAGES), tf.constant(LABELS), tf.constant([seed, step], tf.int32))
    return images.numpy(), labels.numpy()


def test_an_augmentation_that_is_off_changes_nothing() -> None:
    images, labels = change()
    assert (images == IMAGES).all()
    assert (labels == LABELS).all()


@pytest.mark.parametrize("field", ALONE)
def test_each_augmentation_works_alone_and_keeps_the_color_range(field: str) -> None:
    images, labels = change(**{field: ALONE[field]})
    assert (np.abs(images - IMAGES).max((1, 2, 3)) > 1).sum() >= 2
    assert np.isfinite(images).all()
    assert images.min() >= 0
    assert images.max() <= 255
    np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-5)
    if field not in ("mixup", "cutmix"):
        assert (labels == LABELS).all()


@pytest.mark.parametrize("field", ALONE)
def test_equal_seeds_give_equal_changes_and_different_seeds_different_ones(field: str) -> None:
    strengths = {field: ALONE[field]}
    augment = tf.function(augmentation.build(Augmentation.model_validate(strengths)))

    def at(seed: int, step: int) -> NDArray[np.float32]:
        found: NDArray[np.float32] = augment(tf.constant(IMAGES), tf.constant(LABELS), tf.constant([seed, step], tf.int32))[0].numpy()
        return found

    first = at(1, 5)
    others = [at(2, 5), at(1, 6), at(1, 7), at(3, 5)]
    assert (at(1, 5) == first).all()
    assert (change(1, 5, **strengths)[0] == first).all()
    assert sum((other != first).any() for other in others) >= 3


def test_all_at_once_stay_finite_and_in_range() -> None:
    images, labels = change(**ALONE)
    assert np.isfinite(images).all()
    assert images.min() >= 0
    assert images.max() <= 255
    np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("flip", "views"),
    [
        ("horizontal", [IMAGES, IMAGES[:, :, ::-1]]),
        ("vertical", [IMAGES, IMAGES[:, ::-1]]),
        ("both", [IMAGES, IMAGES[:, :, ::-1], IMAGES[:, ::-1], IMAGES[:, ::-1, ::-1]]),
    ],
)
def test_a_flip_gives_the_image_or_its_mirror_image(flip: str, views: list[NDArray[np.float32]]) -> None:
    seen = set()
    for step in range(4):
        images, _ = change(step=step, flip=flip)
        near = np.stack([np.abs(images - view).max((1, 2, 3)) for view in views]) < 1e-2
        assert near.any(0).all()
        seen |= set(near.argmax(0).tolist())
    assert seen == set(range(len(views)))


def test_a_translation_moves_by_at_most_its_strength() -> None:
    # a slope of one a pixel shows by its colours where each place comes from; the inner part has no reflection in it
    columns = np.arange(SIZE, dtype=np.float32)
    slope = np.broadcast_to(
        (np.stack([columns[None, :] + 0 * columns[:, None], columns[:, None] + 0 * columns[None, :]], -1)), (64, SIZE, SIZE, 2)
    )
    images = np.concatenate([slope, slope[..., :1]], -1)
    augment = augmentation.build(Augmentation(translation=0.25))
    moved, _ = augment(tf.constant(images), tf.eye(64), tf.constant([1, 1]))
    shift = (moved.numpy() - images)[:, 4:-4, 4:-4, :2]
    np.testing.assert_allclose(shift, np.broadcast_to(shift.mean((1, 2), keepdims=True), shift.shape), atol=1e-3)
    assert 3.2 < np.abs(shift).max() <= 0.25 * SIZE + 1e-3
    assert np.abs(shift.mean((1, 2)).mean(0)).max() < 1


def test_a_rotation_keeps_the_center_in_place() -> None:
    images, _ = change(rotation=0.25)
    middle = slice(SIZE // 2 - 1, SIZE // 2 + 1)
    np.testing.assert_allclose(images[:, middle, middle].mean((1, 2)), IMAGES[:, middle, middle].mean((1, 2)), atol=2)


def test_brightness_shifts_an_image_as_a_whole_and_contrast_keeps_its_mean() -> None:
    shift = change(brightness=0.1)[0] - IMAGES
    for number, image in enumerate(IMAGES):
        assert np.ptp(shift[number][((image > 30) & (image < 220)).all(-1)]) < 1e-3
    assert np.abs(shift).max() <= 0.1 * 255 + 1e-3
    contrast, _ = change(contrast=0.2)
    np.testing.assert_allclose(contrast.mean((1, 2, 3)), IMAGES.mean((1, 2, 3)), atol=2)
    assert (contrast.std((1, 2, 3)) / IMAGES.std((1, 2, 3)) <= 1.2 + 1e-3).all()


def test_erasing_leaves_most_of_each_image_and_some_images_whole() -> None:
    erased = np.concatenate([(change(step=step, erasing=0.3)[0] != IMAGES).any(-1).mean((1, 2)) for step in range(8)])
    assert erased.max() <= 0.45
    assert (erased == 0).mean() > 0.3
    assert (erased > 0.05).mean() > 0.2


def test_mixup_mixes_labels_as_it_mixes_pixels() -> None:
    images, labels = change(mixup=0.4)
    for number in range(COUNT):
        share = labels[number, number]
        assert share >= 0.5
        assert labels[number, COUNT - 1 - number] == pytest.approx(1 - share, abs=1e-5)
        np.testing.assert_allclose(images[number], share * IMAGES[number] + (1 - share) * IMAGES[COUNT - 1 - number], atol=1e-3)


def test_cutmix_labels_are_the_share_of_pixels() -> None:
    images, labels = change(cutmix=1.0)
    for number in range(COUNT):
        own = (np.abs(images[number] - IMAGES[number]) < 1e-4).all(-1)
        partner = (np.abs(images[number] - IMAGES[COUNT - 1 - number]) < 1e-4).all(-1)
        assert (own | partner).all()
        # where both pictures have the same colour the place may be of either
        assert (own & ~partner).mean() - 1e-5 <= labels[number, number] <= own.mean() + 1e-5
        assert labels[number].sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("alpha", [0.01, 0.1, 2.0])
def test_mixing_is_finite_at_any_alpha(alpha: float) -> None:
    images, labels = change(mixup=alpha, cutmix=alpha)
    assert np.isfinite(images).all()
    assert np.isfinite(labels).all()
    np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-5)


def test_a_batch_of_one_image_is_augmented_too() -> None:
    augment = augmentation.build(Augmentation.model_validate(ALONE))
    images, labels = augment(tf.constant(IMAGES[:1]), tf.constant(LABELS[:1]), tf.constant([1, 1]))
    assert images.shape == (1, SIZE, SIZE, 3)
    assert np.isfinite(images).all()
    assert labels.numpy().sum() == pytest.approx(1)


def test_strengths_are_values_of_one_graph() -> None:
    weak, strong = (Augmentation(flip="horizontal", rotation=r, brightness=r, erasing=r, mixup=r) for r in (0.05, 0.4))
    assert augmentation.Changes.of(weak) == augmentation.Changes.of(strong)
    traced = tf.function(augmentation.traceable(augmentation.Changes.of(weak)))
    for wanted in (weak, strong):
        values = {name: tf.constant(value) for name, value in augmentation.strengths(wanted).items()}
        images, labels = traced(tf.constant(IMAGES), tf.constant(LABELS), values, tf.constant([1, 5]))
        expected = change(1, 5, **wanted.model_dump())
        np.testing.assert_allclose(images, expected[0], atol=1e-3)
        np.testing.assert_allclose(labels, expected[1], atol=1e-6)
    assert traced.experimental_get_tracing_count() == 1
