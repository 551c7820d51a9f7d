"""Trial: everything the storage knows about one trial."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Connection, select

from tuner import wording
from tuner.errors import StudyError
from tuner.protocol.messages import LabelCounts, Misclassified
from tuner.spec.hyperparameters import ChosenValues
from tuner.spec.study import AnyStudySpec
from tuner.storage import attributes, epochs, optuna_private, tables
from tuner.storage.attributes import BY_CLASS, CONFUSION, HYPERPARAMETERS, LOG, MISTAKES, PICTURES
from tuner.storage.epochs import EpochRow
from tuner.storage.tables import LEASES, TRIAL_SYSTEM, TRIAL_USER, TRIALS, VALUES
from tuner.studies import endings, pictures
from tuner.studies.study import Study
from tuner.views import trials
from tuner.views.trials import TrialRow

_SYSTEM = (HYPERPARAMETERS, CONFUSION, BY_CLASS, LOG, MISTAKES, PICTURES)
STATES = endings.OUTCOMES | {TrialState.RUNNING: "running", TrialState.WAITING: "waiting"}


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One worker's attempt at a trial."""

    #: number of the trial
    trial: int
    #: counted from 1
    attempt: int
    worker: str
    #: seconds since the epoch by the database's clock
    began: float
    #: the same; for a running attempt, when its worker was last seen
    ended: float
    #: seconds since the worker of a running attempt was last seen; None if the attempt has ended
    silent_seconds: float | None
    #: a leases.LeaseEnding; "" for a running attempt
    ending: str
    #: kind of the failure; "" if the attempt did not fail
    error: str

    @property
    def seconds(self) -> float:
        """Duration of the attempt."""
        return self.ended - self.began


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial with everything the storage knows about it, whether tuner or plain Optuna made it."""

    row: TrialRow
    #: one for each objective; None if the value is not finite
    values: tuple[float | None, ...]
    #: values of the searched parameters by name
    parameters: Mapping[str, Any]
    #: all hyperparameters; None if they are not chosen yet, or if plain Optuna made the trial
    hyperparameters: Mapping[str, Any] | None
    #: user attributes, as optuna-dashboard shows them
    attributes: Mapping[str, Any]
    #: confusion matrix of the best epoch; rows: true class, columns: predicted class; () if none is stored
    confusion: tuple[tuple[int, ...], ...]
    #: last lines of the log of the trainer of a failed trial, or of what user code printed; "" if there are none
    log: str
    #: the most confident mistakes first, in the order of their picture, row by row
    mistakes: tuple[Misclassified, ...]
    #: id of each picture in the artifact store by `messages.PictureKind`; only the best few trials have pictures
    pictures: Mapping[str, str]
    epochs: tuple[EpochRow, ...]
    attempts: tuple[Attempt, ...]
    #: whether a higher value is better
    maximizes: bool = True
    #: the study; None if tuner did not make it
    spec: AnyStudySpec | None = None
    #: how the answers about each class fare at the best epoch; () if an image has one label or a number, or none is stored
    by_class: tuple[LabelCounts, ...] = ()

    @property
    def number(self) -> int:
        """The number of the trial, counted from 0."""
        return self.row.number

    @property
    def state(self) -> str:
        """`running`, `waiting` (enqueued, no worker has begun it), `completed`, `pruned` or `failed`."""
        return STATES[self.row.state]

    @property
    def value(self) -> float | None:
        """The value of a trial that has ended; of an open trial, the best value so far, or with folds the mean so far."""
        if self.row.state.is_finished():
            return self.row.value
        measured = [epoch.value for epoch in self.epochs if epoch.value is not None]
        return trials.value_so_far(measured or [point.value for point in self.row.curve], self.spec, maximizes=self.maximizes)

    @property
    def origin(self) -> str:
        """`rule`, `enqueued`, `retraining` or the name of the sampler; "" if plain Optuna made the trial."""
        return str(self.attributes.get(attributes.ORIGIN, ""))

    @property
    def test_accuracy(self) -> float | None:
        """Accuracy on the test split; None if it was not measured."""
        accuracy: float | None = (self.attributes.get(attributes.TEST) or {}).get("accuracy")
        return accuracy


def load(study: Study, number: int) -> Trial:
    """Return a trial of a study.

    Raises:
        StudyError: there is no such trial.
    """
    found = study.storage.read(lambda connection: read(connection, study.id, number, study.spec))
    if found is None:
        raise StudyError(f"the study {study.name} has no trial {number}")
    return found


def read(connection: Connection, study_id: int, number: int, spec: AnyStudySpec | None) -> Trial | None:
    """Return a trial by its number, or None if the study has no such trial; `spec`: the study, if tuner made it."""
    row = trials.numbered(connection, study_id, number)
    if row is None:
        return None
    system = tables.get(connection, TRIAL_SYSTEM, row.trial_id, *_SYSTEM)
    return Trial(
        row=row,
        values=_values(connection, row.trial_id),
        parameters=tables.parameters(connection, row.trial_id),
        hyperparameters=system.get(HYPERPARAMETERS) if attributes.hyperparameters(system.get(HYPERPARAMETERS)) else None,
        attributes=attributes.of_trial(tables.all_of(connection, TRIAL_USER, row.trial_id)),
        confusion=attributes.confusion(system.get(CONFUSION)),
        by_class=attributes.by_class(system.get(BY_CLASS)),
        log=str(system.get(LOG, "")),
        mistakes=attributes.mistakes(system.get(MISTAKES)),
        pictures={kind.value: name for kind, name in pictures.ids_of(system.get(PICTURES)).items()},
        epochs=epochs.read(connection, study_id, number),
        attempts=tuple(attempt for attempt in attempts(connection, study_id, number)),
        maximizes=tables.maximizes(connection, study_id),
        spec=spec,
    )


def hyperparameters(connection: Connection, study_id: int, number: int) -> Mapping[str, Any] | None:
    """Return a trial's hyperparameters as plain values, or None if they are not chosen, or if plain Optuna made the trial."""
    query = select(TRIAL_SYSTEM.c.value_json).join(TRIALS, TRIALS.c.trial_id == TRIAL_SYSTEM.c.trial_id)
    is_it = (TRIALS.c.study_id == study_id, TRIALS.c.number == number, TRIAL_SYSTEM.c.key == HYPERPARAMETERS)
    stored = connection.execute(query.where(*is_it)).scalar()
    known = None if stored is None else optuna_private.decoded(stored)
    return known if isinstance(known, dict) else None


def by_name(stored: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return stored hyperparameters by their names; those of user code have the names that the code gives them."""
    chosen = attributes.hyperparameters(stored)
    return chosen.values if isinstance(chosen, ChosenValues) else wording.flatten(stored or {})


def attempts(connection: Connection, study_id: int, number: int | None = None) -> list[Attempt]:
    """Return the attempts at one trial, or at every trial of a study, in the order of their beginnings."""
    query = select(LEASES, tables.now(connection).label("now")).where(LEASES.c.study_id == study_id)
    if number is not None:
        query = query.where(LEASES.c.trial_number == number)
    ordered = query.order_by(LEASES.c.started_at, LEASES.c.trial_number, LEASES.c.attempt)
    return [
        Attempt(
            trial=row.trial_number,
            attempt=row.attempt,
            worker=row.worker,
            began=row.started_at,
            ended=max(row.started_at, row.seen_at if row.ended_at is None else row.ended_at),
            silent_seconds=max(0.0, float(row.now) - row.seen_at) if row.ended_at is None else None,
            ending=row.ending,
            error=row.error,
        )
        for row in connection.execute(ordered)
    ]


def _values(connection: Connection, trial_id: int) -> tuple[float | None, ...]:
    query = select(VALUES.c.value).where(VALUES.c.trial_id == trial_id).order_by(VALUES.c.objective)
    return tuple(connection.execute(query).scalars())
