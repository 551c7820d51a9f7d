"""The trials of a study into those that a process has not read to their end yet: what is stored of an ended trial does not change.

The trials of a study into those that a sampler learns from: all while they are few, then the best and the latest.

A worker reads a trial once, when it has ended, and of a study that is large already only the trials that it keeps.

What one process has read of a study that will not change: a trial costs the same however many went before it.
"""

import functools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from tuner.spec import budget
from tuner.storage import optuna_private, queries
from tuner.storage.attributes import PROBE_ACCURACY, PROMOTED
from tuner.storage.tables import INTERMEDIATE, LEASES, PARAMETERS, TRIAL_USER, TRIALS, VALUES


@dataclass
class Unread:
    """How far one process has read the trials of one study."""

    #: the highest id of a trial that was read; ids of a study's trials rise, for its row is locked while one is made
    last_id: int = -1
    #: the trials up to there that had not ended when they were read
    open_ids: frozenset[int] = frozenset()

    def among(self, study_id: int) -> ColumnElement[bool]:
        """The condition on Optuna's trials that picks these of the study."""
        is_unread = TRIALS.c.trial_id > self.last_id
        return (TRIALS.c.study_id == study_id) & (or_(is_unread, TRIALS.c.trial_id.in_(self.open_ids)) if self.open_ids else is_unread)

    def note(self, states: Iterable[tuple[int, TrialState]]) -> None:
        """Take as read what was found of all of them: id and state."""
        found = dict(states)
        self.last_id = max([self.last_id, *found])
        self.open_ids = frozenset(trial_id for trial_id, state in found.items() if not state.is_finished())


#: a study with no more ended trials than this is seen whole
MOST = 1_000
#: of more, so many are the best of all; TPE calls the best 25 good
NUM_BEST = 100
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
#: databases limit the values of a statement
_IDS_AT_ONCE = 1_000


@dataclass(frozen=True, kw_only=True)
class _Outline:
    """What is known of a trial before its parameters are read."""

    trial_id: int
    number: int
    state: TrialState
    #: None: it has none that is finite
    value: float | None

    @property
    def is_shown(self) -> bool:
        """Whether a sampler learns from it: a trial that completed with an infinite value tells nothing."""
        return self.state is TrialState.PRUNED or (self.state is TrialState.COMPLETE and self.value is not None)


@dataclass
class SamplerHistory:
    """What one process has read of the trials of one study."""

    most: int = MOST
    num_best: int = NUM_BEST
    _unread: Unread = field(default_factory=Unread)
    #: the ended trials that are shown, by id
    _outlines: Mapping[int, _Outline] = field(default_factory=dict)
    _trials: Mapping[int, FrozenTrial] = field(default_factory=dict)

    def read(self, connection: Connection, study_id: int) -> list[FrozenTrial]:
        """The running trials, and of those that were completed or pruned the ones to learn from, in the order of their numbers."""
        news = self._news(connection, study_id)
        running = [outline for outline in news if outline.state is TrialState.RUNNING]
        ended = {**self._outlines, **{outline.trial_id: outline for outline in news if outline.is_shown}}
        chosen = {outline.trial_id: outline for outline in self._choose(connection, list(ended.values()))}
        known = {trial_id: trial for trial_id, trial in self._trials.items() if trial_id in chosen}
        loaded = load(connection, [outline for trial_id, outline in chosen.items() if trial_id not in known] + running)
        known |= {optuna_private.trial_id(trial): trial for trial in loaded if trial.state in _ENDED}
        # nothing is remembered before all is read: a transaction that breaks off is repeated
        self._unread.note((outline.trial_id, outline.state) for outline in news)
        self._outlines, self._trials = chosen, known
        shown = [*known.values(), *(trial for trial in loaded if trial.state is TrialState.RUNNING)]
        return sorted(shown, key=lambda trial: trial.number)

    def _news(self, connection: Connection, study_id: int) -> list[_Outline]:
        """The trials that may have changed since they were last read."""
        query = (
            select(TRIALS.c.trial_id, TRIALS.c.number, TRIALS.c.state, VALUES.c.value)
            .outerjoin(VALUES, (VALUES.c.trial_id == TRIALS.c.trial_id) & queries.IS_FINITE)
            .where(self._unread.among(study_id))
        )
        return [_Outline(**row._asdict()) for row in connection.execute(query)]

    def _choose(self, connection: Connection, ended: list[_Outline]) -> list[_Outline]:
        """The ended trials that are shown: all of few, else the best by TPE's order and the latest of the others."""
        if len(ended) <= self.most:
            return ended
        best = _best(connection, ended, self.num_best)
        kept = {outline.trial_id for outline in best}
        others = sorted((outline for outline in ended if outline.trial_id not in kept), key=lambda outline: outline.number)
        return best + others[-(self.most - len(best)) :]


def load(connection: Connection, outlines: Sequence[_Outline]) -> list[FrozenTrial]:
    """Trials with what TPE asks of them: parameters, value and, of pruned ones, how far they came."""
    parameters = _parameters(connection, [outline.trial_id for outline in outlines])
    ends = _ends(connection, [outline.trial_id for outline in outlines if outline.state is TrialState.PRUNED])
    return [_trial(outline, parameters.get(outline.trial_id, {}), ends.get(outline.trial_id)) for outline in outlines]


def one(connection: Connection, trial_id: int) -> FrozenTrial:
    """A running trial with what is chosen of it so far."""
    number, state = connection.execute(select(TRIALS.c.number, TRIALS.c.state).where(TRIALS.c.trial_id == trial_id)).one()
    return load(connection, [_Outline(trial_id=trial_id, number=number, state=state, value=None)])[0]


def best(connection: Connection, study_id: int, *, maximizes: bool, most: int) -> list[FrozenTrial]:
    """The completed trials with the best values, of those that have a finite one, the best first."""
    rows = connection.execute(queries.ranked(study_id, maximizes=maximizes).limit(most))
    found = [_Outline(trial_id=row[0], number=row[1], state=TrialState.COMPLETE, value=row[2]) for row in rows]
    return load(connection, found)


def at_step(connection: Connection, study_id: int, step: int) -> list[FrozenTrial]:
    """The completed trials with the value that they had at a step, and with nothing else."""
    reported = (INTERMEDIATE.c.trial_id == TRIALS.c.trial_id) & (INTERMEDIATE.c.step == step)
    query = select(TRIALS.c.trial_id, TRIALS.c.number, TRIALS.c.state, INTERMEDIATE.c.intermediate_value).outerjoin(INTERMEDIATE, reported)
    rows = connection.execute(query.where(TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.COMPLETE))
    return [
        _trial(_Outline(trial_id=trial_id, number=number, state=state, value=None), {}, None if value is None else (step, value))
        for trial_id, number, state, value in rows
    ]


def _best(connection: Connection, ended: Sequence[_Outline], count: int) -> list[_Outline]:
    """The completed trials with the highest values; if there are not enough, the pruned ones that came furthest."""
    complete = [outline for outline in ended if outline.state is TrialState.COMPLETE]
    best = sorted(complete, key=lambda outline: (-(outline.value or 0.0), outline.number))[:count]
    if len(best) < count:
        pruned = [outline for outline in ended if outline.state is TrialState.PRUNED]
        ends = _ends(connection, [outline.trial_id for outline in pruned])
        furthest = {trial_id: (-step, -value) for trial_id, (step, value) in ends.items()}
        pruned.sort(key=lambda outline: (furthest.get(outline.trial_id, (1, 0.0)), outline.number))
        best += pruned[: count - len(best)]
    return best


def _trial(outline: _Outline, parameters: Mapping[str, tuple[float, str]], end: tuple[int, float] | None) -> FrozenTrial:
    distributions = {name: _distribution(text) for name, (_, text) in parameters.items()}
    return FrozenTrial(
        number=outline.number,
        trial_id=outline.trial_id,
        state=outline.state,
        value=outline.value,
        datetime_start=None,
        datetime_complete=None,
        params={name: distributions[name].to_external_repr(value) for name, (value, _) in parameters.items()},
        distributions=distributions,
        user_attrs={},
        system_attrs={},
        intermediate_values={} if end is None else dict([end]),
    )


def _parameters(connection: Connection, trial_ids: Sequence[int]) -> dict[int, dict[str, tuple[float, str]]]:
    """Value and distribution of each parameter of some trials, as they are stored, in the order in which they were chosen."""
    columns = PARAMETERS.c
    query = select(columns.trial_id, columns.param_name, columns.param_value, columns.distribution_json).order_by(columns.param_id)
    found: dict[int, dict[str, tuple[float, str]]] = {}
    for some in _batches(trial_ids):
        for trial_id, name, value, distribution in connection.execute(query.where(columns.trial_id.in_(some))):
            found.setdefault(trial_id, {})[name] = (value, distribution)
    return found


def _ends(connection: Connection, trial_ids: Sequence[int]) -> dict[int, tuple[int, float]]:
    """The last step that some trials reported, with its value."""
    columns = INTERMEDIATE.c
    found: dict[int, tuple[int, float]] = {}
    for some in _batches(trial_ids):
        last = select(columns.trial_id, func.max(columns.step).label("step")).where(columns.trial_id.in_(some)).group_by(columns.trial_id)
        at = last.subquery()
        query = select(columns.trial_id, columns.step, columns.intermediate_value)
        query = query.join(at, (columns.trial_id == at.c.trial_id) & (columns.step == at.c.step))
        for trial_id, step, value in connection.execute(query):
            found[trial_id] = (step, math.nan if value is None else value)
    return found


def _batches(trial_ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(trial_ids), _IDS_AT_ONCE):
        yield trial_ids[start : start + _IDS_AT_ONCE]


@functools.lru_cache(maxsize=1_000)
def _distribution(text: str) -> BaseDistribution:
    """A distribution as it is stored; most trials share a few."""
    return json_to_distribution(text)


#: a lease that another process grants just now begins no earlier before what is read of it
_OVERLAP_SECONDS = 60.0


@dataclass
class Probes:
    """The value of each trial's probe, and whether the trial went on."""

    #: by trial id
    known: dict[int, tuple[float, bool]] = field(default_factory=dict)
    _unread: Unread = field(default_factory=Unread)

    def read(self, connection: Connection, study_id: int) -> None:
        """Bring `known` up to date."""
        accuracy, promoted = TRIAL_USER.alias(), TRIAL_USER.alias()
        query = (
            select(TRIALS.c.trial_id, TRIALS.c.state, accuracy.c.value_json, promoted.c.value_json)
            .outerjoin(accuracy, and_(accuracy.c.trial_id == TRIALS.c.trial_id, accuracy.c.key == PROBE_ACCURACY))
            .outerjoin(promoted, and_(promoted.c.trial_id == TRIALS.c.trial_id, promoted.c.key == PROMOTED))
            .where(self._unread.among(study_id))
        )
        rows = connection.execute(query).all()
        known = {trial_id: (json.loads(value), json.loads(went_on)) for trial_id, _, value, went_on in rows if value and went_on}
        self.known |= known
        self._unread.note((trial_id, state) for trial_id, state, *_ in rows)


@dataclass
class Work:
    """The time in which some worker of the study was at work."""

    #: in attempts that ended before all that comes
    _settled_seconds: float = 0.0
    #: start and end of later work that has ended
    _ended: list[tuple[float, float]] = field(default_factory=list)
    _unread: Unread = field(default_factory=Unread)

    def read(self, connection: Connection, study_id: int) -> float:
        """Seconds up to now; time in which several work counts once."""
        stop = func.coalesce(LEASES.c.ended_at, LEASES.c.seen_at)
        is_of_trial = and_(LEASES.c.study_id == TRIALS.c.study_id, LEASES.c.trial_number == TRIALS.c.number)
        query = select(TRIALS.c.trial_id, TRIALS.c.state, LEASES.c.started_at, stop).outerjoin(LEASES, is_of_trial)
        rows = connection.execute(query.where(self._unread.among(study_id))).all()
        attempts = [(state.is_finished(), (start, stop)) for _, state, start, stop in rows if start is not None]
        known = budget.union([*self._ended, *(attempt for is_ended, attempt in attempts if is_ended)])
        going_on = [attempt for is_ended, attempt in attempts if not is_ended]
        settled_until = min((start for start, _ in going_on or known[-1:]), default=0.0) - _OVERLAP_SECONDS
        self._settled_seconds += sum(stop - start for start, stop in known if stop < settled_until)
        self._ended = [(start, stop) for start, stop in known if stop >= settled_until]
        self._unread.note((trial_id, state) for trial_id, state, *_ in rows)
        return self._settled_seconds + budget.busy_seconds([*self._ended, *going_on])


@dataclass
class Memory:
    """All that a process remembers of a study; it belongs to one thread."""

    history: SamplerHistory = field(default_factory=SamplerHistory)
    probes: Probes = field(default_factory=Probes)
    work: Work = field(default_factory=Work)
    is_begun: bool = False

    def begin(self, connection: Connection, study_id: int) -> None:
        """Read what there is for the first time: of a large study this takes a while, in which no one should have to wait for a lock."""
        self.work.read(connection, study_id)
        self.probes.read(connection, study_id)
        self.is_begun = True
