"""A study in the storage into one look at how it stands, cheap enough for twice a second."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Connection, func, select

from tuner.protocol.messages import Stage
from tuner.spec import budget
from tuner.spec.budget import StudyProgress
from tuner.storage import tables
from tuner.storage.tables import EPOCHS, INTERMEDIATE, STUDY_USER, TRIALS, VALUES
from tuner.studies import leases
from tuner.studies import study as studies
from tuner.studies.leases import LEASE_SECONDS, Lease
from tuner.studies.study import HALTED, STOPPED, Study


@dataclass(frozen=True, kw_only=True)
class RunningTrial:
    """A trial that some worker has at hand."""

    number: int
    worker: str
    #: None: no epoch is reported yet
    stage: Stage | None
    #: last epoch reported, counted from 1 through both stages; None: none yet
    epoch: int | None
    #: best validation accuracy so far
    value: float | None
    #: since this attempt began
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """How a study stands."""

    running: tuple[RunningTrial, ...]
    #: trials that were begun and wait to be taken up again
    num_waiting: int
    #: trials that someone enqueued and that no worker has begun
    num_enqueued: int
    num_completed: int
    num_pruned: int
    num_failed: int
    #: best validation accuracy of a completed trial
    best_value: float | None
    best_number: int | None
    #: the searched hyperparameters of the best trial; of trial 0 they are the rule's
    best_parameters: Mapping[str, Any]
    #: time in which some worker was at work
    busy_seconds: float
    #: work of all workers in each stage
    probe_seconds: float
    fine_tune_seconds: float
    #: until the budget is spent, at the pace so far; None: not known
    eta_seconds: float | None
    #: why no further trial starts; None if one may
    stop_reason: str | None
    #: who stopped the study; None: no one
    halted_by: str | None
    #: trials among those that ended which were carried over from another study; the budget counts the others
    num_carried: int = 0
    #: that study; "" if there is none
    carried_from: str = ""

    @property
    def num_ended(self) -> int:
        """Trials in their last state."""
        return self.num_completed + self.num_pruned + self.num_failed

    @property
    def num_spent(self) -> int:
        """The same less those that were carried over."""
        return self.num_ended - self.num_carried


def snapshot(study: Study) -> Snapshot:
    """How a study stands now, in a few statements."""
    return study.storage.read(lambda connection: _read(connection, study))


def best_curve(study: Study) -> list[float]:
    """The best value of the study after each completed trial, in the order of their ends."""
    query = select(VALUES.c.value).join(TRIALS, TRIALS.c.trial_id == VALUES.c.trial_id)
    query = query.where(TRIALS.c.study_id == study.id, TRIALS.c.state == TrialState.COMPLETE).order_by(TRIALS.c.datetime_complete)
    values = study.storage.read(lambda connection: connection.execute(query).scalars().all())
    return list(itertools.accumulate((value for value in values if value is not None), max))


def _read(connection: Connection, study: Study) -> Snapshot:
    study = studies.up_to_date(connection, study)
    counts = _counts(connection, study.id)
    now = tables.clock(connection)
    open_leases = [lease for lease in leases.of_running_trials(connection, study.id) if _is_held(lease, now)]
    best = _best(connection, study.id)
    busy = study.memory.work.read(connection, study.id)
    num_ended = sum(counts.get(state, 0) for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    reasons = tables.get(connection, STUDY_USER, study.id, STOPPED, HALTED)
    standing = StudyProgress(
        num_trials=sum(counts.values()),
        best_value=best[1] if best else None,
        busy_seconds=busy,
        stopped=reasons.get(STOPPED),
        halted=(reasons.get(HALTED) or {}).get("by"),
        num_enqueued=counts.get(TrialState.WAITING, 0),
        num_combinations=None if study.combinations is None else len(study.combinations),
        num_carried=study.num_carried,
    )
    stages = _stage_seconds(connection, study.id)
    return Snapshot(
        running=tuple(_running(connection, open_leases, study.spec.training.probe_epochs, now)),
        num_waiting=counts.get(TrialState.RUNNING, 0) - len(open_leases),
        num_enqueued=standing.num_enqueued,
        num_completed=counts.get(TrialState.COMPLETE, 0),
        num_pruned=counts.get(TrialState.PRUNED, 0),
        num_failed=counts.get(TrialState.FAIL, 0),
        best_value=standing.best_value,
        best_number=best[2] if best else None,
        best_parameters=tables.parameters(connection, best[0]) if best else {},
        busy_seconds=busy,
        probe_seconds=stages.get(Stage.PROBE, 0.0),
        fine_tune_seconds=stages.get(Stage.FINE_TUNE, 0.0),
        eta_seconds=_eta(study, num_ended=num_ended - study.num_carried, busy=busy),
        stop_reason=budget.decide(study.spec.budget, standing),
        halted_by=standing.halted,
        num_carried=study.num_carried,
        carried_from=study.carried_from,
    )


def _counts(connection: Connection, study_id: int) -> dict[TrialState, int]:
    query = select(TRIALS.c.state, func.count()).where(TRIALS.c.study_id == study_id).group_by(TRIALS.c.state)
    return {row[0]: row[1] for row in connection.execute(query)}


def _best(connection: Connection, study_id: int) -> tuple[int, float, int] | None:
    """Id, value and number of the best completed trial; among equals the earliest."""
    query = (
        select(TRIALS.c.trial_id, VALUES.c.value, TRIALS.c.number)
        .join(VALUES, VALUES.c.trial_id == TRIALS.c.trial_id)
        .where(TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.COMPLETE)
        .order_by(VALUES.c.value.desc(), TRIALS.c.number)
        .limit(1)
    )
    row = connection.execute(query).first()
    return None if row is None else (row[0], row[1], row[2])


def _is_held(lease: Lease, now: float) -> bool:
    return lease.ended_at is None and lease.seen_at + LEASE_SECONDS >= now


def _running(connection: Connection, open_leases: Sequence[Lease], probe_epochs: int, now: float) -> list[RunningTrial]:
    if not open_leases:
        return []
    query = (
        select(INTERMEDIATE.c.trial_id, func.max(INTERMEDIATE.c.step), func.max(INTERMEDIATE.c.intermediate_value))
        .where(INTERMEDIATE.c.trial_id.in_([lease.trial_id for lease in open_leases]))
        .group_by(INTERMEDIATE.c.trial_id)
    )
    last = {trial_id: (step, value) for trial_id, step, value in connection.execute(query)}
    found = []
    for lease in open_leases:
        step, value = last.get(lease.trial_id, (None, None))
        stage = None if step is None else Stage.PROBE if step <= probe_epochs else Stage.FINE_TUNE
        seconds = max(0.0, now - lease.started_at)
        found.append(RunningTrial(number=lease.trial_number, worker=lease.worker, stage=stage, epoch=step, value=value, seconds=seconds))
    return found


def _stage_seconds(connection: Connection, study_id: int) -> dict[str, float]:
    query = select(EPOCHS.c.stage, func.sum(EPOCHS.c.seconds)).where(EPOCHS.c.study_id == study_id).group_by(EPOCHS.c.stage)
    return {stage: seconds or 0.0 for stage, seconds in connection.execute(query)}


def _eta(study: Study, *, num_ended: int, busy: float) -> float | None:
    """Seconds until the trials or the time of the budget are spent, whichever comes first."""
    ends = []
    most = budget.limit(study.spec.budget, None if study.combinations is None else len(study.combinations))
    if most is not None and num_ended:
        ends.append(max(0, most - num_ended) * busy / num_ended)
    if study.spec.budget.timeout is not None:
        ends.append(max(0.0, study.spec.budget.timeout - busy))
    return min(ends) if ends else None
