"""Figures for programs: all studies of a storage, the trials of a study page by page, and the active workers.

The number of statements does not depend on the number of trials.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy import Connection, Select, func, select

from tuner.spec import plan
from tuner.spec.objective import Direction
from tuner.spec.study import AnyStudySpec
from tuner.storage import optuna_private, queries, tables
from tuner.storage.attributes import SPEC
from tuner.storage.engine import Storage
from tuner.storage.tables import DIRECTIONS, LEASES, STUDIES, STUDY_USER, TRIALS, VALUES
from tuner.studies import leases
from tuner.views import studies


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The state of a study for programs."""

    id: int
    name: str
    #: what the study is about, as in its file; None if this version of tuner cannot read the file
    task: str | None
    #: name of the metric in the study file, and the same for readers: `accuracy` and `validation accuracy`; None if it is unknown
    metric: str | None
    metric_in_words: str | None
    #: `maximize` or `minimize`
    direction: str
    #: number of trials by state, with the state's name in lower case; every state is listed
    trials: dict[str, int]
    #: best value of a completed trial: the highest, or the lowest if the study minimizes; None if no trial has completed
    best_value: float | None
    best_trial: int | None
    #: number of workers with a live lease
    num_workers: int
    #: seconds since a worker last wrote a report, a result or a heartbeat; None if none ever did
    silent_seconds: float | None

    @property
    def measured(self) -> str:
        """The metric for readers; `value` if it is unknown."""
        return self.metric_in_words or "value"

    def is_better(self, value: float, than: float) -> bool:
        """Return whether a value is better than another one in this study."""
        return value < than if self.direction == Direction.MINIMIZE else value > than


@dataclass(frozen=True, kw_only=True)
class Line:
    """A trial in the JSON API."""

    number: int
    state: str
    value: float | None
    #: seconds since the epoch; None if the trial has not started, or not ended
    started_at: float | None
    ended_at: float | None


@dataclass(frozen=True, kw_only=True)
class ActiveWorker:
    """A worker that is training a trial."""

    worker: str
    study: str
    trial: int
    attempt: int
    #: seconds since the attempt began, and since the worker was last seen
    seconds: float
    silent_seconds: float


def of_all(storage: Storage) -> Sequence[Figures]:
    """Return the figures of each study of tuner, the oldest first."""
    return storage.read(_figures)


def lines(storage: Storage, study_id: int, *, after: int, limit: int) -> Sequence[Line]:
    """Return the trials of a study with a number above `after`, in order."""
    query = (
        select(TRIALS.c.number, TRIALS.c.state, VALUES.c.value, TRIALS.c.datetime_start, TRIALS.c.datetime_complete)
        .outerjoin(VALUES, (VALUES.c.trial_id == TRIALS.c.trial_id) & queries.IS_FINITE)
        .where(TRIALS.c.study_id == study_id, TRIALS.c.number > after)
        .order_by(TRIALS.c.number)
        .limit(limit)
    )
    rows = storage.read(lambda connection: connection.execute(query).all())
    return [
        Line(number=number, state=state.name.lower(), value=value, started_at=_epoch(start), ended_at=_epoch(end))
        for number, state, value, start, end in rows
    ]


def active_workers(storage: Storage) -> Sequence[ActiveWorker]:
    """Return the workers with a live lease."""

    def read(connection: Connection) -> list[ActiveWorker]:
        now = tables.clock(connection)
        query = (
            select(LEASES.c.worker, STUDIES.c.study_name, LEASES.c.trial_number, LEASES.c.attempt, LEASES.c.started_at, LEASES.c.seen_at)
            .join(STUDIES, STUDIES.c.study_id == LEASES.c.study_id)
            .where(*leases.live(now))
            .order_by(STUDIES.c.study_name, LEASES.c.trial_number)
        )
        return [
            ActiveWorker(
                worker=worker, study=name, trial=trial, attempt=attempt,
                seconds=max(0.0, now - started), silent_seconds=max(0.0, now - seen),
            )
            for worker, name, trial, attempt, started, seen in connection.execute(query)
        ]  # fmt: skip

    return storage.read(read)


def _figures(connection: Connection) -> list[Figures]:
    now = tables.clock(connection)
    is_first = (DIRECTIONS.c.study_id == STUDIES.c.study_id) & (DIRECTIONS.c.objective == 0)
    query = _ours(STUDIES.c.study_name, STUDY_USER.c.value_json, DIRECTIONS.c.direction).join(DIRECTIONS, is_first)
    listed = connection.execute(query.order_by(STUDIES.c.study_id)).all()
    names: dict[int, str] = {row.study_id: row.study_name for row in listed}
    specs = {row.study_id: _spec(row.study_name, row.value_json) for row in listed}
    are_minimized = {row.study_id for row in listed if row.direction is StudyDirection.MINIMIZE}
    counts = queries.counts(connection, list(names))
    working = select(LEASES.c.study_id, func.count(LEASES.c.worker_key.distinct())).where(*leases.live(now)).group_by(LEASES.c.study_id)
    workers = {row[0]: row[1] for row in connection.execute(working)}
    last = select(LEASES.c.study_id, func.max(func.coalesce(LEASES.c.ended_at, LEASES.c.seen_at))).group_by(LEASES.c.study_id)
    seen = {row[0]: row[1] for row in connection.execute(last)}
    found = []
    for study_id, name in names.items():
        best, states, spec = queries.best(connection, study_id), counts.get(study_id, {}), specs[study_id]
        found.append(
            Figures(
                id=study_id,
                name=name,
                task=None if spec is None else spec.task,
                metric=None if spec is None else spec.objective.metric,
                metric_in_words=None if spec is None else plan.metric(spec),
                direction=(Direction.MINIMIZE if study_id in are_minimized else Direction.MAXIMIZE).value,
                trials={state.name.lower(): states[state].num_trials if state in states else 0 for state in TrialState},
                best_value=None if best is None else best.value,
                best_trial=None if best is None else best.number,
                num_workers=workers.get(study_id, 0),
                silent_seconds=max(0.0, now - seen[study_id]) if study_id in seen else None,
            )
        )
    return found


def _spec(name: str, stored: str) -> AnyStudySpec | None:
    text = optuna_private.decoded(stored)
    return studies.parsed(name, text)[0] if isinstance(text, str) else None


def _ours(*columns: Any) -> Select[Any]:
    """Return the query for the ids of tuner's studies and further columns."""
    return (
        select(STUDIES.c.study_id, *columns).join(STUDY_USER, STUDY_USER.c.study_id == STUDIES.c.study_id).where(STUDY_USER.c.key == SPEC)
    )


def _epoch(moment: dt.datetime | None) -> float | None:
    """Return the seconds since the epoch of a time as Optuna 5 writes it: UTC without a zone."""
    return None if moment is None else moment.replace(tzinfo=dt.UTC).timestamp()
