"""The trials of a study, page by page, and those that are open."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Connection, Select, and_, select

from tuner.protocol.messages import Stage
from tuner.storage import queries, tables
from tuner.storage.tables import EPOCHS, INTERMEDIATE, TRIALS, VALUES
from tuner.studies import leases
from tuner.studies.leases import Lease

#: epochs of a trial that a list draws; of more the last ones
_DRAWN_EPOCHS = 200


class SortOrder(StrEnum):
    """What a list of trials is sorted by."""

    NEWEST = "newest"
    OLDEST = "oldest"
    BEST = "best"
    WORST = "worst"


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One epoch, or one report of a trial that is not ours."""

    step: int
    value: float
    #: None: of a trial that is not ours
    stage: Stage | None = None


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """A trial as a list shows it."""

    trial_id: int
    number: int
    state: TrialState
    #: of the first objective; None: it has none, or none that is finite
    value: float | None
    #: UTC without a zone
    began: datetime | None
    ended: datetime | None
    curve: tuple[CurvePoint, ...]


@dataclass(frozen=True, kw_only=True)
class OpenTrial:
    """A trial that has not ended."""

    row: TrialRow
    #: None: no worker of tuner has it
    worker: str | None
    #: 0: none
    attempt: int
    #: since the attempt began; None where it is not known
    seconds: float | None
    #: since its worker was last seen
    silent_seconds: float | None
    #: whether its worker is at it, as far as is known
    is_held: bool

    @property
    def last(self) -> CurvePoint | None:
        """The epoch that was reported last."""
        return self.row.curve[-1] if self.row.curve else None

    @property
    def best(self) -> float | None:
        """The highest value so far."""
        return max((point.value for point in self.row.curve), default=None)


def page(
    connection: Connection, study_id: int, *, order: SortOrder, maximizes: bool, offset: int, limit: int, total: int
) -> list[TrialRow]:
    """Some trials of a study of `total` in an order; those without a value come last.

    What lies nearer to the end is read from there: a database sorts all that it skips.
    """
    keys = _keys(order, maximizes=maximizes)
    from_end = total - offset - limit
    if from_end >= offset:
        return _rows(connection, study_id, _select(study_id).order_by(*(_directed(*key) for key in keys)).offset(offset).limit(limit))
    backwards = [_directed(column, not is_descending) for column, is_descending in keys]
    query = _select(study_id).order_by(*backwards).offset(max(0, from_end)).limit(limit + min(0, from_end))
    return _rows(connection, study_id, query)[::-1]


def _keys(order: SortOrder, *, maximizes: bool) -> list[tuple[ColumnElement[Any], bool]]:
    """What is sorted by, and whether from the top down."""
    match order:
        case SortOrder.NEWEST:
            return [(TRIALS.c.number, True)]
        case SortOrder.OLDEST:
            return [(TRIALS.c.number, False)]
        case SortOrder.BEST | SortOrder.WORST:
            return [(VALUES.c.value.is_(None), False), (VALUES.c.value, maximizes == (order is SortOrder.BEST)), (TRIALS.c.number, False)]


def _directed(column: ColumnElement[Any], is_descending: bool) -> ColumnElement[Any]:
    return column.desc() if is_descending else column


def numbered(connection: Connection, study_id: int, number: int) -> TrialRow | None:
    """One trial; None if there is none of this number."""
    found = _rows(connection, study_id, _select(study_id).where(TRIALS.c.number == number))
    return found[0] if found else None


def open_trials(connection: Connection, study_id: int, *, limit: int) -> list[OpenTrial]:
    """The trials that run or wait, those first that a worker has."""
    is_open = TRIALS.c.state.in_([TrialState.RUNNING, TrialState.WAITING])
    now = tables.clock(connection)
    last = {lease.trial_number: lease for lease in leases.of_running_trials(connection, study_id)}
    held = [number for number, lease in last.items() if lease.is_live(now)]
    query = _select(study_id).where(is_open).order_by(TRIALS.c.number.not_in(held), TRIALS.c.number)
    return [_opened(row, last.get(row.number), now) for row in _rows(connection, study_id, query.limit(limit))]


def _opened(row: TrialRow, lease: Lease | None, now: float) -> OpenTrial:
    if lease is None:
        return OpenTrial(row=row, worker=None, attempt=0, seconds=None, silent_seconds=None, is_held=row.state is TrialState.RUNNING)
    return OpenTrial(
        row=row,
        worker=lease.worker,
        attempt=lease.attempt,
        seconds=max(0.0, now - lease.started_at),
        silent_seconds=max(0.0, now - lease.seen_at),
        is_held=lease.is_live(now),
    )


def _select(study_id: int) -> Select[int, int, TrialState, datetime | None, datetime | None, float | None]:
    has_value = and_(VALUES.c.trial_id == TRIALS.c.trial_id, queries.IS_FINITE)
    columns = (TRIALS.c.trial_id, TRIALS.c.number, TRIALS.c.state, TRIALS.c.datetime_start, TRIALS.c.datetime_complete, VALUES.c.value)
    return select(*columns).select_from(TRIALS.outerjoin(VALUES, has_value)).where(TRIALS.c.study_id == study_id)


def _rows(
    connection: Connection, study_id: int, query: Select[int, int, TrialState, datetime | None, datetime | None, float | None]
) -> list[TrialRow]:
    found = connection.execute(query).all()
    drawn = curves(connection, study_id, {row[0]: row[1] for row in found})
    return [
        TrialRow(trial_id=row[0], number=row[1], state=row[2], began=row[3], ended=row[4], value=row[5], curve=drawn.get(row[0], ()))
        for row in found
    ]


def curves(connection: Connection, study_id: int, trials: Mapping[int, int]) -> dict[int, tuple[CurvePoint, ...]]:
    """What was measured in each of some trials, given as id and number: our epochs, else what Optuna was told."""
    if not trials:
        return {}
    found: dict[int, list[CurvePoint]] = {}
    ids = {number: trial_id for trial_id, number in trials.items()}
    epochs = select(EPOCHS.c.trial_number, EPOCHS.c.step, EPOCHS.c.validation_accuracy, EPOCHS.c.stage)
    is_theirs = (EPOCHS.c.study_id == study_id, EPOCHS.c.trial_number.in_(list(ids)))
    for number, step, value, stage in connection.execute(epochs.where(*is_theirs).order_by(EPOCHS.c.step)):
        if value is not None:
            found.setdefault(ids[number], []).append(CurvePoint(step=step, value=value, stage=Stage(stage)))
    found |= _reported(connection, [trial_id for trial_id in trials if trial_id not in found])
    return {trial_id: tuple(points[-_DRAWN_EPOCHS:]) for trial_id, points in found.items()}


def _reported(connection: Connection, ids: Sequence[int]) -> dict[int, list[CurvePoint]]:
    if not ids:
        return {}
    columns = (INTERMEDIATE.c.trial_id, INTERMEDIATE.c.step, INTERMEDIATE.c.intermediate_value)
    query = select(*columns).where(INTERMEDIATE.c.trial_id.in_(ids), INTERMEDIATE.c.intermediate_value.is_not(None))
    found: dict[int, list[CurvePoint]] = {}
    for trial_id, step, value in connection.execute(query.order_by(INTERMEDIATE.c.step)):
        found.setdefault(trial_id, []).append(CurvePoint(step=step, value=value))
    return found
