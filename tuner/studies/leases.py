"""Who may work on a trial: one worker at a time, for as long as it is seen alive, by the database's clock."""

import contextlib
import math
import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import psutil
from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Connection, Row, exists, func, insert, select, update

from tuner.storage import tables
from tuner.storage.tables import LEASES, TRIALS

#: a worker that was not seen for this long is given up; beats come several times as often
LEASE_SECONDS = 60.0
#: the same for a worker whose process is seen to live on this host: it may only have been cut off from the database
PATIENCE_SECONDS = 600.0
#: how long a storage must be back before silence counts again: when it was away, no one could be seen
GRACE_SECONDS = 30.0
#: difference of two readings of one process's start that is still the same process: they go by the time of the boot, which is known in
#: whole seconds and moves when the clock is set; no system gives a number to another process so soon
_START_TOLERANCE_SECONDS = 5.0


class LeaseEnding(StrEnum):
    """How an attempt came to its end."""

    COMPLETED = "completed"
    PRUNED = "pruned"
    FAILED = "failed"
    #: handed back for later
    RELEASED = "released"
    #: the worker is gone
    LOST = "lost"
    #: a worker that was given up came back with the trial's result
    SUPERSEDED = "superseded"

    @property
    def is_result(self) -> bool:
        """Whether the trial ended with it."""
        return self in (LeaseEnding.COMPLETED, LeaseEnding.PRUNED, LeaseEnding.FAILED)


@dataclass(frozen=True, kw_only=True)
class WorkerId:
    """One worker process, told apart from all others that there were or will be."""

    #: unique
    key: str
    #: for people: host and name
    name: str
    #: where `pid` means this process: boot and process namespace
    namespace: str
    pid: int
    #: seconds since the epoch by the host's clock
    process_started: float

    @classmethod
    def here(cls, name: str) -> Self:
        """A worker in this process; `name` tells it from others of this host."""
        return cls(
            key=secrets.token_hex(8),
            name=f"{socket.gethostname()}/{name}"[:200],
            namespace=_namespace(),
            pid=os.getpid(),
            process_started=psutil.Process().create_time(),
        )


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right of a worker to a trial."""

    trial_number: int
    trial_id: int
    #: counted from 1
    attempt: int
    worker_key: str
    worker: str
    namespace: str
    pid: int
    process_started: float
    #: seconds since the epoch by the database's clock
    started_at: float
    seen_at: float
    ended_at: float | None
    ending: str

    def is_live(self, now: float) -> bool:
        """Return whether the lease has not ended and its worker was seen within the length of a lease."""
        return self.ended_at is None and self.seen_at + LEASE_SECONDS >= now

    def is_vacant(self, worker: WorkerId, now: float, *, steady_seconds: float = math.inf) -> bool:
        """Whether `worker` may take the trial up: it was handed back, or whoever had it is gone.

        `steady_seconds` is how long this worker has reached the storage without a gap.
        """
        if self.ended_at is not None:
            return True
        is_near = self.namespace == worker.namespace
        if is_near and not _is_alive(self.pid, self.process_started):
            return True
        return self.seen_at + (PATIENCE_SECONDS if is_near else LEASE_SECONDS) < now and steady_seconds >= GRACE_SECONDS


def grant(connection: Connection, study_id: int, worker: WorkerId, *, trial_number: int, trial_id: int, attempt: int) -> None:
    """Entitle a worker to a trial from now on. The study must be locked."""
    moment = tables.now(connection)
    row = insert(LEASES).values(
        study_id=study_id,
        trial_number=trial_number,
        trial_id=trial_id,
        attempt=attempt,
        worker_key=worker.key,
        worker=worker.name,
        namespace=worker.namespace,
        pid=worker.pid,
        process_started=worker.process_started,
        started_at=moment,
        seen_at=moment,
    )
    connection.execute(row)


def of_running_trials(connection: Connection, study_id: int) -> list[Lease]:
    """The last lease of each running trial, in the order of the trials."""
    running = select(TRIALS.c.number).where(TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.RUNNING)
    # not a join: without an index on trials' numbers it takes time that grows with the square of the trials
    query = select(LEASES).where(LEASES.c.study_id == study_id, LEASES.c.trial_number.in_(running))
    last = {row.trial_number: _lease(row) for row in connection.execute(query.order_by(LEASES.c.trial_number, LEASES.c.attempt))}
    return list(last.values())


def open_ones(connection: Connection, study_id: int) -> list[tuple[Lease, float]]:
    """Every lease that has not ended, and the database's time, in one statement."""
    query = select(LEASES, tables.now(connection).label("now")).where(LEASES.c.study_id == study_id, LEASES.c.ended_at.is_(None))
    return [(_lease(row), float(row.now)) for row in connection.execute(query.order_by(LEASES.c.trial_number, LEASES.c.attempt))]


def find(connection: Connection, study_id: int, *, trial_number: int, attempt: int, worker_key: str) -> Lease | None:
    """The lease of an attempt, whether it has ended or not; None if this study knows no such attempt."""
    is_it = _is_attempt(study_id, trial_number, attempt, worker_key)
    row = connection.execute(select(LEASES).where(*is_it)).first()
    return None if row is None else _lease(row)


def lost(connection: Connection, study_id: int, trial_number: int) -> list[Lease]:
    """The attempts of a trial whose worker was lost, in order."""
    is_lost = (LEASES.c.study_id == study_id, LEASES.c.trial_number == trial_number, LEASES.c.ending == LeaseEnding.LOST)
    return [_lease(row) for row in connection.execute(select(LEASES).where(*is_lost).order_by(LEASES.c.attempt))]


def hold(connection: Connection, study_id: int, *, trial_number: int, attempt: int, worker_key: str) -> bool:
    """Renew a lease; False if it has ended, because another worker has the trial now, or if the trial was ended by hand."""
    is_ours = _is_open(study_id, trial_number, attempt, worker_key)
    # the one trial is looked up, not all that run: a study has one row for each trial it ever had
    is_running = exists().where(TRIALS.c.trial_id == LEASES.c.trial_id, TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.RUNNING)
    change = update(LEASES).where(*is_ours, is_running).values(seen_at=tables.now(connection))
    return connection.execute(change).rowcount == 1


def end(
    connection: Connection, study_id: int, *, trial_number: int, attempt: int, worker_key: str, ending: LeaseEnding, error: str = ""
) -> bool:
    """End a lease; False if it had ended already. A lost worker's ends when it was last seen."""
    is_ours = _is_open(study_id, trial_number, attempt, worker_key)
    ended_at = LEASES.c.seen_at if ending is LeaseEnding.LOST else tables.now(connection)
    change = update(LEASES).where(*is_ours).values(ended_at=ended_at, ending=ending, error=error[:200])
    return connection.execute(change).rowcount == 1


def is_held(connection: Connection, study_id: int, trial_number: int) -> bool:
    """Whether any worker is entitled to a trial. The study must be locked."""
    is_open = (LEASES.c.study_id == study_id, LEASES.c.trial_number == trial_number, LEASES.c.ended_at.is_(None))
    return connection.execute(select(LEASES.c.attempt).where(*is_open)).first() is not None


def close(connection: Connection, study_id: int, trial_number: int, ending: LeaseEnding) -> None:
    """End whatever lease of a trial is open. The study must be locked."""
    is_open = (LEASES.c.study_id == study_id, LEASES.c.trial_number == trial_number, LEASES.c.ended_at.is_(None))
    connection.execute(update(LEASES).where(*is_open).values(ended_at=tables.now(connection), ending=ending))


def mark(connection: Connection, study_id: int, *, trial_number: int, attempt: int, ending: LeaseEnding, error: str = "") -> None:
    """Say of an attempt that has ended how it ended after all; when it ended stays as it was."""
    is_it = (LEASES.c.study_id == study_id, LEASES.c.trial_number == trial_number, LEASES.c.attempt == attempt)
    connection.execute(update(LEASES).where(*is_it).values(ending=ending, error=error[:200]))


def renew(connection: Connection, study_id: int, worker: WorkerId) -> int:
    """Renew all leases of a worker; how many there are."""
    is_ours = (LEASES.c.study_id == study_id, LEASES.c.worker_key == worker.key, LEASES.c.ended_at.is_(None))
    return connection.execute(update(LEASES).where(*is_ours).values(seen_at=tables.now(connection))).rowcount


def intervals(connection: Connection, study_id: int) -> list[tuple[float, float]]:
    """Start and end of every attempt; of a running one, when its worker was last seen."""
    end_or_seen = func.coalesce(LEASES.c.ended_at, LEASES.c.seen_at)
    rows = connection.execute(select(LEASES.c.started_at, end_or_seen).where(LEASES.c.study_id == study_id))
    return [(start, end) for start, end in rows]


def count_workers(connection: Connection) -> int:
    """Workers of any study that hold a trial and were seen within the length of a lease."""
    return int(connection.execute(select(func.count(LEASES.c.worker_key.distinct())).where(*live(tables.now(connection)))).scalar_one())


def live(now: ColumnElement[float] | float) -> tuple[ColumnElement[bool], ...]:
    """Return the condition that a lease has not ended and its worker was seen within the length of a lease."""
    return LEASES.c.ended_at.is_(None), LEASES.c.seen_at >= now - LEASE_SECONDS


def last_results(connection: Connection, study_id: int, *, count: int, since: float) -> Sequence[tuple[str, str]]:
    """Ending and error of the trials that ended last, the latest first."""
    endings = [LeaseEnding.COMPLETED, LeaseEnding.PRUNED, LeaseEnding.FAILED]
    query = select(LEASES.c.ending, LEASES.c.error).where(
        LEASES.c.study_id == study_id, LEASES.c.ending.in_(endings), LEASES.c.ended_at > since
    )
    return [(ending, error) for ending, error in connection.execute(query.order_by(LEASES.c.ended_at.desc()).limit(count))]


def _is_open(study_id: int, trial_number: int, attempt: int, worker_key: str) -> tuple[ColumnElement[bool], ...]:
    return (*_is_attempt(study_id, trial_number, attempt, worker_key), LEASES.c.ended_at.is_(None))


def _is_attempt(study_id: int, trial_number: int, attempt: int, worker_key: str) -> tuple[ColumnElement[bool], ...]:
    return (
        LEASES.c.study_id == study_id,
        LEASES.c.trial_number == trial_number,
        LEASES.c.attempt == attempt,
        LEASES.c.worker_key == worker_key,
    )


def _lease(row: Row[Any]) -> Lease:
    fields = row._asdict()
    return Lease(**{name: fields[name] for name in Lease.__dataclass_fields__})


def _namespace() -> str:
    """Where process numbers mean what they mean here; a restarted host and another container are other places."""
    places = [socket.gethostname()]
    with contextlib.suppress(OSError):
        places.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        places.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(places)[:200]


def _is_alive(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < _START_TOLERANCE_SECONDS and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
