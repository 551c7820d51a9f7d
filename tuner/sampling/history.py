"""History: what one process has read of a study's trials, for the sampler, for promotions and for the budget.

What is stored of an ended trial does not change. So a process reads each trial once, when it has ended, and a new trial
costs the same however many there are. Of a large study, a sampler sees only the best trials and the latest ones.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import ColumnElement, CompoundSelect, Connection, and_, func, or_, select, union_all

from tuner.spec import budget
from tuner.spec.hyperparameters import ProbeSolver
from tuner.storage import optuna_private, queries
from tuner.storage.attributes import (
    CARRIED_FROM,
    FINE_TUNE_SECONDS,
    HYPERPARAMETERS,
    NUM_EPOCHS,
    PROBE_SECONDS,
    PROBE_VALUE,
    PROMOTED,
    WORKER,
)
from tuner.storage.tables import INTERMEDIATE, LEASES, PARAMETERS, TRIAL_SYSTEM, TRIAL_USER, TRIALS, VALUES

#: a sampler sees all ended trials of a study with at most so many
MAX_TRIALS = 1_000
#: numbers of best and of latest other trials that a sampler sees of a larger study; TPE calls the best 25 good
NUM_BEST = 100
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
#: databases limit the number of values in a statement
_IDS_AT_ONCE = 1_000
#: a lease that another process is granting now does not start earlier than this before the time of reading
_OVERLAP_SECONDS = 60.0


@dataclass
class ReadProgress:
    """Which trials of a study one process has read after they ended."""

    #: the highest id of a trial that was read; the ids of a study's trials rise, because creating one locks the study's row
    last_id: int = -1
    #: the trials up to `last_id` that had not ended when they were read
    open_ids: frozenset[int] = frozenset()

    def unread(self, study_id: int) -> ColumnElement[bool]:
        """Return the condition on Optuna's trials that selects those of the study that may have changed since the last reading."""
        is_new = TRIALS.c.trial_id > self.last_id
        return (TRIALS.c.study_id == study_id) & (or_(is_new, TRIALS.c.trial_id.in_(self.open_ids)) if self.open_ids else is_new)

    def advance(self, states: Iterable[tuple[int, TrialState]]) -> None:
        """Note that all unread trials were read, given the id and state of each."""
        found = dict(states)
        self.last_id = max([self.last_id, *found])
        self.open_ids = frozenset(trial_id for trial_id, state in found.items() if not state.is_finished())


@dataclass(frozen=True, kw_only=True)
class _Outline:
    """A trial without its parameters."""

    trial_id: int
    number: int
    state: TrialState
    #: None: it has no finite value
    value: float | None

    @property
    def is_useful(self) -> bool:
        """Whether a sampler learns from this trial: a completed trial without a finite value tells nothing."""
        return self.state is TrialState.PRUNED or (self.state is TrialState.COMPLETE and self.value is not None)


@dataclass
class SamplerHistory:
    """The trials that a sampler learns from."""

    max_trials: int = MAX_TRIALS
    num_best: int = NUM_BEST
    _progress: ReadProgress = field(default_factory=ReadProgress)
    #: the ended trials that the sampler sees, by id
    _outlines: Mapping[int, _Outline] = field(default_factory=dict)
    _trials: Mapping[int, FrozenTrial] = field(default_factory=dict)

    def read(self, connection: Connection, study_id: int, *, maximizes: bool = True, is_constrained: bool = False) -> list[FrozenTrial]:
        """Return the running trials, and the selected ones among the completed and pruned trials, in the order of their numbers.

        `is_constrained`: whether the study has constraints, which the trials then have, too.
        """
        news = self._read_news(connection, study_id)
        running = [outline for outline in news if outline.state is TrialState.RUNNING]
        ended = {**self._outlines, **{outline.trial_id: outline for outline in news if outline.is_useful}}
        selected = {outline.trial_id: outline for outline in self._select(connection, list(ended.values()), maximizes)}
        known = {trial_id: trial for trial_id, trial in self._trials.items() if trial_id in selected}
        unknown = [outline for trial_id, outline in selected.items() if trial_id not in known]
        loaded = _load(connection, unknown + running, constraints=_constraints(connection, unknown) if is_constrained else {})
        known |= {optuna_private.trial_id(trial): trial for trial in loaded if trial.state in _ENDED}
        # after the last statement, because an interrupted transaction runs again from its start
        self._progress.advance((outline.trial_id, outline.state) for outline in news)
        self._outlines, self._trials = selected, known
        seen = [*known.values(), *(trial for trial in loaded if trial.state is TrialState.RUNNING)]
        return sorted(seen, key=lambda trial: trial.number)

    def _read_news(self, connection: Connection, study_id: int) -> list[_Outline]:
        query = (
            select(TRIALS.c.trial_id, TRIALS.c.number, TRIALS.c.state, VALUES.c.value)
            .outerjoin(VALUES, (VALUES.c.trial_id == TRIALS.c.trial_id) & queries.IS_FINITE)
            .where(self._progress.unread(study_id))
        )
        return [_Outline(**row._asdict()) for row in connection.execute(query)]

    def _select(self, connection: Connection, ended: list[_Outline], maximizes: bool) -> list[_Outline]:
        """Return all ended trials if they are few, else the best in TPE's order and the latest of the others."""
        if len(ended) <= self.max_trials:
            return ended
        best = _best(connection, ended, self.num_best, 1 if maximizes else -1)
        best_ids = {outline.trial_id for outline in best}
        others = sorted((outline for outline in ended if outline.trial_id not in best_ids), key=lambda outline: outline.number)
        return best + others[-(self.max_trials - len(best)) :]


def _best(connection: Connection, ended: Sequence[_Outline], count: int, sign: int) -> list[_Outline]:
    """Return the completed trials with the best values; if there are too few, also the pruned trials that trained longest.

    `sign` is 1 if higher values are better, and -1 if lower ones are.
    """
    complete = [outline for outline in ended if outline.state is TrialState.COMPLETE]
    best = sorted(complete, key=lambda outline: (-sign * (outline.value or 0.0), outline.number))[:count]
    if len(best) < count:
        pruned = [outline for outline in ended if outline.state is TrialState.PRUNED]
        last_steps = _last_steps(connection, [outline.trial_id for outline in pruned])
        rank = {trial_id: (-step, -sign * value) for trial_id, (step, value) in last_steps.items()}
        pruned.sort(key=lambda outline: (rank.get(outline.trial_id, (1, 0.0)), outline.number))
        best += pruned[: count - len(best)]
    return best


@dataclass(frozen=True, kw_only=True)
class TimedTrial:
    """How long an ended trial took."""

    #: name of its last worker
    worker: str
    #: what the trial chose; None: the study has only one
    backbone: str | None = None
    image_size: int | None = None
    #: fraction of the backbone that was fine-tuned
    unfreeze: float = 1.0
    probe_seconds: float
    fine_tune_seconds: float
    #: number of epochs in both stages
    num_epochs: int
    #: whether its probe was solved exactly, in one epoch
    is_probed_exactly: bool = False


@dataclass
class Measurements:
    """What the trials of a study have measured: the values of their probes, and how long they took."""

    #: by trial id: the value of its probe, and whether it was promoted
    probes: dict[int, tuple[float, bool]] = field(default_factory=dict)
    #: by id, of ended trials that were not migrated from another study
    times: dict[int, TimedTrial] = field(default_factory=dict)
    _progress: ReadProgress = field(default_factory=ReadProgress)

    def read(self, connection: Connection, study_id: int) -> None:
        """Bring both up to date, with one statement."""
        states: dict[int, TrialState] = {}
        found: dict[int, dict[str, Any]] = {}
        for trial_id, state, key, text in connection.execute(_stored_measurements(self._progress.unread(study_id))):
            states[trial_id] = state
            if key is not None and text is not None:
                found.setdefault(trial_id, {})[key] = optuna_private.decoded(text)
        self.probes |= {trial_id: probe for trial_id, values in found.items() if (probe := _probe(values)) is not None}
        ended = {trial_id: values for trial_id, values in found.items() if states[trial_id] in _ENDED}
        self.times |= {trial_id: timed for trial_id, values in ended.items() if (timed := _timed(values)) is not None}
        self._progress.advance(states.items())


def _stored_measurements(is_unread: ColumnElement[bool]) -> CompoundSelect[int, TrialState, str | None, str | None]:
    """Return the query for the attributes of trials that `Measurements` reads; a trial without any has one row without a key."""
    wanted = (PROBE_VALUE, PROMOTED, WORKER, PROBE_SECONDS, FINE_TUNE_SECONDS, NUM_EPOCHS, CARRIED_FROM)
    user, system = TRIAL_USER.c, TRIAL_SYSTEM.c
    of_user = select(TRIALS.c.trial_id, TRIALS.c.state, user.key, user.value_json)
    of_user = of_user.outerjoin(TRIAL_USER, (user.trial_id == TRIALS.c.trial_id) & user.key.in_(wanted)).where(is_unread)
    of_system = select(TRIALS.c.trial_id, TRIALS.c.state, system.key, system.value_json)
    of_system = of_system.join(TRIAL_SYSTEM, (system.trial_id == TRIALS.c.trial_id) & (system.key == HYPERPARAMETERS)).where(is_unread)
    return union_all(of_user, of_system)


def _probe(values: Mapping[str, Any]) -> tuple[float, bool] | None:
    """Return the value of a trial's probe, and whether it was promoted; None if it has not been decided."""
    value, went_on = values.get(PROBE_VALUE), values.get(PROMOTED)
    return (value, went_on) if isinstance(value, int | float) and isinstance(went_on, bool) else None


def _timed(values: Mapping[str, Any]) -> TimedTrial | None:
    """Return the times in a trial's attributes; None without them, or if they were measured elsewhere."""
    chosen = values.get(HYPERPARAMETERS)
    times = [values.get(name) for name in (PROBE_SECONDS, FINE_TUNE_SECONDS, NUM_EPOCHS)]
    if CARRIED_FROM in values or not isinstance(chosen, Mapping) or not all(isinstance(time, int | float) for time in times):
        return None
    return TimedTrial(
        worker=str(values.get(WORKER, "")),
        backbone=chosen.get("backbone"),
        image_size=chosen.get("image_size"),
        unfreeze=chosen.get("unfreeze", 1.0),
        probe_seconds=values[PROBE_SECONDS],
        fine_tune_seconds=values[FINE_TUNE_SECONDS],
        num_epochs=values[NUM_EPOCHS],
        is_probed_exactly=chosen.get("probe_solver", ProbeSolver.SGD) != ProbeSolver.SGD and not chosen.get("head_units"),
    )


@dataclass
class BusyTime:
    """The time during which at least one worker of a study was working."""

    #: of attempts that ended before any attempt that can still be added
    _settled_seconds: float = 0.0
    #: start and end of later attempts that have ended
    _ended: list[tuple[float, float]] = field(default_factory=list)
    _progress: ReadProgress = field(default_factory=ReadProgress)

    def read(self, connection: Connection, study_id: int) -> float:
        """Return the seconds up to now; time during which several workers worked counts once."""
        stop = func.coalesce(LEASES.c.ended_at, LEASES.c.seen_at)
        is_of_trial = and_(LEASES.c.study_id == TRIALS.c.study_id, LEASES.c.trial_number == TRIALS.c.number)
        query = select(TRIALS.c.trial_id, TRIALS.c.state, LEASES.c.started_at, stop).outerjoin(LEASES, is_of_trial)
        rows = connection.execute(query.where(self._progress.unread(study_id))).all()
        attempts = [(state.is_finished(), (start, stop)) for _, state, start, stop in rows if start is not None]
        ended = budget.union([*self._ended, *(attempt for is_ended, attempt in attempts if is_ended)])
        running = [attempt for is_ended, attempt in attempts if not is_ended]
        settled_until = min((start for start, _ in running or ended[-1:]), default=0.0) - _OVERLAP_SECONDS
        self._settled_seconds += sum(stop - start for start, stop in ended if stop < settled_until)
        self._ended = [(start, stop) for start, stop in ended if stop >= settled_until]
        self._progress.advance((trial_id, state) for trial_id, state, *_ in rows)
        return self._settled_seconds + budget.busy_seconds([*self._ended, *running])


@dataclass
class StudyMemory:
    """Everything that one thread has read of a study."""

    history: SamplerHistory = field(default_factory=SamplerHistory)
    measured: Measurements = field(default_factory=Measurements)
    busy_time: BusyTime = field(default_factory=BusyTime)
    #: id of the trial whose values were stored last, and the distributions of its parameters
    suggested: tuple[int, Mapping[str, BaseDistribution]] | None = None
    is_loaded: bool = False

    def load(self, connection: Connection, study_id: int) -> None:
        """Read a study for the first time: call it without a lock, because a large study takes a while."""
        self.busy_time.read(connection, study_id)
        self.measured.read(connection, study_id)
        self.is_loaded = True


def running_trial(connection: Connection, trial_id: int) -> FrozenTrial:
    """Return a running trial with the parameters that are chosen so far."""
    number, state = connection.execute(select(TRIALS.c.number, TRIALS.c.state).where(TRIALS.c.trial_id == trial_id)).one()
    return _load(connection, [_Outline(trial_id=trial_id, number=number, state=state, value=None)])[0]


def without_parameters(*, trial_id: int, number: int) -> FrozenTrial:
    """Return a running trial as a pruner needs it: with its number only."""
    return _trial(_Outline(trial_id=trial_id, number=number, state=TrialState.RUNNING, value=None), {}, None)


def best_trials(connection: Connection, study_id: int, *, max_trials: int) -> list[FrozenTrial]:
    """Return the completed trials with the best finite values, the best first."""
    rows = connection.execute(queries.ranked(study_id).limit(max_trials))
    found = [_Outline(trial_id=row[0], number=row[1], state=TrialState.COMPLETE, value=row[2]) for row in rows]
    return _load(connection, found)


def completed_at_step(connection: Connection, study_id: int, step: int) -> list[FrozenTrial]:
    """Return the completed trials, each with only the value that it had at a step."""
    reported = (INTERMEDIATE.c.trial_id == TRIALS.c.trial_id) & (INTERMEDIATE.c.step == step)
    query = select(TRIALS.c.trial_id, TRIALS.c.number, TRIALS.c.state, INTERMEDIATE.c.intermediate_value).outerjoin(INTERMEDIATE, reported)
    rows = connection.execute(query.where(TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.COMPLETE))
    return [
        _trial(_Outline(trial_id=trial_id, number=number, state=state, value=None), {}, None if value is None else (step, value))
        for trial_id, number, state, value in rows
    ]


def _constraints(connection: Connection, outlines: Sequence[_Outline]) -> dict[int, dict[str, Any]]:
    """Return the system attributes with the constraints of some trials."""
    columns = TRIAL_SYSTEM.c
    query = select(columns.trial_id, columns.key, columns.value_json)
    query = query.where(columns.key.startswith(optuna_private.CONSTRAINTS, autoescape=True))
    found: dict[int, dict[str, Any]] = {}
    for some in _batches([outline.trial_id for outline in outlines]):
        for trial_id, key, text in connection.execute(query.where(columns.trial_id.in_(some))):
            value = optuna_private.decoded(text)
            if isinstance(value, int | float):
                found.setdefault(trial_id, {})[key] = value
    return found


def _load(
    connection: Connection, outlines: Sequence[_Outline], *, constraints: Mapping[int, Mapping[str, Any]] | None = None
) -> list[FrozenTrial]:
    """Return trials with what TPE reads: parameters, value, constraints and, for pruned trials, the last step."""
    parameters = _parameters(connection, [outline.trial_id for outline in outlines])
    last_steps = _last_steps(connection, [outline.trial_id for outline in outlines if outline.state is TrialState.PRUNED])
    limits = constraints or {}
    return [_trial(one, parameters.get(one.trial_id, {}), last_steps.get(one.trial_id), limits.get(one.trial_id, {})) for one in outlines]


def _trial(
    outline: _Outline,
    parameters: Mapping[str, tuple[float, str]],
    last_step: tuple[int, float] | None,
    constraints: Mapping[str, Any] | None = None,
) -> FrozenTrial:
    known = optuna_private.readable_parameters(parameters.items())
    distributions = {name: distribution for name, (_, distribution) in known.items()}
    return FrozenTrial(
        number=outline.number,
        trial_id=outline.trial_id,
        state=outline.state,
        value=outline.value,
        datetime_start=None,
        datetime_complete=None,
        params={name: distributions[name].to_external_repr(value) for name, (value, _) in known.items()},
        distributions=distributions,
        user_attrs={},
        system_attrs=dict(constraints or {}),
        intermediate_values={} if last_step is None else dict([last_step]),
    )


def _parameters(connection: Connection, trial_ids: Sequence[int]) -> dict[int, dict[str, tuple[float, str]]]:
    """Return value and distribution of each parameter of some trials as stored, in the order in which they were chosen."""
    columns = PARAMETERS.c
    query = select(columns.trial_id, columns.param_name, columns.param_value, columns.distribution_json).order_by(columns.param_id)
    found: dict[int, dict[str, tuple[float, str]]] = {}
    for some in _batches(trial_ids):
        for trial_id, name, value, distribution in connection.execute(query.where(columns.trial_id.in_(some))):
            found.setdefault(trial_id, {})[name] = (value, distribution)
    return found


def _last_steps(connection: Connection, trial_ids: Sequence[int]) -> dict[int, tuple[int, float]]:
    """Return the last step that each of some trials reported, with its value."""
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
