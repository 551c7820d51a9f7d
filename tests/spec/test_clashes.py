"""Combinations that cannot work, fields without effect, and combinations that are possible."""

from typing import Any

import pytest

from tuner import errors
from tuner.spec import file as study_file
from tuner.spec.study import images_of

MINIMAL: dict[str, Any] = {"name": "x", "data": {"source": "digits"}}
CHOICES = {
    **dict.fromkeys(("probe_learning_rate", "learning_rate", "weight_decay", "dropout", "label_smoothing", "unfreeze", "layer_decay"), 0.1),
    "head_units": [],
    "augmentation": dict.fromkeys(("rotation", "zoom", "translation", "brightness", "contrast", "erasing", "mixup"), 0.1),
}
#: no ranges in the hyperparameters that act in a probe
PROBED = {"probe_learning_rate": 0.1, "weight_decay": 0, "dropout": 0.1, "label_smoothing": 0, "head_units": [], "unfreeze": 0}

CLASHES: list[tuple[dict[str, Any], str, str]] = [
    # rates of optimizers that no trial uses
    ({"search": {"optimizer": "adamw", "learning_rate": {"sgd": 0.1}}}, "search.learning_rate.sgd", "search.optimizer does not list sgd"),
    ({"search": {"probe_learning_rate": {"adam": 0.1}}}, "search.probe_learning_rate.adam", "search.optimizer does not list adam"),
    # options of optimizers that no trial uses
    ({"search": {"optimizer": ["adam", "lion"], "momentum": [0.5, 0.9]}}, "search.momentum", "acts only on sgd and rmsprop"),
    ({"search": {"optimizer": "rmsprop", "nesterov": False}}, "search.nesterov", "acts only on sgd"),
    # no weight decay for adam, because the file says so
    (
        {"search": {"optimizer": "adam", "weight_decay": 1e-4, "adam_weight_decay": False}},
        "search.weight_decay",
        "does not act on adam, and search.optimizer lists no other",
    ),
    # losses
    ({"search": {"focal_gamma": 1}}, "search.focal_gamma", "acts only on the focal loss"),
    ({"search": {"loss": "focal", "label_smoothing": 0.1}}, "search.label_smoothing", "does not act on the focal loss"),
    # exact probes
    (
        {"training": {"epochs": 0}, "search": {"probe_solver": "lbfgs", "head_units": [], "dropout": 0.1}},
        "search.dropout",
        "acts only in a probe by sgd, but search.probe_solver does not list it; add sgd there, or acts only during fine-tuning",
    ),
    ({"search": {"probe_solver": "ridge", "head_units": [8]}}, "search.probe_solver", "acts only on a head without hidden layers"),
    # heads without hidden layers
    ({"search": {"head_units": {"layers": 0, "units": [32, 64]}}}, "search.head_units.units", "search.head_units has none"),
    ({"search": {"head_units": [], "activation": "silu"}}, "search.activation", "acts only on hidden layers"),
    # no fine-tuning
    ({"training": {"epochs": 0}, "search": {"unfreeze": 0.5}}, "search.unfreeze", "training.epochs is 0"),
    ({"training": {"epochs": 0}, "search": {"learning_rate": 1e-3}}, "search.learning_rate", "its own rate, probe_learning_rate"),
    ({"training": {"epochs": 0}, "search": {"learning_rate": {"sgd": 1e-3}}}, "search.learning_rate.sgd", "training.epochs is 0"),
    ({"training": {"epochs": 0}, "search": {"augmentation": {"zoom": 0.3}}}, "search.augmentation.zoom", "training.epochs is 0"),
    (
        {"training": {"epochs": 0}, "search": {"augmentation": {"zoom": 0.3}}},
        "search.augmentation.zoom",
        "set search.augmentation.views above 0",
    ),
    ({"search": {"unfreeze": 0, "augmentation": {"mixup": 0.3}}}, "search.augmentation.mixup", "acts only during fine-tuning, but"),
    ({"search": {"unfreeze": 0, "augmentation": {"views": 8, "cutmix": 1}}}, "search.augmentation.cutmix", "search.unfreeze is 0"),
    ({"search": {"unfreeze": 0, "warmup": 0.5}}, "search.warmup", "search.unfreeze is 0"),
    ({"search": {"unfreeze": 0, "ema": [0.9, 0.99]}}, "search.ema", "search.unfreeze is 0"),
    # exhaustive samplers with ranges
    ({"sampler": "grid"}, "sampler", "search.dropout"),
    ({"sampler": "grid", "search": CHOICES | {"head_units": {"layers": [0, 1]}}}, "sampler", "search.head_units.layers"),
    ({"sampler": "grid", "search": PROBED | {"augmentation": {"views": 2}}}, "sampler", "search.augmentation.rotation"),
    ({"sampler": "brute-force", "search": CHOICES | {"dropout": [0, 0.5]}}, "sampler", "these are ranges: search.dropout;"),
    # pruners that never prune
    ({"pruner": {"name": "median", "warmup": 1}}, "pruner.warmup", "is 1, so no epoch can be pruned"),
    ({"pruner": "top-k", "training": {"epochs": 1}}, "pruner.epochs", "is 1, but fine-tuning has only 1 epoch "),
    ({"pruner": {"name": "patient", "patience": 5}, "training": {"epochs": 5}}, "pruner.patience", "fine-tuning has only 5 epochs"),
    ({"pruner": "patient", "training": {"epochs": 2}}, "pruner.patience", "is 3, but fine-tuning has only 2 epochs"),
    ({"pruner": "hyperband", "training": {"epochs": 2}}, "pruner.reduction_factor", "is 3, but fine-tuning has only 2 epochs"),
]

POSSIBLE: list[dict[str, Any]] = [
    {"search": {"optimizer": ["adamw", "sgd"], "momentum": [0.5, 0.9], "nesterov": [True, False]}},
    # giving the value that a trial has anyway is no mistake
    {"search": {"optimizer": "adam", "momentum": 0.9, "nesterov": True, "focal_gamma": 2}},
    {"search": {"optimizer": "adam", "weight_decay": 0, "adam_weight_decay": False}},
    {"training": {"epochs": 0}},
    {"training": {"epochs": 0}, "search": {"unfreeze": 1.0}},
    {"training": {"epochs": 0}, "search": {"unfreeze": 0, "augmentation": {"flip": "none", "mixup": 0}}},
    {"search": {"unfreeze": 0}},
    # the probe sees mirror images, and changes that are drawn once
    {"training": {"epochs": 0}, "search": {"augmentation": {"flip": ["none", "both"], "views": [0, 8]}}},
    {"search": {"unfreeze": 0, "augmentation": {"views": 8, "zoom": 0.1, "erasing": 0.1}}},
    {"sampler": "grid", "search": CHOICES},
    {"sampler": "brute-force", "search": CHOICES | {"head_units": {"layers": [0, 2], "units": [4, 8]}}},
    # ranges of hyperparameters that never act do not matter
    {"sampler": "grid", "search": PROBED},
    # without a solver in the file, the probe uses sgd where only that gives them an effect
    {"training": {"epochs": 0}, "search": {"head_units": [], "optimizer": "sgd", "dropout": 0.1, "batch_size": 64}},
    {"search": {"head_units": [], "probe_learning_rate": 0.1}},
    {"search": {"head_units": [8], "probe_solver": "sgd"}},
    {"pruner": "patient"},
    {"pruner": "hyperband", "training": {"epochs": 0}},
    {"search": {"loss": ["focal", "cross_entropy"], "label_smoothing": 0.1, "focal_gamma": 1}},
]  # fmt: skip


@pytest.mark.parametrize(("sections", "field", "message"), CLASHES)
def test_an_impossible_combination_is_one_mistake(sections: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(errors.SpecError) as caught:
        images_of(study_file.parse(MINIMAL | sections, "study.yaml"))
    (problem,) = caught.value.problems
    assert problem.field == field
    assert message in problem.message


@pytest.mark.parametrize("sections", POSSIBLE)
def test_a_possible_combination_is_accepted(sections: dict[str, Any]) -> None:
    assert images_of(study_file.parse(MINIMAL | sections, "study.yaml")).name == "x"


@pytest.mark.parametrize("sections", [sections for sections, field, _ in CLASHES if field.startswith("search.") and "not list" not in _])
def test_an_exported_study_may_give_hyperparameters_that_do_not_act(sections: dict[str, Any]) -> None:
    assert images_of(study_file.parse(MINIMAL | sections | {"result": {"value": 0.9}}, "best.yaml")).result == {"value": 0.9}
