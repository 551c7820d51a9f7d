"""A storage into all of its studies, whoever made them: what each is, and a stamp that changes with its trials."""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import TrialState
from pydantic import ValidationError
from sqlalchemy import Connection, func, select

from tuner.errors import SpecError
from tuner.search import enumeration, tables
from tuner.search.study import HALTED, MIGRATED, SPEC, STOPPED
from tuner.search.tables import DIRECTIONS, STUDIES, STUDY_USER, TRIALS
from tuner.spec import StudySpec

_ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A study as a list shows it."""

    id: int
    name: str
    #: one for each objective
    directions: tuple[StudyDirection, ...]
    #: None: plain Optuna made it, or another version of tuner
    spec: StudySpec | None = field(repr=False)
    #: what its sampler goes through one after another; None: it does not
    num_combinations: int | None
    #: why it stopped before its budget was spent
    stopped: str | None
    #: who stopped it; None: no one
    halted: str | None
    counts: Mapping[TrialState, int]
    #: when a trial last ended, UTC without a zone, as Optuna writes it
    last_end: datetime | None
    #: of the newest trial
    last_trial_id: int | None
    #: trials that were carried over from another study; the budget counts the others
    num_carried: int = 0

    @property
    def maximizes(self) -> bool | None:
        """Whether a higher value is a better one; None where there are several objectives, and so no best."""
        return self.directions[0] is not StudyDirection.MINIMIZE if len(self.directions) == 1 else None

    @property
    def num_trials(self) -> int:
        """Trials in every state."""
        return sum(self.counts.values())

    @property
    def num_ended(self) -> int:
        """Trials in their last state."""
        return sum(self.counts.get(state, 0) for state in _ENDED)

    @property
    def num_spent(self) -> int:
        """Trials in their last state that the budget counts."""
        return max(0, self.num_ended - self.num_carried)

    @property
    def stamp(self) -> tuple[Any, ...]:
        """Differs when a trial was begun or ended, and when a database has given the id to another study."""
        counts = tuple(self.counts.get(state, 0) for state in TrialState)
        return (self.id, self.name, counts, self.last_end, self.last_trial_id)


def count(connection: Connection) -> int:
    """Studies in a storage."""
    return int(connection.execute(select(func.count()).select_from(STUDIES)).scalar_one())


def newest(connection: Connection, *, offset: int, limit: int) -> list[Listed]:
    """A page of the studies, the newest first."""
    query = select(STUDIES.c.study_id, STUDIES.c.study_name).order_by(STUDIES.c.study_id.desc()).offset(offset).limit(limit)
    return _listed(connection, [(row[0], row[1]) for row in connection.execute(query)])


def one(connection: Connection, study_id: int) -> Listed | None:
    """A study by its id; None if there is none."""
    row = connection.execute(select(STUDIES.c.study_name).where(STUDIES.c.study_id == study_id)).first()
    return None if row is None else _listed(connection, [(study_id, row[0])])[0]


def _listed(connection: Connection, found: Sequence[tuple[int, str]]) -> list[Listed]:
    ids = [study_id for study_id, _ in found]
    if not ids:
        return []
    directions = _directions(connection, ids)
    counts = _counts(connection, ids)
    listed = []
    for study_id, name in found:
        known = tables.get(connection, STUDY_USER, study_id, SPEC, STOPPED, HALTED, MIGRATED)
        states = counts.get(study_id, {})
        spec, num_combinations = _spec(known.get(SPEC))
        listed.append(
            Listed(
                id=study_id,
                name=name,
                directions=directions.get(study_id, ()),
                spec=spec,
                num_combinations=num_combinations,
                stopped=_text(known.get(STOPPED)),
                halted=_by(known.get(HALTED)),
                counts={state: number for state, (number, _, _) in states.items()},
                last_end=max((end for _, end, _ in states.values() if end is not None), default=None),
                num_carried=(known.get(MIGRATED) or {}).get("num_carried", 0),
                last_trial_id=max((trial_id for _, _, trial_id in states.values()), default=None),
            )
        )
    return listed


def _directions(connection: Connection, ids: Sequence[int]) -> dict[int, tuple[StudyDirection, ...]]:
    query = select(DIRECTIONS.c.study_id, DIRECTIONS.c.direction).where(DIRECTIONS.c.study_id.in_(ids)).order_by(DIRECTIONS.c.objective)
    found: dict[int, tuple[StudyDirection, ...]] = {}
    for study_id, direction in connection.execute(query):
        found[study_id] = (*found.get(study_id, ()), direction)
    return found


def _counts(connection: Connection, ids: Sequence[int]) -> dict[int, dict[TrialState, tuple[int, datetime | None, int]]]:
    columns = (TRIALS.c.study_id, TRIALS.c.state, func.count(), func.max(TRIALS.c.datetime_complete), func.max(TRIALS.c.trial_id))
    query = select(*columns).where(TRIALS.c.study_id.in_(ids)).group_by(TRIALS.c.study_id, TRIALS.c.state)
    found: dict[int, dict[TrialState, tuple[int, datetime | None, int]]] = {}
    for study_id, state, number, end, trial_id in connection.execute(query):
        found.setdefault(study_id, {})[state] = (number, end, trial_id)
    return found


def _spec(stored: Any) -> tuple[StudySpec | None, int | None]:
    """The spec of a study and the count of its combinations; None each where there is none that this version reads."""
    return _parsed(stored) if isinstance(stored, str) else (None, None)


@functools.lru_cache(maxsize=256)
def _parsed(text: str) -> tuple[StudySpec | None, int | None]:
    try:
        spec = StudySpec.model_validate_json(text)
        combinations = enumeration.combinations(spec)
    except (ValidationError, SpecError):
        return None, None
    return spec, None if combinations is None else len(combinations)


def _by(stored: Any) -> str | None:
    return str(stored.get("by", "someone")) if isinstance(stored, dict) else None


def _text(stored: Any) -> str | None:
    return None if stored is None else stored if isinstance(stored, str) else json.dumps(stored)
