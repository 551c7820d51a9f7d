"""Status: a snapshot of a study, cheap enough to be read twice a second, and its failures by kind."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Connection, Table, and_, func, select

from tuner.protocol.messages import Stage
from tuner.spec import budget, plan
from tuner.storage import epochs, optuna_private, queries, tables
from tuner.storage.attributes import ERROR, LEFT_OUT, LOG, MESSAGE
from tuner.storage.queries import VALUED
from tuner.storage.tables import EPOCHS, INTERMEDIATE, TRIAL_SYSTEM, TRIAL_USER, TRIALS
from tuner.studies import leases, planning
from tuner.studies import progress as studies_progress
from tuner.studies.leases import Lease
from tuner.studies.study import Study
from tuner.views import outlook

#: maximum number of kinds of failure, the most frequent first
_MAX_FAILURES = 10


@dataclass(frozen=True, kw_only=True)
class RunningTrial:
    """A trial that a worker is training."""

    number: int
    worker: str
    #: None if no epoch is reported yet
    stage: Stage | None
    #: last reported epoch, counted from 1 through both stages; the number of epochs if there are several trainings; None if none is
    epoch: int | None
    #: best value so far; with folds, the mean over the folds so far
    value: float | None
    #: seconds since the attempt began
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state of a study at one moment."""

    running: tuple[RunningTrial, ...]
    #: running trials without a worker, which wait to be resumed
    num_waiting: int
    #: enqueued trials that no worker has started
    num_enqueued: int
    num_completed: int
    num_pruned: int
    num_failed: int
    #: best value of a completed trial; None if no trial has completed
    best_value: float | None
    best_number: int | None
    #: the searched hyperparameters of the best trial
    best_parameters: Mapping[str, Any]
    #: seconds in which at least one worker was training
    busy_seconds: float
    #: seconds of work of all workers in each stage
    probe_seconds: float
    fine_tune_seconds: float
    #: seconds until the budget is spent at the pace so far; None if unknown
    eta_seconds: float | None
    #: why no further trial starts; None if one may start
    stop_reason: str | None
    #: why running trials without a worker are not resumed either; None if they are
    end_reason: str | None
    #: who stopped the study; None if nobody did
    halted_by: str | None
    #: backbones and image sizes that no further trial chooses, each with its reason
    left_out: tuple[str, ...] = ()
    #: ended trials that were migrated from another study; the budget does not count them
    num_carried: int = 0
    #: name of that study; "" if there is none
    carried_from: str = ""
    #: what was planned with the timeout and what became of it, as pairs of a name and a text
    time_plan: tuple[tuple[str, str], ...] = ()
    #: seconds of work of all workers in trials of one stage only
    train_seconds: float = 0.0

    @property
    def num_ended(self) -> int:
        """Number of ended trials."""
        return self.num_completed + self.num_pruned + self.num_failed

    @property
    def num_spent(self) -> int:
        """Number of ended trials that the budget counts."""
        return self.num_ended - self.num_carried

    @property
    def is_over(self) -> bool:
        """Whether no trial is left to start, resume or finish."""
        return self.end_reason is not None or (self.stop_reason is not None and not self.running and not self.num_waiting)


def snapshot(study: Study) -> Snapshot:
    """Return a snapshot of a study, in a few statements."""
    return study.storage.read(lambda connection: _read(connection, study))


def best_curve(study: Study) -> list[float]:
    """Return the best value of the study after each completed trial, in the order in which the trials ended.

    MariaDB stores that time in seconds, so trials that ended in the same second are in the order of their numbers.
    """
    query = select(VALUED.c.value).join(TRIALS, TRIALS.c.trial_id == VALUED.c.trial_id)
    query = query.where(VALUED.c.study_id == study.id, VALUED.c.state == TrialState.COMPLETE, queries.is_feasible(study.id))
    query = query.order_by(TRIALS.c.datetime_complete, TRIALS.c.number)
    values = study.storage.read(lambda connection: connection.execute(query).scalars().all())
    return list(itertools.accumulate(values, lambda best, value: max(best, value, key=study.spec.objective.merit)))


def _read(connection: Connection, study: Study) -> Snapshot:
    state = studies_progress.read_state(connection, study)
    study, progress, counts, best = state.study, state.progress, state.counts, state.best
    now = tables.clock(connection)
    live = [lease for lease in leases.of_running_trials(connection, study.id) if lease.is_live(now)]
    num_ended = sum(counts.get(ending, 0) for ending in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    seconds = _stage_seconds(connection, study.id)
    known = tables.get(connection, tables.STUDY_USER, study.id, *planning.TOLD)
    return Snapshot(
        running=tuple(_running(connection, live, study, now)),
        num_waiting=counts.get(TrialState.RUNNING, 0) - len(live),
        num_enqueued=progress.num_enqueued,
        num_completed=counts.get(TrialState.COMPLETE, 0),
        num_pruned=counts.get(TrialState.PRUNED, 0),
        num_failed=counts.get(TrialState.FAIL, 0),
        best_value=progress.best_value,
        best_number=None if best is None else best.number,
        best_parameters={} if best is None else tables.parameters(connection, best.trial_id),
        busy_seconds=progress.busy_seconds,
        probe_seconds=seconds.get(Stage.PROBE, 0.0),
        fine_tune_seconds=seconds.get(Stage.FINE_TUNE, 0.0),
        eta_seconds=outlook.seconds_left(
            study.spec.budget,
            num_ended=num_ended - progress.num_carried,
            busy_seconds=progress.busy_seconds,
            num_combinations=progress.num_combinations,
        ),
        stop_reason=budget.decide(study.spec.budget, progress),
        end_reason=budget.decide_to_end(study.spec.budget, progress),
        halted_by=progress.halted,
        left_out=_left_out(connection, study),
        num_carried=progress.num_carried,
        carried_from=study.carried_from,
        time_plan=tuple(planning.told(known, timeout=study.spec.budget.timeout, busy_seconds=progress.busy_seconds)),
        train_seconds=seconds.get(Stage.TRAIN, 0.0),
    )


def _left_out(connection: Connection, study: Study) -> tuple[str, ...]:
    if not study.searches_models:
        return ()
    return tuple(plan.models_left_out(tables.get(connection, tables.STUDY_USER, study.id, LEFT_OUT).get(LEFT_OUT)))


def _running(connection: Connection, open_leases: Sequence[Lease], study: Study, now: float) -> list[RunningTrial]:
    if not open_leases:
        return []
    probe_epochs, later = study.spec.probe_epochs, Stage.FINE_TUNE if study.spec.probe_epochs else Stage.TRAIN
    counts_epochs = bool(plan.trainings(study.spec))
    last = _last_reports(connection, [lease.trial_id for lease in open_leases], study)
    found = []
    for lease in open_leases:
        step, num_epochs, value = last.get(lease.trial_id, (None, None, None))
        value = value if epochs.is_measured(value) else None
        stage = None if step is None else Stage.PROBE if step <= probe_epochs and later is Stage.FINE_TUNE else later
        seconds, epoch = max(0.0, now - lease.started_at), num_epochs if counts_epochs else step
        found.append(RunningTrial(number=lease.trial_number, worker=lease.worker, stage=stage, epoch=epoch, value=value, seconds=seconds))
    return found


def _last_reports(connection: Connection, trial_ids: Sequence[int], study: Study) -> dict[int, tuple[int, int, float | None]]:
    """Return the last step of each trial that has reported one, the number of its reports, and its value so far."""
    reported = INTERMEDIATE.c
    extreme = func.max if study.spec.objective.maximizes else func.min
    query = select(reported.trial_id, func.max(reported.step).label("step"), func.count(), extreme(reported.intermediate_value))
    query = query.where(reported.trial_id.in_(trial_ids)).group_by(reported.trial_id)
    if study.spec.num_folds > 1:
        ends = query.subquery()
        is_last = and_(reported.trial_id == ends.c.trial_id, reported.step == ends.c.step)
        query = select(*list(ends.c)[:3], reported.intermediate_value).join(INTERMEDIATE, is_last)
    return {trial_id: (step, num, value) for trial_id, step, num, value in connection.execute(query)}


def _stage_seconds(connection: Connection, study_id: int) -> dict[str, float]:
    query = select(EPOCHS.c.stage, func.sum(EPOCHS.c.seconds)).where(EPOCHS.c.study_id == study_id).group_by(EPOCHS.c.stage)
    return {stage: seconds or 0.0 for stage, seconds in connection.execute(query)}


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


def failures(connection: Connection, study_id: int) -> list[FailedTrials]:
    """Return the failures of a study by kind, the most frequent kind first; of equally frequent ones, the latest."""
    is_error = and_(TRIAL_USER.c.trial_id == TRIALS.c.trial_id, TRIAL_USER.c.key == ERROR)
    query = (
        select(TRIAL_USER.c.value_json, func.count().label("num"), func.max(TRIALS.c.number))
        .select_from(TRIALS.outerjoin(TRIAL_USER, is_error))
        .where(TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.FAIL)
        .group_by(TRIAL_USER.c.value_json)
        .order_by(func.count().desc(), func.max(TRIALS.c.number).desc())
        .limit(_MAX_FAILURES)
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
    value: Any = None if stored is None else optuna_private.decoded(stored)
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)
