"""The best trial of a study into a study file of fixed values."""

import importlib.metadata
from typing import Any

from tuner.hyperparameters import Hyperparameters
from tuner.results.best import Best
from tuner.search_space import SearchSpace
from tuner.spec import Budget, StudySpec
from tuner.strategies import NoPruner, Random

#: longest name of a study
_MAX_NAME = 100


def resolved(best: Best) -> StudySpec:
    """The study of one trial that trains as the best one did; `result` holds what the search found, and the seed of that trial."""
    spec = best.spec
    return StudySpec(
        name=name_of(best),
        data=spec.data,
        model=spec.model,
        budget=Budget(trials=1),
        training=spec.training.model_copy(update={"epochs": best.prepared.epochs}),
        search=fixed(best.hyperparameters),
        sampler=Random(),
        pruner=NoPruner(),
        seed=spec.seed,
        result=_result(best),
    )


def name_of(best: Best) -> str:
    """The name of the study that a search's best trial becomes; a later best trial becomes another study."""
    suffix = f"-trial-{best.trial}"
    return best.spec.name[: _MAX_NAME - len(suffix)] + suffix


def fixed(hyperparameters: Hyperparameters) -> SearchSpace:
    """The search space that holds these hyperparameters and no others."""
    plain: dict[str, Any] = hyperparameters.model_dump(mode="json")
    for rate in ("learning_rate", "probe_learning_rate"):
        plain[rate] = {plain["optimizer"]: plain[rate]}
    return SearchSpace.model_validate(plain)


def _result(best: Best) -> dict[str, Any]:
    prepared = best.prepared
    result = {
        "study": best.spec.name,
        "trial": best.trial,
        "trial_seed": best.seed,
        # of images that were trained on it would be no such thing
        "validation_accuracy": best.value if best.spec.training.images == "train" else None,
        "test_accuracy": best.test_accuracy,
        "best_epoch": best.best_epoch,
        "seconds": best.seconds,
        "rule": None
        if best.rule_value is None
        else _without_unknown({"validation_accuracy": best.rule_value, "test_accuracy": best.rule_test_accuracy}),
        "completed_trials": best.num_completed,
        "classes": list(prepared.classes),
        "images": {"train": prepared.num_train, "validation": prepared.num_validation, "test": prepared.num_test},
        "fingerprint": prepared.fingerprint,
        "splits": prepared.splits,
        "device": prepared.device,
        "versions": prepared.versions | {"optuna": importlib.metadata.version("optuna")},
    }
    return _without_unknown(result)


def _without_unknown(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
