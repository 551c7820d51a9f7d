"""The views of a training image, and what they show."""

from typing import Any

import keras
import numpy as np
import pytest

from tuner.spec.hyperparameters import Augmentation, Flip
from tuner.tasks.images.training import views
from tuner.tasks.images.training.views import View

IMAGES = np.random.default_rng(0).integers(0, 256, (70, 16, 16, 3)).astype(np.uint8)
FLIPS = (View(), View(flip_x=True))


def found(**given: Any) -> tuple[View, ...]:
    return views.views(Augmentation.model_validate(given))


def drawn(number: int = 0, **given: Any) -> View:
    return View(strengths=Augmentation.model_validate(given), number=number)


@pytest.mark.parametrize(
    ("flip", "expected"),
    [
        (Flip.NONE, (View(),)),
        (Flip.HORIZONTAL, FLIPS),
        (Flip.VERTICAL, (View(), View(flip_y=True))),
        (Flip.BOTH, (*FLIPS, View(flip_y=True), View(flip_x=True, flip_y=True))),
    ],
)
def test_if_each_step_draws_the_probe_sees_the_image_and_its_mirror_images(flip: Flip, expected: tuple[View, ...]) -> None:
    assert found(flip=flip) == expected
    assert found(flip=flip, zoom=0.2, mixup=0.2) == expected


def test_drawn_views_complete_the_number_of_views() -> None:
    strengths = Augmentation(flip=Flip.HORIZONTAL, zoom=0.2)
    expected = (*FLIPS, *(View(strengths=strengths, number=number) for number in range(3)))
    assert views.views(strengths.model_copy(update={"views": 5})) == expected
    assert views.views(strengths.model_copy(update={"views": 5, "mixup": 0.3, "cutmix": 0.1})) == expected
    assert views.views(strengths.model_copy(update={"views": 1})) == FLIPS[:1]


def test_without_random_changes_there_are_only_mirror_images() -> None:
    assert found(flip=Flip.HORIZONTAL, views=8) == FLIPS
    assert found(views=8) == (View(),)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, True),
        ({"flip": "both"}, True),
        ({"zoom": 0.1}, False),
        ({"zoom": 0.1, "views": 4}, True),
        ({"erasing": 0.1}, False),
        ({"mixup": 0.1}, False),
        ({"cutmix": 0.1, "views": 4}, False),  # mixes two images, of which there are too many pairs
    ],
)
def test_fine_tuning_sees_finitely_many_views_without_draws_or_with_a_number_of_views(given: dict[str, Any], expected: bool) -> None:
    assert views.is_finite(Augmentation.model_validate(given)) is expected


def test_mirror_images_are_mirrored() -> None:
    assert (views.render(View(), IMAGES, 0) == IMAGES).all()
    assert (views.render(View(flip_x=True), IMAGES, 0) == IMAGES[:, :, ::-1]).all()
    assert (views.render(View(flip_x=True, flip_y=True), IMAGES, 0) == IMAGES[:, ::-1, ::-1]).all()
    assert views.render(View(flip_y=True), IMAGES, 0).dtype == np.float32


def test_a_drawn_view_is_repeatable_and_independent_of_its_batch() -> None:
    view = drawn(rotation=0.1, brightness=0.3, rand_augment=0.5)
    whole = views.render(view, IMAGES, 0)
    assert (views.render(view, IMAGES, 0) == whole).all()
    assert (views.render(view, IMAGES[64:], 64) == whole[64:]).all()
    assert np.abs(whole - IMAGES).mean() > 5


def test_each_number_and_each_image_has_its_own_draw() -> None:
    first, second = (views.render(drawn(number, translation=0.3), IMAGES[:1].repeat(70, 0), 0) for number in (0, 1))
    assert not (first == second).all((1, 2, 3)).any()
    assert len(np.unique(first.reshape(70, -1), axis=0)) == 70


def test_keys_depend_on_the_view_only() -> None:
    others = [*found(flip="both"), drawn(0, zoom=0.1), drawn(1, zoom=0.1), drawn(0, zoom=0.2)]
    assert len({view.key for view in others}) == len(others)
    assert drawn(1, zoom=0.1).key == drawn(1, zoom=0.1).key


def test_drawn_views_depend_on_the_versions_of_tuner_and_keras_but_mirror_images_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {drawn(zoom=0.1).key}
    mirrored = View(flip_x=True).key
    monkeypatch.setattr(views, "_VERSION", 99)
    keys.add(drawn(zoom=0.1).key)
    monkeypatch.setattr(keras, "__version__", "9.9")
    keys.add(drawn(zoom=0.1).key)
    assert len(keys) == 3
    assert View(flip_x=True).key == mirrored
