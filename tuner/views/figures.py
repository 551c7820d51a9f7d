"""A storage into figures of all its studies, and one study into pages of trials: a few statements however many trials there are."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Connection, Select, func, select

from tuner.storage import tables
from tuner.storage.engine import Storage
from tuner.storage.tables import LEASES, STUDIES, STUDY_USER, TRIALS, VALUES
from tuner.studies.leases import LEASE_SECONDS
from tuner.studies.study import SPEC


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How a study of tuner stands."""

    id: int
    name: str
    #: trials by their state's name in lower case, all states
    trials: dict[str, int]
    #: best validation accuracy of a completed trial
    best_value: float | None
    best_trial: int | None
    #: workers that hold a trial and were seen in the last minute
    num_workers: int
    #: since a worker last wrote anything: a report, a result, a beat; None: none ever did
    silent_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Line:
    """A trial in a list."""

    number: int
    state: str
    value: float | None
    #: seconds since the epoch; None: not yet
    started_at: float | None
    ended_at: float | None


@dataclass(frozen=True, kw_only=True)
class Hand:
    """A worker that has a trial at hand."""

    worker: str
    study: str
    trial: int
    attempt: int
    #: seconds since it took the trial, and since it was last seen
    seconds: float
    silent_seconds: float


def of_all(storage: Storage) -> Sequence[Figures]:
    """Of each study of tuner, the oldest first."""
    return storage.read(_figures)


def lines(storage: Storage, study_id: int, *, after: int, limit: int) -> Sequence[Line]:
    """Trials of a study whose number is above `after`, in order."""
    query = (
        select(TRIALS.c.number, TRIALS.c.state, VALUES.c.value, TRIALS.c.datetime_start, TRIALS.c.datetime_complete)
        .outerjoin(VALUES, VALUES.c.trial_id == TRIALS.c.trial_id)
        .where(TRIALS.c.study_id == study_id, TRIALS.c.number > after)
        .order_by(TRIALS.c.number)
        .limit(limit)
    )
    rows = storage.read(lambda connection: connection.execute(query).all())
    return [
        Line(number=number, state=state.name.lower(), value=value, started_at=_epoch(start), ended_at=_epoch(end))
        for number, state, value, start, end in rows
    ]


def hands(storage: Storage) -> Sequence[Hand]:
    """Workers that have a trial at hand and were seen in the last minute."""

    def look(connection: Connection) -> list[Hand]:
        now = tables.clock(connection)
        query = (
            select(LEASES.c.worker, STUDIES.c.study_name, LEASES.c.trial_number, LEASES.c.attempt, LEASES.c.started_at, LEASES.c.seen_at)
            .join(STUDIES, STUDIES.c.study_id == LEASES.c.study_id)
            .where(LEASES.c.ended_at.is_(None), LEASES.c.seen_at > now - LEASE_SECONDS)
            .order_by(STUDIES.c.study_name, LEASES.c.trial_number)
        )
        return [
            Hand(
                worker=worker, study=name, trial=trial, attempt=attempt,
                seconds=max(0.0, now - started), silent_seconds=max(0.0, now - seen),
            )
            for worker, name, trial, attempt, started, seen in connection.execute(query)
        ]  # fmt: skip

    return storage.read(look)


def _figures(connection: Connection) -> list[Figures]:
    now = tables.clock(connection)
    by_state: dict[int, dict[str, int]] = {}
    counted = select(TRIALS.c.study_id, TRIALS.c.state, func.count()).group_by(TRIALS.c.study_id, TRIALS.c.state)
    for study_id, state, count in connection.execute(counted):
        by_state.setdefault(study_id, {})[state.name.lower()] = count
    is_held = LEASES.c.ended_at.is_(None) & (LEASES.c.seen_at > now - LEASE_SECONDS)
    working = select(LEASES.c.study_id, func.count(LEASES.c.worker_key.distinct())).where(is_held).group_by(LEASES.c.study_id)
    workers = {row[0]: row[1] for row in connection.execute(working)}
    last = select(LEASES.c.study_id, func.max(func.coalesce(LEASES.c.ended_at, LEASES.c.seen_at))).group_by(LEASES.c.study_id)
    seen = {row[0]: row[1] for row in connection.execute(last)}
    states = [state.name.lower() for state in TrialState]
    found = []
    for study_id, name in connection.execute(_ours(STUDIES.c.study_name).order_by(STUDIES.c.study_id)).all():
        best = _best(connection, study_id)
        found.append(
            Figures(
                id=study_id,
                name=name,
                trials={state: by_state.get(study_id, {}).get(state, 0) for state in states},
                best_value=best[0] if best else None,
                best_trial=best[1] if best else None,
                num_workers=workers.get(study_id, 0),
                silent_seconds=max(0.0, now - seen[study_id]) if study_id in seen else None,
            )
        )
    return found


def _best(connection: Connection, study_id: int) -> tuple[float, int] | None:
    """Value and number of the best completed trial; among equals the earliest."""
    query = (
        select(VALUES.c.value, TRIALS.c.number)
        .join(TRIALS, TRIALS.c.trial_id == VALUES.c.trial_id)
        .where(TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.COMPLETE, VALUES.c.value.is_not(None))
        .order_by(VALUES.c.value.desc(), TRIALS.c.number)
        .limit(1)
    )
    row = connection.execute(query).first()
    return None if row is None else (row[0], row[1])


def _ours(*columns: Any) -> Select[Any]:
    """Ids of the studies that tuner made, and more of each."""
    return (
        select(STUDIES.c.study_id, *columns).join(STUDY_USER, STUDY_USER.c.study_id == STUDIES.c.study_id).where(STUDY_USER.c.key == SPEC)
    )


def _epoch(moment: dt.datetime | None) -> float | None:
    """Of a time as Optuna 5 writes it: UTC that does not say so."""
    return None if moment is None else moment.replace(tzinfo=dt.UTC).timestamp()
