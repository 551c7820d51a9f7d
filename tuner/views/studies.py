"""A storage into all of its studies, whoever made them: what each is, and a stamp that changes with its trials.

A storage into looks at its studies: what each has found, who is at it, and what is to be expected.

What changes only with the trials is remembered by the stamp of a study, so that many may look at once.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import TrialState
from pydantic import ValidationError
from sqlalchemy import Connection, func, select

from tuner.errors import SpecError
from tuner.sampling import enumeration
from tuner.spec import budget
from tuner.spec.budget import StudyProgress
from tuner.spec.study import StudySpec
from tuner.storage import queries, tables
from tuner.storage.engine import Storage
from tuner.storage.queries import BestSoFar
from tuner.storage.tables import DIRECTIONS, STUDIES, STUDY_USER, TRIALS
from tuner.studies import leases
from tuner.studies.study import HALTED, MIGRATED, SPEC, STOPPED
from tuner.views import outlook, trials
from tuner.views.outlook import Outlook
from tuner.views.trials import OpenTrial

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


#: open trials that a look lists
LISTED_TRIALS = 24
#: studies that are remembered
_REMEMBERED = 256


class State(StrEnum):
    """How a study stands, in a word."""

    RUNNING = "running"
    #: no further trial starts, some are still open
    ENDING = "ending"
    #: its budget is spent, or its target reached
    DONE = "done"
    #: someone or something stopped it before
    STOPPED = "stopped"
    #: no one is at it
    IDLE = "idle"


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a study stands."""

    listed: Listed
    state: State
    #: why no further trial starts; None if one may
    reason: str | None
    history: BestSoFar
    #: the trials that have not ended, those first that a worker has
    open: tuple[OpenTrial, ...]
    num_running: int
    #: begun, and to be taken up again; or enqueued
    num_waiting: int
    #: time in which some worker was at work; None where only Optuna's own dates are known
    busy_seconds: float | None
    outlook: Outlook


@dataclass(kw_only=True)
class Looks:
    """Looks at the studies of a storage; remembers what has not changed."""

    storage: Storage
    _histories: dict[int, tuple[Any, BestSoFar]] = field(default_factory=dict)
    _intervals: dict[int, tuple[Any, list[tuple[float, float]]]] = field(default_factory=dict)

    def page(self, *, offset: int, limit: int) -> tuple[int, list[Look]]:
        """How many studies there are, and a look at some of them, the newest first."""

        def read(connection: Connection) -> tuple[int, list[Look]]:
            listed = newest(connection, offset=offset, limit=limit)
            return count(connection), [self.at(connection, study) for study in listed]

        return self.storage.read(read)

    def at(self, connection: Connection, listed: Listed) -> Look:
        """A look at one study."""
        found = self._history(connection, listed)
        num_open = sum(listed.counts.get(state, 0) for state in (TrialState.RUNNING, TrialState.WAITING))
        shown = trials.open_trials(connection, listed.id, limit=LISTED_TRIALS) if num_open else []
        num_running = sum(trial.is_held for trial in shown) if num_open <= LISTED_TRIALS else listed.counts.get(TrialState.RUNNING, 0)
        busy = self._busy_seconds(connection, listed, shown)
        reason = None if listed.spec is None else _reason(listed, found, busy)
        return Look(
            listed=listed,
            state=_state(listed, reason, num_running),
            reason=reason,
            history=found,
            open=tuple(shown),
            num_running=num_running,
            num_waiting=num_open - num_running,
            busy_seconds=busy,
            outlook=outlook.judge(
                found,
                None if listed.spec is None else listed.spec.budget,
                num_ended=listed.num_spent,
                num_trials=listed.num_trials - listed.num_carried,
                busy_seconds=busy or 0.0,
                num_combinations=listed.num_combinations,
            ),
        )

    def _history(self, connection: Connection, listed: Listed) -> BestSoFar:
        if listed.maximizes is None:
            return BestSoFar()
        stamp, found = self._histories.get(listed.id, (None, BestSoFar()))
        if stamp != listed.stamp:
            found = queries.read(connection, listed.id, maximizes=listed.maximizes, num_trials=listed.num_trials)
            _remember(self._histories, listed.id, (listed.stamp, found))
        return found

    def _busy_seconds(self, connection: Connection, listed: Listed, shown: Sequence[OpenTrial]) -> float | None:
        """The time of ended attempts is remembered; that of open ones goes on."""
        held = tuple((trial.row.number, trial.attempt) for trial in shown if trial.is_held)
        stamp, merged = self._intervals.get(listed.id, (None, []))
        if stamp != (listed.stamp, held):
            merged = budget.union(leases.intervals(connection, listed.id))
            _remember(self._intervals, listed.id, ((listed.stamp, held), merged))
        if not merged:
            return None
        now = tables.clock(connection) if held else 0.0
        spans = [
            (now - trial.seconds, now - (trial.silent_seconds or 0.0)) for trial in shown if trial.is_held and trial.seconds is not None
        ]
        return budget.busy_seconds([*merged, *spans])


def _remember(kept: dict[int, Any], key: int, value: Any) -> None:
    kept.pop(key, None)
    kept[key] = value
    while len(kept) > _REMEMBERED:
        kept.pop(next(iter(kept)), None)


def _reason(listed: Listed, found: BestSoFar, busy: float | None) -> str | None:
    assert listed.spec is not None
    standing = StudyProgress(
        num_trials=listed.num_trials,
        best_value=None if found.best is None else found.best.value,
        busy_seconds=busy or 0.0,
        stopped=listed.stopped,
        halted=listed.halted,
        num_enqueued=listed.counts.get(TrialState.WAITING, 0),
        num_combinations=listed.num_combinations,
        num_carried=listed.num_carried,
    )
    return budget.decide(listed.spec.budget, standing)


def _state(listed: Listed, reason: str | None, num_running: int) -> State:
    if num_running:
        return State.ENDING if listed.stopped or listed.halted else State.RUNNING
    if listed.stopped or listed.halted:
        return State.STOPPED
    return State.DONE if reason is not None else State.IDLE
