"""Reaper: frees the trials of lost workers, and fails a trial that has lost too many workers."""

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection

from tuner.protocol import failure_table, messages
from tuner.storage import attributes, tables
from tuner.studies import endings, leases
from tuner.studies.leases import Lease, LeaseEnding, WorkerId
from tuner.studies.study import Study

#: whether the worker of an open lease is lost: arguments are the lease, the worker that asks, and the database's time
IsGone = Callable[[Lease, WorkerId, float], bool]


@dataclass(frozen=True, kw_only=True)
class Reaped:
    """A trial whose worker is lost."""

    trial: int
    #: the lost worker
    worker: str
    #: seconds since the worker was seen
    silent_seconds: float
    #: whether the trial has failed because it lost too many workers
    is_failed: bool


def reap(study: Study, worker: WorkerId, *, is_gone: IsGone | None = None) -> list[Reaped]:
    """End the leases of lost workers at their last heartbeat. If no worker is lost, this costs one statement.

    `is_gone` replaces a worker's own rule for which workers are lost.
    """
    judge = is_gone or partial(_is_lost, study)
    if not study.storage.read(lambda connection: _gone(connection, study, worker, judge)):
        return []

    def write(connection: Connection) -> list[Reaped]:
        tables.lock_study(connection, study.id, study.name)
        gone = _gone(connection, study, worker, judge)
        return [
            Reaped(trial=lease.trial_number, worker=lease.worker, silent_seconds=silent, is_failed=lose(connection, study, lease))
            for lease, silent in gone
        ]

    return study.storage.write(write)


def lose(connection: Connection, study: Study, lease: Lease) -> bool:
    """End the lease of a lost worker, and return whether its trial has failed with that. The study must be locked."""
    leases.end(
        connection,
        study.id,
        trial_number=lease.trial_number,
        attempt=lease.attempt,
        worker_key=lease.worker_key,
        ending=LeaseEnding.LOST,
    )
    lost = leases.lost(connection, study.id, lease.trial_number)
    if len(lost) < failure_table.MAX_LOSSES or not tables.is_running(connection, study.id, lease.trial_id):
        return False
    failed = messages.Failed(trial=lease.trial_number, error="WorkerLost", message=_history(lost))
    known = endings.of_failed(failed) | {attributes.ATTEMPTS: lease.attempt}
    endings.mark_failed(connection, study, trial_id=lease.trial_id, known=known)
    leases.mark(connection, study.id, trial_number=lease.trial_number, attempt=lease.attempt, ending=LeaseEnding.FAILED, error=failed.error)
    endings.stop_if_hopeless(connection, study, failed)
    return True


def _is_lost(study: Study, lease: Lease, worker: WorkerId, now: float) -> bool:
    # asked for each lease, after the time was read: this process may have slept since
    return lease.is_vacant(worker, now, steady_seconds=study.storage.steady_seconds())


def _gone(connection: Connection, study: Study, worker: WorkerId, is_gone: IsGone) -> list[tuple[Lease, float]]:
    """Return the leases of lost workers, and the seconds since each worker was last seen."""
    return [
        (lease, now - lease.seen_at)
        for lease, now in leases.open_ones(connection, study.id)
        if lease.worker_key != worker.key and is_gone(lease, worker, now)
    ]


def _history(lost: Sequence[Lease]) -> str:
    attempts = [f"attempt {lease.attempt} by {lease.worker}, last seen {_moment(lease.seen_at)}" for lease in lost]
    return (
        f"its worker was lost {len(lost)} times: {'; '.join(attempts)}. Check the logs of these workers, and whether they ran out of memory"
    )


def _moment(seconds: float) -> str:
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%d %H:%M:%S} UTC"
