"""Queries over the values of trials: the best trial, the ranking of trials, and the best value so far.

Only finite values count. Every query for a best trial, here and elsewhere, selects from `VALUED` (or calls `best` or `ranked`):
PostgreSQL sorts NULL and NaN first in descending order, and Optuna stores an infinite value as NULL.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Connection, FromClause, Select, and_, case, exists, func, not_, or_, select

from tuner.storage import optuna_private
from tuner.storage.attributes import CONSTRAINED, HYPERPARAMETERS, INFEASIBLE
from tuner.storage.tables import DIRECTIONS, STUDY_SYSTEM, TRIAL_SYSTEM, TRIAL_USER, TRIALS, VALUES

#: the condition that a row of `VALUES` holds a finite value of the first objective
IS_FINITE = and_(
    VALUES.c.objective == 0,
    VALUES.c.value_type == optuna_private.FINITE,
    # PostgreSQL holds NaN to be greater than every number
    VALUES.c.value.between(-sys.float_info.max, sys.float_info.max),
)
#: 1 for a study that maximizes, -1 for one that minimizes
_SIGN = case((DIRECTIONS.c.direction == StudyDirection.MINIMIZE, -1), else_=1)
#: trials with a finite value of the first objective: study_id, trial_id, number, state, value, and merit, which is higher for a better one
VALUED = (
    select(TRIALS.c.study_id, TRIALS.c.trial_id, TRIALS.c.number, TRIALS.c.state, VALUES.c.value, (_SIGN * VALUES.c.value).label("merit"))
    .join(VALUES, VALUES.c.trial_id == TRIALS.c.trial_id)
    .join(DIRECTIONS, (DIRECTIONS.c.study_id == TRIALS.c.study_id) & (DIRECTIONS.c.objective == 0))
    .where(IS_FINITE)
    .subquery("valued")
)
#: maximum length of `BestSoFar.others`; of more trials, every second, third, ... is taken
_DRAWN = 400
#: maximum length of `BestSoFar.top`
_TOP = 64


@dataclass(frozen=True, kw_only=True)
class ValuedTrial:
    """A trial that ended with a finite value."""

    trial_id: int
    number: int
    value: float
    is_pruned: bool = False


@dataclass(frozen=True, kw_only=True)
class StateCount:
    """The trials of a study in one state."""

    num_trials: int
    #: when the last of them ended, in UTC without a zone, as Optuna writes it; None if none has
    last_end: datetime | None
    #: id of the newest trial
    last_trial_id: int


def counts(connection: Connection, study_ids: Sequence[int]) -> dict[int, dict[TrialState, StateCount]]:
    """Return the trials of some studies by study and state; a state without trials is left out."""
    columns = (TRIALS.c.study_id, TRIALS.c.state, func.count(), func.max(TRIALS.c.datetime_complete), func.max(TRIALS.c.trial_id))
    query = select(*columns).where(TRIALS.c.study_id.in_(study_ids)).group_by(TRIALS.c.study_id, TRIALS.c.state)
    found: dict[int, dict[TrialState, StateCount]] = {}
    for study_id, state, num_trials, last_end, last_trial_id in connection.execute(query):
        count = StateCount(num_trials=num_trials, last_end=last_end, last_trial_id=last_trial_id)
        found.setdefault(study_id, {})[state] = count
    return found


def is_feasible(study_id: int) -> ColumnElement[bool]:
    """Return the condition that a row of `VALUED` exceeds no constraint of its study.

    Only a study in which a trial has exceeded one pays for looking that up for each trial.
    """
    return not_(exceeds_constraint(study_id, VALUED))


def exceeds_constraint(study_id: int, of: FromClause) -> ColumnElement[bool]:
    """Return the condition that a row with a `trial_id` is of a trial that exceeds a constraint of its study."""
    of_study, of_trial = STUDY_SYSTEM.alias(), TRIAL_USER.alias()  # the query around may select from these tables, too
    constrained = select(of_study.c.key).where(of_study.c.study_id == study_id, of_study.c.key == CONSTRAINED)
    exceeding = select(of_trial.c.key).where(of_trial.c.trial_id == of.c.trial_id, of_trial.c.key == INFEASIBLE)
    return and_(exists(constrained), exists(exceeding.correlate(of)))


def ranked(study_id: int) -> Select[int, int, float]:
    """Return the query for id, number and value of the completed trials: the best first, among equals the earliest.

    Trials that exceed a constraint of the study are left out.
    """
    return completed(study_id).where(is_feasible(study_id))


def completed(study_id: int) -> Select[int, int, float]:
    """Return the same query with the trials that exceed a constraint."""
    query = select(VALUED.c.trial_id, VALUED.c.number, VALUED.c.value).order_by(VALUED.c.merit.desc(), VALUED.c.number)
    return query.where(VALUED.c.study_id == study_id, VALUED.c.state == TrialState.COMPLETE)


def best(connection: Connection, study_id: int) -> ValuedTrial | None:
    """Return the best completed trial, among equals the earliest, or None if no trial has completed.

    Every claim and every end of a trial asks for it, so the constraints of the study are looked up for this one trial first.
    """
    first, of_trial = completed(study_id).limit(1).subquery(), TRIAL_USER.alias()
    exceeding = exists(select(of_trial.c.key).where(of_trial.c.trial_id == first.c.trial_id, of_trial.c.key == INFEASIBLE))
    row = connection.execute(select(first.c.trial_id, first.c.number, first.c.value, exceeding.label("is_exceeding"))).first()
    if row is not None and row[3]:
        row = connection.execute(ranked(study_id).limit(1)).first()
    return None if row is None else ValuedTrial(trial_id=row[0], number=row[1], value=row[2])


def best_of_tuner(connection: Connection, study_id: int) -> ValuedTrial | None:
    """Return the best completed trial that a worker of tuner trained; another program stores no hyperparameters with its trials."""
    order = ranked(study_id).join(TRIAL_SYSTEM, TRIAL_SYSTEM.c.trial_id == VALUED.c.trial_id)
    row = connection.execute(order.where(TRIAL_SYSTEM.c.key == HYPERPARAMETERS).limit(1)).first()
    return None if row is None else ValuedTrial(trial_id=row[0], number=row[1], value=row[2])


def values(connection: Connection, study_id: int) -> dict[int, float]:
    """Return the values of the completed trials by number, the best first; also of those that exceed a constraint of the study."""
    return {number: value for _, number, value in connection.execute(completed(study_id))}


@dataclass(frozen=True, kw_only=True)
class BestSoFar:
    """The history of a study with one objective: each new best trial, and a selection of the others."""

    #: completed trials that were better than all earlier ones, in order
    records: tuple[ValuedTrial, ...] = ()
    #: every `stride`th trial by number
    others: tuple[ValuedTrial, ...] = ()
    stride: int = 1
    #: completed trials after the best one
    num_since_best: int = 0
    num_completed: int = 0
    #: the highest values of completed trials (lowest if the study minimizes), the best first
    top: tuple[float, ...] = ()

    @property
    def best(self) -> ValuedTrial | None:
        """The best completed trial, among equals the earliest; None if no trial has completed."""
        return self.records[-1] if self.records else None


def best_so_far(connection: Connection, study_id: int, *, num_trials: int) -> BestSoFar:
    """Return the history of a study with one objective."""
    stride = max(1, -(-num_trials // _DRAWN))
    can_lead = and_(VALUED.c.state == TrialState.COMPLETE, is_feasible(study_id))
    merit = case((can_lead, VALUED.c.merit)).label("merit")
    columns = (VALUED.c.trial_id, VALUED.c.number, VALUED.c.value, VALUED.c.state, merit)
    valued = select(*columns).where(VALUED.c.study_id == study_id).subquery()
    before = func.max(valued.c.merit).over(order_by=valued.c.number, rows=(None, -1)).label("before")
    found = select(valued, before).subquery()
    is_record = and_(found.c.merit.is_not(None), or_(found.c.before.is_(None), found.c.merit > found.c.before))
    query = select(found, is_record.label("is_record")).where(or_(is_record, found.c.number % stride == 0))
    records, others = [], []
    for row in connection.execute(query.order_by(found.c.number)):
        trial = ValuedTrial(trial_id=row.trial_id, number=row.number, value=row.value, is_pruned=row.state is TrialState.PRUNED)
        if row.is_record:
            records.append(trial)
        if row.number % stride == 0:
            others.append(trial)
    num_completed, num_since_best = _counts(connection, study_id, records)
    return BestSoFar(
        records=tuple(records),
        others=tuple(others),
        stride=stride,
        num_since_best=num_since_best,
        num_completed=num_completed,
        top=_top(connection, study_id),
    )


def _top(connection: Connection, study_id: int) -> tuple[float, ...]:
    return tuple(value for _, _, value in connection.execute(ranked(study_id).limit(_TOP)))


def _counts(connection: Connection, study_id: int, records: Sequence[ValuedTrial]) -> tuple[int, int]:
    """Return the number of completed trials with a finite value: in all, and after the best one."""
    after = case((VALUED.c.number > (records[-1].number if records else 0), 1), else_=0)
    query = select(func.count(), func.coalesce(func.sum(after), 0)).where(
        VALUED.c.study_id == study_id, VALUED.c.state == TrialState.COMPLETE
    )
    row = connection.execute(query).one()
    return int(row[0]), int(row[1])
