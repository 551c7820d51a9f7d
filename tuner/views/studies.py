"""A storage into all of its studies, whoever made them: what each is, and a stamp that changes with its trials.

A storage into looks at its studies: what each has found, who is at it, and what is to be expected.

What changes only with the trials is remembered by the stamp of a study, so that many may look at once.
"""

import functools
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
from tuner.spec.study import StudySpec
from tuner.storage import queries, tables
from tuner.storage.attributes import SPEC
from tuner.storage.engine import Storage
from tuner.storage.queries import BestSoFar, StateCount
from tuner.storage.tables import DIRECTIONS, STUDIES, STUDY_USER
from tuner.studies import leases, progress
from tuner.studies import study as studies
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
    #: its trials by state; a state without trials is left out
    states: Mapping[TrialState, StateCount]
    #: those of its attributes that its progress is read from
    stored: Mapping[str, Any] = field(repr=False)

    @property
    def maximizes(self) -> bool | None:
        """Whether a higher value is a better one; None where there are several objectives, and so no best."""
        return self.directions[0] is not StudyDirection.MINIMIZE if len(self.directions) == 1 else None

    @property
    def stopped(self) -> str | None:
        """Why it stopped before its budget was spent; None if it did not."""
        return progress.stopped_because(self.stored)

    @property
    def halted(self) -> str | None:
        """Who stopped it; None if nobody did."""
        return progress.halted_by(self.stored)

    @property
    def num_carried(self) -> int:
        """Trials that were carried over from another study; the budget counts the others."""
        return progress.num_carried(self.stored)

    @property
    def counts(self) -> Mapping[TrialState, int]:
        """Number of trials by state; a state without trials is left out."""
        return {state: count.num_trials for state, count in self.states.items()}

    @property
    def last_end(self) -> datetime | None:
        """When a trial last ended, in UTC without a zone, as Optuna writes it; None if none has."""
        return max((count.last_end for count in self.states.values() if count.last_end is not None), default=None)

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
        last_trial_id = max((count.last_trial_id for count in self.states.values()), default=None)
        return (self.id, self.name, counts, self.last_end, last_trial_id)


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
    counts = queries.counts(connection, ids)
    listed = []
    for study_id, name in found:
        stored = tables.get(connection, STUDY_USER, study_id, SPEC, *progress.STORED)
        states = counts.get(study_id, {})
        spec, num_combinations = _spec(stored.get(SPEC))
        listed.append(
            Listed(
                id=study_id,
                name=name,
                directions=directions.get(study_id, ()),
                spec=spec,
                num_combinations=num_combinations,
                states=states,
                stored=stored,
            )
        )
    return listed


def _directions(connection: Connection, ids: Sequence[int]) -> dict[int, tuple[StudyDirection, ...]]:
    query = select(DIRECTIONS.c.study_id, DIRECTIONS.c.direction).where(DIRECTIONS.c.study_id.in_(ids)).order_by(DIRECTIONS.c.objective)
    found: dict[int, tuple[StudyDirection, ...]] = {}
    for study_id, direction in connection.execute(query):
        found[study_id] = (*found.get(study_id, ()), direction)
    return found


def _spec(stored: Any) -> tuple[StudySpec | None, int | None]:
    """The spec of a study and the count of its combinations; None each where there is none that this version reads."""
    return _parsed(stored) if isinstance(stored, str) else (None, None)


@functools.lru_cache(maxsize=256)
def _parsed(text: str) -> tuple[StudySpec | None, int | None]:
    try:
        spec = studies.parse_spec(text)
        combinations = enumeration.combinations(spec)
    except (ValidationError, SpecError):
        return None, None
    return spec, None if combinations is None else len(combinations)


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
            found = queries.best_so_far(connection, listed.id, maximizes=listed.maximizes, num_trials=listed.num_trials)
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
    spent = progress.of(listed.states, listed.stored, best=found.best, busy_seconds=busy or 0.0, num_combinations=listed.num_combinations)
    return budget.decide(listed.spec.budget, spent)


def _state(listed: Listed, reason: str | None, num_running: int) -> State:
    if num_running:
        return State.ENDING if listed.stopped or listed.halted else State.RUNNING
    if listed.stopped or listed.halted:
        return State.STOPPED
    return State.DONE if reason is not None else State.IDLE
