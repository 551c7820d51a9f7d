"""The best trial of a search."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from optuna.trial import TrialState

from tuner.protocol import messages
from tuner.results.best import Best
from tuner.spec import file as study_file
from tuner.spec.hyperparameters import Hyperparameters
from tuner.spec.study import StudySpec, images_of
from tuner.storage.attributes import BEST_EPOCH, SECONDS, SEED, TEST, WEIGHTS
from tuner.views.trial import Trial
from tuner.views.trials import TrialRow

PREPARED = messages.Prepared(
    device="cpu, 2 threads",
    classes=("Bear", "Bird"),
    num_train=1000,
    num_validation=500,
    num_test=2000,
    epochs=8,
    fingerprint="f" * 64,
    splits="5" * 64,
    versions={"python": "3.11.2", "keras": "3.15.1", "tensorflow": "2.21.0", "tuner": "0.1.0"},
    seconds=4.5,
)


class RandomChooser:
    """Chooses uniformly among all values; equal seeds give equal choices."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None) -> float:
        return self._random.uniform(low, high)

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
        return self._random.randint(low, high)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._random.choice(choices)


@pytest.fixture
def prepared() -> messages.Prepared:
    return PREPARED


@pytest.fixture
def spec() -> StudySpec:
    return images_of(study_file.parse({"name": "animals", "data": {"source": "animals"}, "budget": {"trials": 20}}, "animals.yaml"))


@pytest.fixture
def make_best(spec: StudySpec) -> Callable[..., Best]:
    def make(**changes: Any) -> Best:
        values: dict[str, Any] = {
            "spec": spec,
            "trial": 17,
            "value": 0.976,
            "hyperparameters": Hyperparameters(head_units=(256, 64), dropout=0.123456789),
            "seed": 4711,
            "best_epoch": 25,
            "seconds": 103.5,
            "weights": None,
            "test_accuracy": 0.968,
            "rule_value": 0.95,
            "rule_test_accuracy": None,
            "prepared": PREPARED,
            "num_completed": 12,
        }
        return as_best(**values | changes)

    return make


def as_best(*, spec: StudySpec, prepared: messages.Prepared, num_completed: int, is_best: bool = True, **known: Any) -> Best:
    rule = None if known["rule_value"] is None else as_trial(0, known["rule_value"], {TEST: as_test(known["rule_test_accuracy"])})
    stored = {name: known[name] for name in (SEED, BEST_EPOCH, SECONDS, WEIGHTS)} | {TEST: as_test(known["test_accuracy"])}
    found = as_trial(known["trial"], known["value"], stored, known["hyperparameters"])
    return Best(spec=spec, found=found, rank=1 if is_best else 2, num_completed=num_completed, rule=rule, prepared=prepared)


def as_test(accuracy: float | None) -> dict[str, float]:
    return {} if accuracy is None else {"accuracy": accuracy}


def as_trial(number: int, value: float, stored: dict[str, Any], hyperparameters: Hyperparameters | None = None) -> Trial:
    row = TrialRow(trial_id=number + 1, number=number, state=TrialState.COMPLETE, value=value, began=None, ended=None, curve=())
    chosen = None if hyperparameters is None else hyperparameters.model_dump(mode="json")
    return Trial(
        row=row, values=(value,), parameters={}, hyperparameters=chosen, attributes=stored, confusion=(), log="", mistakes=(),
        pictures={}, epochs=(), attempts=(),
    )  # fmt: skip
