"""Trials of a study for lists: page by page, and the open ones."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, select

from tuner.protocol.messages import Stage
from tuner.spec import space
from tuner.spec.domains import Choice, Range
from tuner.spec.space import SpaceRow
from tuner.spec.study import AnyStudySpec
from tuner.storage import attributes, epochs, optuna_private, queries, tables
from tuner.storage.tables import EPOCHS, INTERMEDIATE, PARAMETERS, TRIAL_USER, TRIALS, VALUES
from tuner.studies import leases
from tuner.studies.leases import Lease

#: maximum number of points in the curve of a trial; longer curves lose their first points
_MAX_POINTS = 200
#: number of the newest trials in which `asked` looks
_NEWEST = 50
#: number of the newest completed trials that `measured` returns
_MEASURED = 1000


class SortOrder(StrEnum):
    """The order of a list of trials."""

    NEWEST = "newest"
    OLDEST = "oldest"
    BEST = "best"
    WORST = "worst"


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One point of a curve: an epoch, or a reported value of a trial of plain Optuna."""

    step: int
    value: float
    #: None for a trial of plain Optuna
    stage: Stage | None = None


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """A trial in a list."""

    trial_id: int
    number: int
    state: TrialState
    #: value of the first objective; None if it is missing or not finite
    value: float | None
    #: in UTC without a zone, as Optuna writes it
    began: datetime | None
    ended: datetime | None
    curve: tuple[CurvePoint, ...]
    #: number of stored epochs, more than the steps of `curve` say if it is long; 0 for a trial of plain Optuna
    num_epochs: int = 0


@dataclass(frozen=True, kw_only=True)
class MeasuredTrial:
    """A completed trial with what the constraints of its study limit."""

    number: int
    value: float
    #: measured figures by name: latency_ms, size_mb
    costs: Mapping[str, float]
    #: whether it exceeds no constraint
    is_feasible: bool


@dataclass(frozen=True, kw_only=True)
class OpenTrial:
    """A trial that has not ended."""

    row: TrialRow
    #: None if no worker of tuner has the trial
    worker: str | None
    #: number of the attempt; 0 if no worker has had the trial
    attempt: int
    #: seconds since the attempt began; None if unknown
    seconds: float | None
    #: seconds since its worker was last seen; None if unknown
    silent_seconds: float | None
    #: whether its worker is training it, according to the storage
    is_held: bool
    #: best value so far; with folds, the mean over the folds so far; None if no epoch has one
    value: float | None = None

    @property
    def last(self) -> CurvePoint | None:
        """The last reported epoch."""
        return self.row.curve[-1] if self.row.curve else None


def value_so_far(values: Sequence[float], spec: AnyStudySpec | None, *, maximizes: bool) -> float | None:
    """Return the value of an open trial, given those of its epochs in order; `spec`: the study, if tuner made it."""
    if spec is not None:
        return spec.value_so_far(values)
    return (max if maximizes else min)(values, default=None)


def page(
    connection: Connection, study_id: int, *, order: SortOrder, maximizes: bool, offset: int, limit: int, total: int
) -> list[TrialRow]:
    """Return a page of the `total` trials of a study in an order; trials without a value come last.

    A trial that exceeds a constraint of the study is worse than all that exceed none.

    A page in the second half is read backwards from the end, because a database sorts all rows that it skips.
    """
    keys = _keys(study_id, order, maximizes=maximizes)
    from_end = total - offset - limit
    if from_end >= offset:
        return _rows(connection, study_id, _select(study_id).order_by(*(_directed(*key) for key in keys)).offset(offset).limit(limit))
    backwards = [_directed(column, not is_descending) for column, is_descending in keys]
    query = _select(study_id).order_by(*backwards).offset(max(0, from_end)).limit(limit + min(0, from_end))
    return _rows(connection, study_id, query)[::-1]


def _keys(study_id: int, order: SortOrder, *, maximizes: bool) -> list[tuple[ColumnElement[Any], bool]]:
    """Return the columns to sort by, each with whether it is descending."""
    match order:
        case SortOrder.NEWEST:
            return [(TRIALS.c.number, True)]
        case SortOrder.OLDEST:
            return [(TRIALS.c.number, False)]
        case SortOrder.BEST | SortOrder.WORST:
            is_best_first = order is SortOrder.BEST
            exceeding = (queries.exceeds_constraint(study_id, TRIALS), not is_best_first)
            values = (VALUES.c.value, maximizes == is_best_first)
            return [(VALUES.c.value.is_(None), False), exceeding, values, (TRIALS.c.number, False)]


def _directed(column: ColumnElement[Any], is_descending: bool) -> ColumnElement[Any]:
    return column.desc() if is_descending else column


def numbered(connection: Connection, study_id: int, number: int) -> TrialRow | None:
    """Return a trial by its number, or None if the study has no such trial."""
    found = _rows(connection, study_id, _select(study_id).where(TRIALS.c.number == number))
    return found[0] if found else None


def open_trials(connection: Connection, study_id: int, spec: AnyStudySpec | None, *, limit: int) -> list[OpenTrial]:
    """Return the running and waiting trials, those with a worker first; `spec`: the study, if tuner made it."""
    is_open = TRIALS.c.state.in_([TrialState.RUNNING, TrialState.WAITING])
    now = tables.clock(connection)
    last = {lease.trial_number: lease for lease in leases.of_running_trials(connection, study_id)}
    held = [number for number, lease in last.items() if lease.is_live(now)]
    query = _select(study_id).where(is_open).order_by(TRIALS.c.number.not_in(held), TRIALS.c.number)
    maximizes = tables.maximizes(connection, study_id)
    found = []
    for row in _rows(connection, study_id, query.limit(limit)):
        value = value_so_far([point.value for point in row.curve], spec, maximizes=maximizes)
        found.append(_opened(row, last.get(row.number), now, value))
    return found


def _opened(row: TrialRow, lease: Lease | None, now: float, value: float | None) -> OpenTrial:
    if lease is None:
        is_held = row.state is TrialState.RUNNING
        return OpenTrial(row=row, worker=None, attempt=0, seconds=None, silent_seconds=None, is_held=is_held, value=value)
    return OpenTrial(
        row=row,
        worker=lease.worker,
        attempt=lease.attempt,
        seconds=max(0.0, now - lease.started_at),
        silent_seconds=max(0.0, now - lease.seen_at),
        is_held=lease.is_live(now),
        value=value,
    )


def _select(study_id: int) -> Select[int, int, TrialState, datetime | None, datetime | None, float | None]:
    has_value = and_(VALUES.c.trial_id == TRIALS.c.trial_id, queries.IS_FINITE)
    columns = (TRIALS.c.trial_id, TRIALS.c.number, TRIALS.c.state, TRIALS.c.datetime_start, TRIALS.c.datetime_complete, VALUES.c.value)
    return select(*columns).select_from(TRIALS.outerjoin(VALUES, has_value)).where(TRIALS.c.study_id == study_id)


def _rows(
    connection: Connection, study_id: int, query: Select[int, int, TrialState, datetime | None, datetime | None, float | None]
) -> list[TrialRow]:
    found = connection.execute(query).all()
    points, num_epochs = _points(connection, study_id, {row[0]: row[1] for row in found})
    drawn = _shortened(points)
    return [
        TrialRow(
            trial_id=row[0],
            number=row[1],
            state=row[2],
            began=row[3],
            ended=row[4],
            value=row[5],
            curve=drawn.get(row[0], ()),
            num_epochs=num_epochs[row[0]],
        )
        for row in found
    ]


def curves(connection: Connection, study_id: int, trials: Mapping[int, int]) -> dict[int, tuple[CurvePoint, ...]]:
    """Return the curves of some trials by trial id: their epochs, or the values reported to Optuna.

    `trials` maps the id of each trial to its number.
    """
    points, _ = _points(connection, study_id, trials)
    return _shortened(points)


def _shortened(points: Mapping[int, Sequence[CurvePoint]]) -> dict[int, tuple[CurvePoint, ...]]:
    return {trial_id: tuple(of_trial[-_MAX_POINTS:]) for trial_id, of_trial in points.items()}


def _points(connection: Connection, study_id: int, trials: Mapping[int, int]) -> tuple[dict[int, list[CurvePoint]], Counter[int]]:
    """Return the whole curves of some trials, and the number of stored epochs of each."""
    found: dict[int, list[CurvePoint]] = {}
    num_epochs = Counter[int]()
    if not trials:
        return found, num_epochs
    ids = {number: trial_id for trial_id, number in trials.items()}
    # a row of an earlier version has the validation accuracy as its value; of another row, the value may be missing because it is infinite
    value = case((EPOCHS.c.metrics.is_(None), func.coalesce(EPOCHS.c.value, EPOCHS.c.validation_accuracy)), else_=EPOCHS.c.value)
    measured = select(EPOCHS.c.trial_number, EPOCHS.c.step, value, EPOCHS.c.stage)
    is_of_trials = (EPOCHS.c.study_id == study_id, EPOCHS.c.trial_number.in_(list(ids)))
    for number, step, value, stage in connection.execute(measured.where(*is_of_trials).order_by(EPOCHS.c.step)):
        num_epochs[ids[number]] += 1
        if value is not None:
            found.setdefault(ids[number], []).append(CurvePoint(step=step, value=value, stage=Stage(stage)))
    found |= _reported(connection, [trial_id for trial_id in trials if trial_id not in found])
    return found, num_epochs


def _reported(connection: Connection, ids: Sequence[int]) -> dict[int, list[CurvePoint]]:
    if not ids:
        return {}
    columns = (INTERMEDIATE.c.trial_id, INTERMEDIATE.c.step, INTERMEDIATE.c.intermediate_value)
    query = select(*columns).where(INTERMEDIATE.c.trial_id.in_(ids), INTERMEDIATE.c.intermediate_value.is_not(None))
    found: dict[int, list[CurvePoint]] = {}
    for trial_id, step, value in connection.execute(query.order_by(INTERMEDIATE.c.step)):
        if epochs.is_measured(value):
            found.setdefault(trial_id, []).append(CurvePoint(step=step, value=value))
    return found


def asked(connection: Connection, study_id: int, *, num_trials: int) -> list[tuple[str, BaseDistribution]]:
    """Return the parameters of the newest trials of a study with their distributions."""
    columns = (PARAMETERS.c.param_name, PARAMETERS.c.param_value, PARAMETERS.c.distribution_json)
    query = select(*columns).join(TRIALS, TRIALS.c.trial_id == PARAMETERS.c.trial_id).order_by(TRIALS.c.number, PARAMETERS.c.param_id)
    rows = connection.execute(query.where(TRIALS.c.study_id == study_id, TRIALS.c.number >= num_trials - _NEWEST))
    found = optuna_private.readable_parameters((name, (value, distribution)) for name, value, distribution in rows)
    return [(name, distribution) for name, (_, distribution) in found.items()]


def measured(connection: Connection, study_id: int) -> list[MeasuredTrial]:
    """Return the newest completed trials of which something was measured that a constraint limits, by number."""
    valued, known = queries.VALUED, TRIAL_USER
    newest = select(valued.c.trial_id, valued.c.number, valued.c.value).order_by(valued.c.number.desc()).limit(_MEASURED)
    found = newest.where(valued.c.study_id == study_id, valued.c.state == TrialState.COMPLETE).subquery()
    rows = connection.execute(
        select(found.c.number, found.c.value, known.c.key, known.c.value_json)
        .join(known, known.c.trial_id == found.c.trial_id)
        .where(known.c.key.in_((attributes.LATENCY_MS, attributes.SIZE_MB, attributes.INFEASIBLE)))
        .order_by(found.c.number)
    )
    values: dict[int, float] = {}
    kept: dict[int, dict[str, Any]] = {}
    for number, value, key, text in rows:
        values[number] = value
        kept.setdefault(number, {})[key] = optuna_private.decoded(text)
    return [
        MeasuredTrial(number=number, value=values[number], costs=_costs(own), is_feasible=attributes.INFEASIBLE not in own)
        for number, own in kept.items()
    ]


def _costs(known: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite figures among some attributes, which another program may have changed."""
    return {name: float(value) for name, value in known.items() if isinstance(value, int | float) and math.isfinite(value)}


def space_of(found: Iterable[tuple[str, BaseDistribution]], *, besides: Collection[str]) -> list[SpaceRow]:
    """Return a row for each parameter that user code asked for, besides those that the study file names."""
    rows = {name: SpaceRow(name=name, what=_what(kind), when="when the code asks for it", is_searched=True) for name, kind in found}
    return [row for name, row in rows.items() if name not in besides]


def _what(kind: BaseDistribution) -> str:
    match kind:
        case CategoricalDistribution():
            return space.describe(Choice(values=tuple(kind.choices)))
        case IntDistribution():
            step = None if kind.step == 1 else kind.step
            return space.describe(Range(low=kind.low, high=kind.high, log=kind.log, integer=True, step=step))
        case FloatDistribution():
            return space.describe(Range(low=kind.low, high=kind.high, log=kind.log, step=kind.step))
    return ""
