"""A study into its best trial, or into another one that completed."""

from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, func, select

from tuner import errors
from tuner.protocol import messages
from tuner.spec.hyperparameters import Hyperparameters
from tuner.spec.study import StudySpec
from tuner.storage import tables
from tuner.storage.queries import VALUED
from tuner.studies import claims, trials
from tuner.studies import study as studies


@dataclass(frozen=True, kw_only=True)
class Best:
    """A completed trial: the one of the highest value, among equals the earliest, unless another was asked for."""

    #: the study that it is of
    spec: StudySpec
    trial: int
    #: whether it is the best of the study
    is_best: bool = True
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
    num_completed, ranked = study.storage.read(lambda connection: _ranked(connection, study.id))
    if not ranked:
        raise errors.StudyError(f"the study {study.name} has no completed trial yet; to see how far it is: tuner status {study.name}")
    return _described(study, _trial(study, ranked[0]), is_best=True, num_completed=num_completed)


def of(study: studies.Study, number: int) -> Best:
    """Another completed trial, with the same that is known of it.

    Raises:
        StudyError: there is no such trial, or it has not completed.
    """
    num_completed, ranked = study.storage.read(lambda connection: _ranked(connection, study.id))
    is_it = (VALUED.c.study_id == study.id, VALUED.c.state == TrialState.COMPLETE, VALUED.c.number == number)
    found = study.storage.read(lambda connection: connection.execute(select(VALUED.c.trial_id).where(*is_it)).scalar())
    if found is None:
        raise errors.StudyError(
            f"the study {study.name} has no completed trial {number}; to see its trials: tuner status {study.name}, or tuner dashboard"
        )
    return _described(study, _trial(study, found), is_best=found in ranked, num_completed=num_completed)


def _described(study: studies.Study, winner: FrozenTrial, *, is_best: bool, num_completed: int) -> Best:
    rule = _rule(study)
    attributes = winner.user_attrs
    return Best(
        spec=study.spec,
        trial=winner.number,
        is_best=is_best,
        value=_value(winner),
        hyperparameters=_hyperparameters(winner),
        seed=attributes.get("seed", claims.seed(study, winner.number)),
        best_epoch=attributes.get("best_epoch"),
        seconds=attributes.get("seconds"),
        weights=attributes.get("weights"),
        test_accuracy=_test_accuracy(winner),
        rule_value=None if rule is None else _value(rule),
        rule_test_accuracy=None if rule is None else _test_accuracy(rule),
        prepared=_prepared(study),
        num_completed=num_completed,
    )


def with_weights(study: studies.Study) -> list[int]:
    """The trials whose weights are kept: trial 0, and those that were the best when they ended."""
    user, listed = tables.TRIAL_USER, tables.TRIALS
    query = (
        select(listed.c.number, user.c.value_json)
        .join(user, user.c.trial_id == listed.c.trial_id)
        .where(listed.c.study_id == study.id, user.c.key == "weights")
        .order_by(listed.c.number)
    )
    return [number for number, value in study.storage.read(lambda connection: connection.execute(query).all()) if value != "null"]


def rule(study: studies.Study) -> Hyperparameters | None:
    """What trial 0 trained with, the rule that needs no search; None if it has not completed."""
    found = _rule(study)
    return None if found is None else _hyperparameters(found)


def _ranked(connection: Connection, study_id: int) -> tuple[int, list[int]]:
    """The count of completed trials, and the id of the best of them, if there is one."""
    is_completed = (VALUED.c.study_id == study_id, VALUED.c.state == TrialState.COMPLETE)
    num = connection.execute(select(func.count()).select_from(VALUED).where(*is_completed)).scalar_one()
    by_value = select(VALUED.c.trial_id).where(*is_completed).order_by(VALUED.c.value.desc(), VALUED.c.number).limit(1)
    return int(num), list(connection.execute(by_value).scalars())


def _rule(study: studies.Study) -> FrozenTrial | None:
    is_rule = (VALUED.c.study_id == study.id, VALUED.c.state == TrialState.COMPLETE, VALUED.c.number == 0)
    found = study.storage.read(lambda connection: connection.execute(select(VALUED.c.trial_id).where(*is_rule)).scalar())
    return None if found is None else _trial(study, found)


def _trial(study: studies.Study, trial_id: int) -> FrozenTrial:
    """A trial as the storage has it now; Optuna's own copies miss what was written after its end."""
    return study.storage.call(lambda: study.storage.rdb.get_trial(trial_id))


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
