"""One trial into all that the storage knows of it, whoever made it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from tuner.protocol.messages import Misclassified
from tuner.storage import tables
from tuner.storage.tables import EPOCHS, LEASES, TRIAL_SYSTEM, TRIAL_USER, TRIALS, VALUES
from tuner.studies import claims, endings, pictures
from tuner.views import trials
from tuner.views.trials import Row


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One worker's go at a trial."""

    attempt: int
    worker: str
    #: until it ended, or its worker was last seen
    seconds: float
    #: since its worker was last seen; None: it has ended
    silent_seconds: float | None
    #: "" while it lasts
    ending: str
    error: str


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch as measured; None: not finite."""

    step: int
    #: probe or fine_tune
    stage: str
    loss: float | None
    accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial, whole."""

    row: Row
    #: of each objective; None: not finite
    values: tuple[float | None, ...]
    #: what was sampled
    parameters: Mapping[str, Any]
    #: all hyperparameters, of a trial of ours
    hyperparameters: Mapping[str, Any] | None
    attributes: Mapping[str, Any]
    #: rows: true class, columns: predicted class; () if it is not kept
    confusion: tuple[tuple[int, ...], ...]
    #: last lines of the trainer's log; "" if it did not fail
    log: str
    #: the most confident first, as in the picture of them, row by row
    mistakes: tuple[Misclassified, ...]
    #: id of each picture in the artifact store, by its kind
    pictures: Mapping[str, str]
    epochs: tuple[Epoch, ...]
    attempts: tuple[Attempt, ...]


def read(connection: Connection, study_id: int, number: int) -> Trial | None:
    """A trial by its number; None if there is none."""
    row = trials.numbered(connection, study_id, number)
    if row is None:
        return None
    system = tables.get(connection, TRIAL_SYSTEM, row.trial_id, *_SYSTEM)
    return Trial(
        row=row,
        values=_values(connection, row.trial_id),
        parameters=tables.parameters(connection, row.trial_id),
        hyperparameters=system.get(claims.HYPERPARAMETERS),
        attributes=_attributes(connection, row.trial_id),
        confusion=tuple(tuple(line) for line in system.get(endings.CONFUSION, ())),
        log=str(system.get(endings.LOG, "")),
        mistakes=tuple(Misclassified.model_validate(mistake) for mistake in system.get(endings.MISTAKES, ())),
        pictures=system.get(pictures.PICTURES, {}),
        epochs=_epochs(connection, study_id, number),
        attempts=_attempts(connection, study_id, number),
    )


_SYSTEM = (claims.HYPERPARAMETERS, endings.CONFUSION, endings.LOG, endings.MISTAKES, pictures.PICTURES)


def hyperparameters(connection: Connection, study_id: int, number: int) -> Mapping[str, Any] | None:
    """What a trial of ours trains with, as plain values; None if that is not chosen, or the trial not ours."""
    trial_id = connection.execute(select(TRIALS.c.trial_id).where(TRIALS.c.study_id == study_id, TRIALS.c.number == number)).scalar()
    return None if trial_id is None else tables.get(connection, TRIAL_SYSTEM, trial_id, claims.HYPERPARAMETERS).get(claims.HYPERPARAMETERS)


def _values(connection: Connection, trial_id: int) -> tuple[float | None, ...]:
    query = select(VALUES.c.value).where(VALUES.c.trial_id == trial_id).order_by(VALUES.c.objective)
    return tuple(connection.execute(query).scalars())


def _attributes(connection: Connection, trial_id: int) -> dict[str, Any]:
    rows = connection.execute(select(TRIAL_USER.c.key, TRIAL_USER.c.value_json).where(TRIAL_USER.c.trial_id == trial_id))
    return {key: json.loads(text) for key, text in rows}


def _epochs(connection: Connection, study_id: int, number: int) -> tuple[Epoch, ...]:
    columns = [EPOCHS.c[name] for name in Epoch.__dataclass_fields__]
    query = select(*columns).where(EPOCHS.c.study_id == study_id, EPOCHS.c.trial_number == number).order_by(EPOCHS.c.step)
    return tuple(Epoch(**row) for row in connection.execute(query).mappings())


def _attempts(connection: Connection, study_id: int, number: int) -> tuple[Attempt, ...]:
    query = select(LEASES).where(LEASES.c.study_id == study_id, LEASES.c.trial_number == number).order_by(LEASES.c.attempt)
    now = tables.clock(connection)
    return tuple(
        Attempt(
            attempt=row.attempt,
            worker=row.worker,
            seconds=max(0.0, (row.ended_at or row.seen_at) - row.started_at),
            silent_seconds=max(0.0, now - row.seen_at) if row.ended_at is None else None,
            ending=row.ending,
            error=row.error,
        )
        for row in connection.execute(query)
    )
