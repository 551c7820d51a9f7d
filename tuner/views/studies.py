"""Studies: all studies of a storage, whether tuner or plain Optuna created them, and their state for pages and reports.

Data that changes only with the trials of a study is cached under the study's stamp, so that many readers cost little.
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
from tuner.spec import budget, plan
from tuner.spec.study import AnyStudySpec, StudySpec
from tuner.spec.tasks import OBJECTIVE, UnknownTask
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
    """A study in a list."""

    id: int
    name: str
    #: direction of each objective
    directions: tuple[StudyDirection, ...]
    #: None if plain Optuna or an incompatible version of tuner created the study
    spec: AnyStudySpec | None = field(repr=False)
    #: number of combinations that the sampler tries one by one; None for other samplers
    num_combinations: int | None
    #: trials by state; a state without trials is left out
    states: Mapping[TrialState, StateCount]
    #: the attributes `progress.STORED`
    stored: Mapping[str, Any] = field(repr=False)

    @property
    def maximizes(self) -> bool | None:
        """Whether a higher value is better; None if the study has several objectives, and so no best trial."""
        return self.directions[0] is not StudyDirection.MINIMIZE if len(self.directions) == 1 else None

    @property
    def metric(self) -> str:
        """Name of the value of a trial as a reader sees it; `value` for a study that tuner did not make."""
        return "value" if self.spec is None else plan.metric(self.spec)

    @property
    def better(self) -> str:
        """Which values are better, in words; "" if a reader knows, or for a study that tuner did not make."""
        return "" if self.spec is None or self.spec.objective.maximizes else "lower is better"

    @property
    def is_about_images(self) -> bool:
        """Whether the study trains image classifiers, whose trials have a rule, classes, a probe and a fine-tuning."""
        return isinstance(self.spec, StudySpec)

    @property
    def step(self) -> str:
        """What a trial reports values of: `epoch`, or `step` for a user's objective."""
        return "step" if self.spec is not None and self.spec.task == OBJECTIVE else "epoch"

    @property
    def trainings(self) -> str:
        """The trainings of a trial in words, through which its epochs are counted; "" if it has one, or tuner did not make the study."""
        return "" if self.spec is None else plan.trainings(self.spec)

    @property
    def stopped(self) -> str | None:
        """Reason why the study stopped itself; None if it did not."""
        return progress.stopped_because(self.stored)

    @property
    def halted(self) -> str | None:
        """Name of the user or worker that stopped the study; None if nobody did."""
        return progress.halted_by(self.stored)

    @property
    def num_carried(self) -> int:
        """Number of trials that were migrated from another study; the budget does not count them."""
        return progress.num_carried(self.stored)

    @property
    def counts(self) -> Mapping[TrialState, int]:
        """Number of trials by state; a state without trials is left out."""
        return {state: count.num_trials for state, count in self.states.items()}

    @property
    def last_end(self) -> datetime | None:
        """Time at which the latest trial ended, in UTC without a zone, as Optuna writes it; None if none has."""
        return max((count.last_end for count in self.states.values() if count.last_end is not None), default=None)

    @property
    def num_trials(self) -> int:
        """Number of trials in every state."""
        return sum(self.counts.values())

    @property
    def num_ended(self) -> int:
        """Number of ended trials."""
        return sum(self.counts.get(state, 0) for state in _ENDED)

    @property
    def num_spent(self) -> int:
        """Number of ended trials that the budget counts."""
        return max(0, self.num_ended - self.num_carried)

    @property
    def stamp(self) -> tuple[Any, ...]:
        """A value that changes when a trial starts or ends, and when the database reuses the id for another study."""
        counts = tuple(self.counts.get(state, 0) for state in TrialState)
        last_trial_id = max((count.last_trial_id for count in self.states.values()), default=None)
        return (self.id, self.name, counts, self.last_end, last_trial_id)


def count(connection: Connection) -> int:
    """Return the number of studies in a storage."""
    return int(connection.execute(select(func.count()).select_from(STUDIES)).scalar_one())


def newest(connection: Connection, *, offset: int, limit: int) -> list[Listed]:
    """Return a page of the studies, the newest first."""
    query = select(STUDIES.c.study_id, STUDIES.c.study_name).order_by(STUDIES.c.study_id.desc()).offset(offset).limit(limit)
    return _listed(connection, [(row[0], row[1]) for row in connection.execute(query)])


def one(connection: Connection, study_id: int) -> Listed | None:
    """Return a study by its id, or None if there is none."""
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
        spec, num_combinations = _spec(name, stored.get(SPEC), directions.get(study_id, ()))
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


def _spec(name: str, stored: Any, directions: Sequence[StudyDirection]) -> tuple[AnyStudySpec | None, int | None]:
    """Return the spec of a study and the number of its combinations; both are None if this version cannot read the spec."""
    found = parsed(name, stored) if isinstance(stored, str) and len(directions) == 1 else (None, None)
    is_ours = found[0] is not None and found[0].objective.maximizes is (directions[0] is StudyDirection.MAXIMIZE)
    return found if is_ours else (None, None)


@functools.lru_cache(maxsize=256)
def parsed(name: str, text: str) -> tuple[AnyStudySpec | None, int | None]:
    """Return the spec that a study stores, and the number of its combinations; both are None if this version cannot read the spec."""
    try:
        spec = studies.parse_spec(text, name=name)
        combinations = enumeration.combinations(spec)
    except (ValidationError, SpecError, UnknownTask):
        return None, None
    return spec, None if combinations is None else len(combinations)


#: maximum number of open trials in a list
LISTED_TRIALS = 24
#: number of cached studies
_CACHED_STUDIES = 256


class State(StrEnum):
    """The state of a study in one word."""

    RUNNING = "running"
    #: no further trial starts, but some are running
    ENDING = "ending"
    #: the budget is spent, or the target is reached
    DONE = "done"
    #: it was stopped, or it stopped itself
    STOPPED = "stopped"
    #: no worker is training
    IDLE = "idle"


@dataclass(frozen=True, kw_only=True)
class StudyView:
    """A view of a study: its current state for pages and reports."""

    listed: Listed
    state: State
    #: why no further trial starts; None if one may start
    reason: str | None
    history: BestSoFar
    #: open trials, those with a worker first
    open: tuple[OpenTrial, ...]
    num_running: int
    #: running trials without a worker, and enqueued trials
    num_waiting: int
    #: seconds in which at least one worker was training; None for a study of plain Optuna
    busy_seconds: float | None
    outlook: Outlook


@dataclass(kw_only=True)
class StudyReader:
    """Reads the state of studies, with a cache of everything that has not changed."""

    storage: Storage
    _histories: dict[int, tuple[Any, BestSoFar]] = field(default_factory=dict)
    _intervals: dict[int, tuple[Any, list[tuple[float, float]]]] = field(default_factory=dict)

    def page(self, *, offset: int, limit: int) -> tuple[int, list[StudyView]]:
        """Return the number of studies, and the state of a page of them, the newest first."""

        def read(connection: Connection) -> tuple[int, list[StudyView]]:
            listed = newest(connection, offset=offset, limit=limit)
            return count(connection), [self.at(connection, study) for study in listed]

        return self.storage.read(read)

    def at(self, connection: Connection, listed: Listed) -> StudyView:
        """Return the state of one study."""
        found = self._history(connection, listed)
        num_open = sum(listed.counts.get(state, 0) for state in (TrialState.RUNNING, TrialState.WAITING))
        shown = trials.open_trials(connection, listed.id, listed.spec, limit=LISTED_TRIALS) if num_open else []
        num_running = sum(trial.is_held for trial in shown) if num_open <= LISTED_TRIALS else listed.counts.get(TrialState.RUNNING, 0)
        busy = self._busy_seconds(connection, listed, shown)
        reason = None if listed.spec is None else _reason(listed, found, busy)
        return StudyView(
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
            found = queries.best_so_far(connection, listed.id, num_trials=listed.num_trials)
            _remember(self._histories, listed.id, (listed.stamp, found))
        return found

    def _busy_seconds(self, connection: Connection, listed: Listed, shown: Sequence[OpenTrial]) -> float | None:
        """Return the seconds of work; the intervals of ended attempts are cached."""
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


def _remember(cache: dict[int, Any], key: int, value: Any) -> None:
    cache.pop(key, None)
    cache[key] = value
    while len(cache) > _CACHED_STUDIES:
        cache.pop(next(iter(cache)), None)


def _reason(listed: Listed, found: BestSoFar, busy: float | None) -> str | None:
    assert listed.spec is not None
    spent = progress.of(
        listed.states,
        listed.stored,
        best=found.best,
        busy_seconds=busy or 0.0,
        num_combinations=listed.num_combinations,
        maximizes=listed.spec.objective.maximizes,
    )
    return budget.decide(listed.spec.budget, spent)


def _state(listed: Listed, reason: str | None, num_running: int) -> State:
    if num_running:
        return State.ENDING if listed.stopped or listed.halted else State.RUNNING
    if listed.stopped or listed.halted:
        return State.STOPPED
    return State.DONE if reason is not None else State.IDLE
