"""A study into its best trial."""

import math
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from tuner import errors, messages
from tuner.hyperparameters import Hyperparameters
from tuner.search import claims, trials
from tuner.search import study as studies
from tuner.spec import StudySpec


@dataclass(frozen=True, kw_only=True)
class Best:
    """The completed trial of the highest value; among equals the earliest."""

    #: the study that it is the best of
    spec: StudySpec
    trial: int
    #: best validation accuracy
    value: float
    hyperparameters: Hyperparameters
    #: of everything random in the trial
    seed: int
    #: epoch of the best validation accuracy, counted from 1 through both stages
    best_epoch: int | None
    #: seconds of training
    seconds: float | None
    #: file with the weights of that epoch, where it was trained; None if they were not kept
    weights: str | None
    #: accuracy on the test split, which nothing was chosen by; None if it is not measured
    test_accuracy: float | None
    #: value of trial 0, the rule that needs no search; None if it has not completed
    rule_value: float | None
    #: test accuracy of trial 0; None if it is not measured
    rule_test_accuracy: float | None
    #: what the trainer found when it loaded the data and the backbone
    prepared: messages.Prepared
    #: completed trials that it was chosen among
    num_completed: int

    @property
    def num_test(self) -> int:
        """Images of the test split."""
        return self.prepared.num_test


def best(study: studies.Study) -> Best:
    """The best trial of a study, with what is known of it.

    Raises:
        StudyError: no trial has completed.
    """
    completed = {trial.number: trial for trial in _completed(study)}
    if not completed:
        raise errors.StudyError(f"the study {study.name} has no completed trial yet; to see how far it is: tuner status {study.name}")
    winner = min(completed.values(), key=lambda trial: (-_value(trial), trial.number))
    rule = completed.get(0)
    attributes = winner.user_attrs
    return Best(
        spec=study.spec,
        trial=winner.number,
        value=_value(winner),
        hyperparameters=_hyperparameters(winner),
        seed=claims.seed(study, winner.number),
        best_epoch=attributes.get("best_epoch"),
        seconds=attributes.get("seconds"),
        weights=attributes.get("weights"),
        test_accuracy=_test_accuracy(winner),
        rule_value=None if rule is None else _value(rule),
        rule_test_accuracy=None if rule is None else _test_accuracy(rule),
        prepared=_prepared(study),
        num_completed=len(completed),
    )


def rule(study: studies.Study) -> Hyperparameters | None:
    """What trial 0 trained with, the rule that needs no search; None if it has not completed."""
    return next((_hyperparameters(trial) for trial in _completed(study) if trial.number == 0), None)


def _completed(study: studies.Study) -> list[FrozenTrial]:
    """Completed trials as the storage has them now; Optuna's own copies miss what was written after their end."""
    states = (TrialState.COMPLETE,)
    found = study.storage.call(lambda: study.storage.rdb.get_all_trials(study.id, deepcopy=False, states=states))
    return [trial for trial in found if math.isfinite(_value(trial))]


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None, "a completed trial has a value"
    return trial.value


def _test_accuracy(trial: FrozenTrial) -> float | None:
    accuracy: float | None = trial.user_attrs.get(trials.TEST, {}).get("accuracy")
    return accuracy


def _hyperparameters(trial: FrozenTrial) -> Hyperparameters:
    stored = trials.hyperparameters(trial)
    assert stored is not None, "a trial is trained with hyperparameters that were stored before"
    return stored


def _prepared(study: studies.Study) -> messages.Prepared:
    attributes = study.storage.call(lambda: study.storage.rdb.get_study_user_attrs(study.id))
    return messages.Prepared.model_validate(attributes[studies.PREPARED])
