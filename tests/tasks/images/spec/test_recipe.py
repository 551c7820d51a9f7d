"""The recipe of trial 0."""

from typing import Any

import optuna
import pytest

from tests.studies import by_hand
from tuner.spec import space
from tuner.spec.hyperparameters import Augmentation, Flip, Hyperparameters
from tuner.tasks.images.spec import recipe as spec_recipe


def rule(num_train: int, num_classes: int, search: Any, *, fine_tunes: bool = True) -> Hyperparameters:
    """The hyperparameters of trial 0."""
    parameters = spec_recipe.parameters(num_train, num_classes, search, fine_tunes=fine_tunes)
    return space.suggest(optuna.trial.FixedTrial(parameters), search, fine_tunes=fine_tunes)


def test_the_default_space_contains_the_whole_recipe() -> None:
    recipe = rule(1000, 10, by_hand.spec().search)
    assert (recipe.optimizer, recipe.learning_rate, recipe.unfreeze) == ("adamw", 3e-4, 1.0)
    assert (recipe.label_smoothing, recipe.dropout, recipe.head_units, recipe.warmup) == (0.1, 0.3, (), 0.125)
    assert (recipe.augmentation.flip, recipe.augmentation.translation, recipe.augmentation.zoom) == ("horizontal", 0.1, 0.1)
    assert (recipe.augmentation.rotation, recipe.augmentation.mixup) == (0.0, 0.0)


def test_with_few_images_the_lower_layers_stay_frozen_and_with_many_images_are_mixed() -> None:
    search = by_hand.spec().search
    assert rule(50, 10, search).unfreeze == 0.5
    assert rule(50_000, 10, search).augmentation.mixup == 0.1


@pytest.mark.parametrize(
    ("search", "name", "value"),
    [
        # clamped into a range
        ({"dropout": [0.4, 0.5]}, "dropout", 0.4),
        ({"unfreeze": [0.2, 0.6]}, "unfreeze", 0.6),
        # the nearest of some numbers
        ({"batch_size": [8, 24, 128]}, "batch_size", 24),
        # the optimizer that the recipe carries over to best
        ({"optimizer": ["rmsprop", "sgd"]}, "optimizer", "sgd"),
        ({"optimizer": "sgd"}, "learning_rate", 5e-3),
        # fixed values stay
        ({"label_smoothing": 0.05}, "label_smoothing", 0.05),
        # a head must have a layer here
        ({"head_units": {"layers": [1, 2], "units": [64, 256]}}, "head_units", (128,)),
    ],
)
def test_the_recipe_takes_the_nearest_values_of_the_space(search: dict[str, object], name: str, value: object) -> None:
    assert getattr(rule(1000, 10, by_hand.spec(search=search).search), name) == value


def test_its_parameters_name_exactly_what_is_searched() -> None:
    parameters = spec_recipe.parameters(1000, 10, by_hand.spec(search={"dropout": 0.3}).search)
    assert parameters["optimizer"] == "adamw"
    assert parameters["learning_rate.adamw"] == 3e-4
    assert parameters["augmentation.rotation.on"] is False
    assert "augmentation.rotation" not in parameters
    assert "dropout" not in parameters


def test_the_recipe_of_a_probe_only_study_fine_tunes_nothing() -> None:
    recipe = rule(1000, 10, by_hand.spec().search, fine_tunes=False)
    assert recipe.unfreeze == 0.0
    assert recipe.augmentation == Augmentation(flip=Flip.HORIZONTAL)
