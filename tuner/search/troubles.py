"""The failed trials of a study, grouped by what went wrong."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Connection, and_, func, select

from tuner.search.tables import TRIAL_USER, TRIALS

#: kinds of failure that are told apart, the most frequent first
_LISTED = 10


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Failures of one kind."""

    #: for example MemoryError; "": the trials say nothing
    error: str
    num_trials: int
    #: the trial that failed last of them
    last_number: int
    #: what that said; "": nothing
    message: str


def read(connection: Connection, study_id: int) -> list[Trouble]:
    """The kinds of failure of a study, the most frequent first."""
    is_error = and_(TRIAL_USER.c.trial_id == TRIALS.c.trial_id, TRIAL_USER.c.key == "error")
    query = (
        select(TRIAL_USER.c.value_json, func.count().label("num"), func.max(TRIALS.c.number))
        .select_from(TRIALS.outerjoin(TRIAL_USER, is_error))
        .where(TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.FAIL)
        .group_by(TRIAL_USER.c.value_json)
        .order_by(func.count().desc())
        .limit(_LISTED)
    )
    found = [(_text(stored), num, number) for stored, num, number in connection.execute(query)]
    messages = _messages(connection, study_id, [number for _, _, number in found])
    return [Trouble(error=error, num_trials=num, last_number=number, message=messages.get(number, "")) for error, num, number in found]


def _messages(connection: Connection, study_id: int, numbers: list[int]) -> Mapping[int, str]:
    if not numbers:
        return {}
    is_message = and_(TRIAL_USER.c.trial_id == TRIALS.c.trial_id, TRIAL_USER.c.key == "message")
    query = select(TRIALS.c.number, TRIAL_USER.c.value_json).join(TRIAL_USER, is_message)
    rows = connection.execute(query.where(TRIALS.c.study_id == study_id, TRIALS.c.number.in_(numbers)))
    return {number: _text(stored) for number, stored in rows}


def _text(stored: str | None) -> str:
    value: Any = None if stored is None else json.loads(stored)
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)
