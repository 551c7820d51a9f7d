"""Search spaces: what a chooser is asked for, and the table that `tuner check` shows."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from tests.studies import by_hand
from tuner.spec import space
from tuner.spec.hyperparameters import Augmentation, Flip, Hyperparameters
from tuner.spec.search import DRAWN, MIXED, AugmentationSpace


class Dice:
    """A chooser that draws at random and records what it was asked for."""

    def __init__(self, seed: int, **fixed: Any) -> None:
        self._random = random.Random(seed)
        self._fixed = fixed
        self.asked: dict[str, Any] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None) -> float:
        return float(self._keep(name, self._random.uniform(low, high)))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
        return int(self._keep(name, self._random.randint(low, high)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._keep(name, self._random.choice(list(choices)))

    def _keep(self, name: str, value: Any) -> Any:
        assert name not in self.asked, f"{name} is asked for twice"
        self.asked[name] = self._fixed.get(name, value)
        return self.asked[name]


def throw(search: dict[str, Any], seed: int = 0, *, fine_tunes: bool = True, **fixed: Any) -> tuple[Hyperparameters, dict[str, Any]]:
    dice = Dice(seed, **fixed)
    chosen = space.suggest(dice, by_hand.spec(search=search).search, fine_tunes=fine_tunes)
    return chosen, dice.asked


EVERYTHING = {
    "optimizer": ["sgd", "adamw", "rmsprop", "lion"],
    "momentum": [0.5, 0.99],
    "nesterov": [True, False],
    "loss": ["cross_entropy", "focal"],
    "unfreeze": {"range": [0.2, 1.0], "off": True},
    "head_units": {"layers": [0, 3], "units": [32, 64]},
    "class_weights": ["none", "balanced"],
    "batch_size": [16, 32],
    "warmup": [0.0, 0.2],
    "ema": {"range": [0.9, 0.99], "off": True},
    "augmentation": {"flip": ["none", "horizontal"], "shear": [0.0, 0.1], "cutmix": {"range": [0.1, 1.0], "off": True}},
}


@pytest.mark.parametrize("seed", range(50))
def test_a_chooser_is_asked_only_for_hyperparameters_that_act(seed: int) -> None:
    chosen, asked = throw(EVERYTHING, seed)
    assert ("momentum" in asked) == (chosen.optimizer in ("sgd", "rmsprop"))
    assert ("nesterov" in asked) == (chosen.optimizer == "sgd")
    rates = [name for name in asked if name.startswith("probe_learning_rate.")]
    assert rates == ([f"probe_learning_rate.{chosen.optimizer}"] if chosen.head_units else [])
    assert ("focal_gamma" in asked) == (chosen.loss == "focal")
    # an exact probe of a linear head smooths no labels
    assert ("label_smoothing.on" in asked) == (chosen.loss != "focal" and (chosen.unfreeze > 0 or len(chosen.head_units) > 0))
    assert ("activation" in asked) == (len(chosen.head_units) > 0)
    assert [name for name in asked if name.startswith("head_units.")] == [f"head_units.{k}" for k in range(1, len(chosen.head_units) + 1)]
    assert "augmentation.flip" in asked
    fine_tuned = {f"learning_rate.{chosen.optimizer}", "layer_decay", "warmup", "ema.on", "augmentation.shear", "augmentation.cutmix.on"}
    assert fine_tuned <= asked.keys() if chosen.unfreeze > 0 else not fine_tuned & asked.keys()


def test_a_hyperparameter_that_is_switched_off_is_zero_and_its_value_is_not_asked_for() -> None:
    chosen, asked = throw({"weight_decay": {"range": [1e-6, 1e-1], "off": True}}, **{"weight_decay.on": False})
    assert chosen.weight_decay == 0.0
    assert "weight_decay" not in asked


def test_a_fixed_value_is_used_without_asking() -> None:
    chosen, asked = throw({"optimizer": "sgd", "dropout": 0.25, "head_units": [64, 32]})
    assert (chosen.optimizer, chosen.dropout, chosen.head_units) == ("sgd", 0.25, (64, 32))
    assert not {"optimizer", "dropout", "head_layers"} & asked.keys()


def test_without_fine_tuning_only_the_probe_is_searched() -> None:
    chosen, asked = throw({}, fine_tunes=False)
    assert chosen.unfreeze == 0.0
    assert chosen.augmentation == Augmentation(flip=Flip.HORIZONTAL)
    assert not [name for name in asked if name.startswith(("learning_rate", "augmentation", "unfreeze", "layer_decay"))]


def changes(asked: dict[str, Any]) -> set[str]:
    return {name.removeprefix("augmentation.").removesuffix(".on") for name in asked if name.startswith("augmentation.")}


#: every change is searched, including mirror images and views
ALL_CHANGES: dict[str, Any] = {"flip": ["none", "both"], "views": [0, 8]} | {name: [0.1, 0.2] for name in (*DRAWN, *MIXED)}


@pytest.mark.parametrize("fine_tunes", [True, False])
@pytest.mark.parametrize(
    ("views", "changed"),
    [
        # the probe always sees mirror images
        (0, {"flip"}),
        # with views, it also sees every change to one image, drawn once; it never sees mixed images
        (4, {"flip", *DRAWN}),
    ],
)
def test_a_trial_without_fine_tuning_chooses_only_changes_that_its_probe_sees(fine_tunes: bool, views: int, changed: set[str]) -> None:
    search = {"unfreeze": {"range": [0.5, 1], "off": True}, "augmentation": ALL_CHANGES | {"views": views}}
    chosen, asked = throw(search, fine_tunes=fine_tunes, **{"unfreeze.on": False})
    assert changes(asked) == changed
    assert chosen.augmentation.views == views
    assert chosen.augmentation.mixup == 0


def test_a_fine_tuned_trial_chooses_every_change() -> None:
    chosen, asked = throw({"augmentation": ALL_CHANGES}, fine_tunes=True, **{"augmentation.views": 0})
    assert changes(asked) == set(AugmentationSpace.model_fields) == set(Augmentation.model_fields)
    assert chosen.augmentation.mixup > 0


@pytest.mark.parametrize("search", [{}, EVERYTHING, {"unfreeze": 0}, {"unfreeze": [0, 1], "augmentation": ALL_CHANGES}])
def test_the_table_has_a_row_for_everything_that_may_be_asked_for(search: dict[str, Any]) -> None:
    spec = by_hand.spec(search=search)
    rows = {row.name for row in space.rows(spec) if row.is_searched}
    asked: set[str] = set()
    for seed in range(100):
        asked |= throw(search, seed)[1].keys()
    names = {name.removesuffix(".on") for name in asked}
    names = {"head_units.layers" if name == "head_layers" else name for name in names}
    names = {"head_units.units" if name.startswith("head_units.") and name[-1].isdigit() else name for name in names}
    assert names == rows


@pytest.mark.parametrize(
    ("search", "name", "what", "when"),
    [
        ({}, "optimizer", "adamw or sgd or lion", "always"),
        ({}, "learning_rate.sgd", "0.003 to 0.03, logarithmic", "optimizer is sgd"),
        ({}, "weight_decay", "off, or 1e-6 to 0.1, logarithmic", "always"),
        ({}, "head_units.layers", "0 to 1, whole", "always"),
        ({}, "batch_size", "32", "always"),
        ({}, "augmentation.flip", "horizontal", "always"),
        ({"unfreeze": [0, 0.6]}, "layer_decay", "0.85 to 1", "unfreeze > 0"),
        ({"unfreeze": {"range": [0.2, 1], "off": True}}, "layer_decay", "0.85 to 1", "unfreeze > 0"),
        ({"unfreeze": {"choices": [0, 1]}}, "warmup", "0.125", "unfreeze > 0"),
        ({"unfreeze": 0}, "augmentation.flip", "horizontal", "always"),
        ({"unfreeze": 0}, "augmentation.views", "0", "always"),
        ({"unfreeze": 0, "augmentation": {"views": [0, 8]}}, "augmentation.translation", "0.02 to 0.2", "augmentation.views > 0"),
        ({"unfreeze": 0, "augmentation": {"views": [2, 8]}}, "augmentation.translation", "0.02 to 0.2", "always"),
        ({"unfreeze": [0, 1]}, "augmentation.translation", "0.02 to 0.2", "unfreeze > 0"),
        (
            {"unfreeze": [0, 1], "augmentation": {"views": {"choices": [0, 8]}}},
            "augmentation.translation",
            "0.02 to 0.2",
            "unfreeze > 0 or augmentation.views > 0",
        ),
        ({"unfreeze": [0, 1], "augmentation": {"views": 8}}, "augmentation.cutmix", "0", "unfreeze > 0"),
        ({"unfreeze": [0, 0.6]}, "learning_rate.lion", "3e-5 to 0.0002, logarithmic", "optimizer is lion and unfreeze > 0"),
        ({"loss": ["focal", "cross_entropy"]}, "focal_gamma", "0.5 to 3", "loss is focal"),
        ({"nesterov": [True, False]}, "nesterov", "true or false", "optimizer is sgd"),
    ],
)
def test_a_row_shows_values_and_conditions(search: dict[str, Any], name: str, what: str, when: str) -> None:
    (row,) = [row for row in space.rows(by_hand.spec(search=search)) if row.name == name]
    assert (row.what, row.when) == (what, when)


def test_a_study_without_fine_tuning_has_no_rows_for_it() -> None:
    names = {row.name for row in space.rows(by_hand.spec(training={"epochs": 0}))}
    assert not [name for name in names if name.startswith(("learning_rate", "unfreeze"))]
    assert {name for name in names if name.startswith("augmentation")} == {"augmentation.flip", "augmentation.views"}
