"""Failures: the failed trials of a study, grouped by kind of failure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Connection, Table, and_, func, select

from tuner.storage.attributes import ERROR, LOG, MESSAGE
from tuner.storage.tables import TRIAL_SYSTEM, TRIAL_USER, TRIALS

#: maximum number of kinds of failure, the most frequent first
_LISTED = 10


@dataclass(frozen=True, kw_only=True)
class FailedTrials:
    """The failed trials of one kind."""

    #: for example MemoryError; "" if the trials have no kind
    error: str
    num_trials: int
    #: number of the last failed trial
    last_number: int
    #: its message; "" if it has none
    message: str
    #: last lines of its trainer's log; "" if there are none
    log: str


def read(connection: Connection, study_id: int) -> list[FailedTrials]:
    """Return the failures of a study by kind, the most frequent kind first; of equally frequent ones, the latest."""
    is_error = and_(TRIAL_USER.c.trial_id == TRIALS.c.trial_id, TRIAL_USER.c.key == ERROR)
    query = (
        select(TRIAL_USER.c.value_json, func.count().label("num"), func.max(TRIALS.c.number))
        .select_from(TRIALS.outerjoin(TRIAL_USER, is_error))
        .where(TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.FAIL)
        .group_by(TRIAL_USER.c.value_json)
        .order_by(func.count().desc(), func.max(TRIALS.c.number).desc())
        .limit(_LISTED)
    )
    found = [(_text(stored), num, number) for stored, num, number in connection.execute(query)]
    numbers = [number for _, _, number in found]
    messages = _texts(connection, study_id, numbers, TRIAL_USER, MESSAGE)
    logs = _texts(connection, study_id, numbers, TRIAL_SYSTEM, LOG)
    return [
        FailedTrials(error=error, num_trials=num, last_number=number, message=messages.get(number, ""), log=logs.get(number, ""))
        for error, num, number in found
    ]


def _texts(connection: Connection, study_id: int, numbers: list[int], table: Table, key: str) -> Mapping[int, str]:
    if not numbers:
        return {}
    is_it = and_(table.c.trial_id == TRIALS.c.trial_id, table.c.key == key)
    query = select(TRIALS.c.number, table.c.value_json).join(table, is_it)
    rows = connection.execute(query.where(TRIALS.c.study_id == study_id, TRIALS.c.number.in_(numbers)))
    return {number: _text(stored) for number, stored in rows}


def _text(stored: str | None) -> str:
    value: Any = None if stored is None else json.loads(stored)
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)
