"""The trials of a study into its history: each new best, and enough of the others to draw."""

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import Connection, and_, case, func, or_, select

from tuner.storage.tables import TRIALS, VALUES

#: trials that are drawn one by one; of more every second, third ... is
_DRAWN = 400
#: completed values from the best on that are known each by itself
_TOP = 64
_FINITE = models.TrialValueModel.TrialValueType.FINITE


@dataclass(frozen=True, kw_only=True)
class Point:
    """A trial that ended with a value."""

    number: int
    value: float
    is_pruned: bool = False


@dataclass(frozen=True, kw_only=True)
class BestSoFar:
    """What a study has found, trial after trial."""

    #: completed trials that were better than all before them, in order
    records: tuple[Point, ...] = ()
    #: some of the trials, evenly chosen by their numbers
    others: tuple[Point, ...] = ()
    #: the others are every so manieth trial
    stride: int = 1
    #: completed trials after the best one
    num_since_best: int = 0
    num_completed: int = 0
    #: the best values of completed trials, the best first
    top: tuple[float, ...] = ()

    @property
    def best(self) -> Point | None:
        """The best completed trial, among equals the earliest; None if there is none."""
        return self.records[-1] if self.records else None


def read(connection: Connection, study_id: int, *, maximizes: bool, num_trials: int) -> BestSoFar:
    """The history of a study with one objective."""
    stride = max(1, -(-num_trials // _DRAWN))
    is_completed = VALUED.c.state == TrialState.COMPLETE
    completed = case((is_completed, VALUED.c.value))
    extreme = func.max(completed) if maximizes else func.min(completed)
    before = extreme.over(order_by=VALUED.c.number, rows=(None, -1)).label("before")
    found = select(VALUED.c.number, VALUED.c.value, VALUED.c.state, before).where(VALUED.c.study_id == study_id).subquery()
    is_better = found.c.value > found.c.before if maximizes else found.c.value < found.c.before
    is_record = and_(found.c.state == TrialState.COMPLETE, or_(found.c.before.is_(None), is_better))
    query = select(found, is_record.label("is_record")).where(or_(is_record, found.c.number % stride == 0))
    records, others = [], []
    for row in connection.execute(query.order_by(found.c.number)):
        point = Point(number=row.number, value=row.value, is_pruned=row.state is TrialState.PRUNED)
        if row.is_record:
            records.append(point)
        if row.number % stride == 0:
            others.append(point)
    num_completed, num_since_best = _counts(connection, study_id, records)
    return BestSoFar(
        records=tuple(records),
        others=tuple(others),
        stride=stride,
        num_since_best=num_since_best,
        num_completed=num_completed,
        top=_top(connection, study_id, maximizes=maximizes),
    )


def _top(connection: Connection, study_id: int, *, maximizes: bool) -> tuple[float, ...]:
    value = VALUED.c.value
    query = select(value).where(VALUED.c.study_id == study_id, VALUED.c.state == TrialState.COMPLETE)
    return tuple(connection.execute(query.order_by(value.desc() if maximizes else value).limit(_TOP)).scalars())


def _counts(connection: Connection, study_id: int, records: Sequence[Point]) -> tuple[int, int]:
    """Completed trials, in all and after the best."""
    after = case((TRIALS.c.number > (records[-1].number if records else 0), 1), else_=0)
    query = select(func.count(), func.coalesce(func.sum(after), 0)).where(
        TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.COMPLETE
    )
    row = connection.execute(query).one()
    return int(row[0]), int(row[1])


#: trials with their finite value
VALUED = (
    select(TRIALS.c.study_id, TRIALS.c.trial_id, TRIALS.c.number, TRIALS.c.state, VALUES.c.value)
    .join(VALUES, VALUES.c.trial_id == TRIALS.c.trial_id)
    .where(VALUES.c.objective == 0, VALUES.c.value_type == _FINITE)
    .subquery("valued")
)
