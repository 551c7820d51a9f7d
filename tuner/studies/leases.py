"""Leases: which worker may train which trial. The lease lasts as long as the worker's heartbeat is recent by the database's clock."""

import contextlib
import functools
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
from sqlalchemy import ColumnElement, Connection, Row, and_, exists, func, insert, or_, select, update

from tuner.errors import RequestError
from tuner.storage import tables
from tuner.storage.tables import LEASES, TRIALS

#: a worker that was silent for this long has lost its lease; heartbeats are several times more frequent
LEASE_SECONDS = 60.0
#: the same for a worker whose process is alive on this host: it may only have lost its connection to the database
PATIENCE_SECONDS = 600.0
#: how long the storage must be reachable again before silence counts: during an outage no heartbeat arrives
GRACE_SECONDS = 30.0
#: time after the end of a lease until the trial of a lost worker certainly counts as vacant
VACANT_MARGIN_SECONDS = 5.0
#: two start times that differ by less belong to one process: they depend on the boot time, which is known in whole seconds and moves
#: when the clock is set; no system reuses a process id so soon
_START_TOLERANCE_SECONDS = 5.0


#: environment variable with `LeaseTiming.lease_seconds`; all workers of a study need the same
VARIABLE = "TUNER_LEASE_SECONDS"


@dataclass(frozen=True, kw_only=True)
class LeaseTiming:
    """How long a worker may be silent."""

    #: a worker of another host that was silent for this long has lost its lease
    lease_seconds: float = LEASE_SECONDS

    @property
    def patience_seconds(self) -> float:
        """The same for a worker whose process is alive on this host."""
        return PATIENCE_SECONDS * self._scale

    @property
    def grace_seconds(self) -> float:
        """How long the storage must be reachable again before silence counts."""
        return GRACE_SECONDS * self._scale

    @property
    def beat_seconds(self) -> float:
        """Time between two heartbeats."""
        return self.lease_seconds / 6

    @property
    def least_sleep_seconds(self) -> float:
        """A shorter sleep of a worker is not noticed."""
        return self.lease_seconds / 12

    @property
    def vacant_seconds(self) -> float:
        """Time after the loss of a worker of another host until any worker may certainly claim its trial."""
        return self.lease_seconds + VACANT_MARGIN_SECONDS * self._scale

    @property
    def _scale(self) -> float:
        return self.lease_seconds / LEASE_SECONDS


def timing() -> LeaseTiming:
    """Return the timing of this process.

    Raises:
        RequestError: the environment variable is not a number of seconds.
    """
    return _timing(os.environ.get(VARIABLE, ""))


@functools.cache
def _timing(text: str) -> LeaseTiming:
    if not text.strip():
        return LeaseTiming()
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 1.0 <= seconds <= 86_400.0:
        raise RequestError(f"{VARIABLE} is {text}; expected a number of seconds from 1 to 86400, the same for all workers of a study")
    return LeaseTiming(lease_seconds=seconds)


class LeaseEnding(StrEnum):
    """Ending of an attempt."""

    COMPLETED = "completed"
    PRUNED = "pruned"
    FAILED = "failed"
    #: suspended; another worker may resume the trial
    RELEASED = "released"
    #: its worker is lost
    LOST = "lost"
    #: an earlier worker, which was thought lost, delivered the trial's result
    SUPERSEDED = "superseded"

    @property
    def is_result(self) -> bool:
        """Whether this ending is the result of the trial."""
        return self in (LeaseEnding.COMPLETED, LeaseEnding.PRUNED, LeaseEnding.FAILED)


@dataclass(frozen=True, kw_only=True)
class WorkerId:
    """The identity of one worker process, different from every earlier and later one."""

    #: unique id
    key: str
    #: host and name, for display
    name: str
    #: where `pid` is valid: boot and process namespace
    namespace: str
    pid: int
    #: seconds since the epoch by the host's clock
    process_started: float

    @classmethod
    def here(cls, name: str) -> Self:
        """Return the identity of a worker in this process; `name` distinguishes workers of one host."""
        return cls(
            key=secrets.token_hex(8),
            name=f"{socket.gethostname()}/{name}"[:200],
            namespace=_namespace(),
            pid=os.getpid(),
            process_started=psutil.Process().create_time(),
        )


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A worker's right to a trial for one attempt."""

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
        return self.ended_at is None and self.seen_at + timing().lease_seconds >= now

    def is_vacant(self, worker: WorkerId, now: float, *, steady_seconds: float = math.inf) -> bool:
        """Return whether `worker` may resume the trial: it was suspended, or its worker is lost.

        `steady_seconds` is how long `worker` has reached the storage without an interruption.
        """
        if self.ended_at is not None:
            return True
        owner = WorkerId(
            key=self.worker_key, name=self.worker, namespace=self.namespace, pid=self.pid, process_started=self.process_started
        )
        return is_lost(owner, worker, silent_seconds=now - self.seen_at, steady_seconds=steady_seconds)


def is_lost(worker: WorkerId, seer: WorkerId, *, silent_seconds: float, steady_seconds: float) -> bool:
    """Return whether a worker is lost as another one sees it: its process on this host has ended, or it was silent for too long.

    `steady_seconds` is how long the seer has reached the storage without an interruption.
    """
    is_near = worker.namespace == seer.namespace
    if is_near and not _is_alive(worker.pid, worker.process_started):
        return True
    limit_seconds = timing().patience_seconds if is_near else timing().lease_seconds
    return silent_seconds > limit_seconds and steady_seconds >= timing().grace_seconds


def grant(connection: Connection, study_id: int, worker: WorkerId, *, trial_number: int, trial_id: int, attempt: int) -> None:
    """Give a worker the lease of a trial from now on. The study must be locked."""
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
    """Return the last lease of each running trial, in the order of the trials."""
    # one statement, so that it sees both tables at one moment: a trial that ends in between would be without a worker.
    # Not a join, and distinct: otherwise PostgreSQL compares every lease with every trial until it has statistics of the tables
    running = select(TRIALS.c.number).where(TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.RUNNING).distinct()
    query = select(LEASES).where(LEASES.c.study_id == study_id, LEASES.c.trial_number.in_(running))
    last = {row.trial_number: _lease(row) for row in connection.execute(query.order_by(LEASES.c.trial_number, LEASES.c.attempt))}
    return list(last.values())


def open_ones(connection: Connection, study_id: int) -> list[tuple[Lease, float]]:
    """Return every lease that has not ended, with the database's time, in one statement."""
    query = select(LEASES, tables.now(connection).label("now")).where(LEASES.c.study_id == study_id, LEASES.c.ended_at.is_(None))
    return [(_lease(row), float(row.now)) for row in connection.execute(query.order_by(LEASES.c.trial_number, LEASES.c.attempt))]


def find(connection: Connection, study_id: int, *, trial_number: int, attempt: int, worker_key: str) -> Lease | None:
    """Return the lease of an attempt, even if it has ended, or None if the study has no such attempt."""
    is_it = _is_attempt(study_id, trial_number, attempt, worker_key)
    row = connection.execute(select(LEASES).where(*is_it)).first()
    return None if row is None else _lease(row)


def lost(connection: Connection, study_id: int, trial_number: int) -> list[Lease]:
    """Return the attempts at a trial whose worker was lost, in order."""
    is_lost = (LEASES.c.study_id == study_id, LEASES.c.trial_number == trial_number, LEASES.c.ending == LeaseEnding.LOST)
    return [_lease(row) for row in connection.execute(select(LEASES).where(*is_lost).order_by(LEASES.c.attempt))]


def hold(connection: Connection, study_id: int, *, trial_number: int, attempt: int, worker_key: str) -> bool:
    """Renew a lease. Return False if it has ended because another worker has the trial, or if someone stopped the trial."""
    is_ours = _is_open(study_id, trial_number, attempt, worker_key)
    # this looks up one trial, not all running ones: a study has a row for each trial it ever had
    is_running = exists().where(TRIALS.c.trial_id == LEASES.c.trial_id, TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.RUNNING)
    change = update(LEASES).where(*is_ours, is_running).values(seen_at=tables.now(connection))
    return connection.execute(change).rowcount == 1


def end(
    connection: Connection, study_id: int, *, trial_number: int, attempt: int, worker_key: str, ending: LeaseEnding, error: str = ""
) -> bool:
    """End a lease, and return False if it had ended already. The lease of a lost worker ends when the worker was last seen."""
    is_ours = _is_open(study_id, trial_number, attempt, worker_key)
    ended_at = LEASES.c.seen_at if ending is LeaseEnding.LOST else tables.now(connection)
    change = update(LEASES).where(*is_ours).values(ended_at=ended_at, ending=ending, error=error[:200])
    return connection.execute(change).rowcount == 1


def is_held(connection: Connection, study_id: int, trial_number: int) -> bool:
    """Return whether any worker has the lease of a trial. The study must be locked."""
    is_open = (LEASES.c.study_id == study_id, LEASES.c.trial_number == trial_number, LEASES.c.ended_at.is_(None))
    return connection.execute(select(LEASES.c.attempt).where(*is_open)).first() is not None


def close(connection: Connection, study_id: int, trial_number: int, ending: LeaseEnding) -> None:
    """End the open lease of a trial, if there is one. The study must be locked."""
    is_open = (LEASES.c.study_id == study_id, LEASES.c.trial_number == trial_number, LEASES.c.ended_at.is_(None))
    connection.execute(update(LEASES).where(*is_open).values(ended_at=tables.now(connection), ending=ending))


def mark(connection: Connection, study_id: int, *, trial_number: int, attempt: int, ending: LeaseEnding, error: str = "") -> None:
    """Correct the ending of an attempt that has ended; its end time stays the same."""
    is_it = (LEASES.c.study_id == study_id, LEASES.c.trial_number == trial_number, LEASES.c.attempt == attempt)
    connection.execute(update(LEASES).where(*is_it).values(ending=ending, error=error[:200]))


def renew(connection: Connection, study_id: int, worker: WorkerId) -> int:
    """Renew all leases of a worker, and return how many it has."""
    is_ours = (LEASES.c.study_id == study_id, LEASES.c.worker_key == worker.key, LEASES.c.ended_at.is_(None))
    return connection.execute(update(LEASES).where(*is_ours).values(seen_at=tables.now(connection))).rowcount


def subtract_sleep(connection: Connection, study_id: int, worker: WorkerId, *, slept_seconds: float, awake_seconds: float) -> None:
    """Let the attempts of a worker that slept begin later by the sleep, so that they last as long as the worker worked.

    The worker woke up `awake_seconds` ago. An attempt counts if it began before the sleep and had not ended then.
    """
    asleep_at = tables.now(connection) - (awake_seconds + slept_seconds / 2)
    is_ours = (LEASES.c.study_id == study_id, LEASES.c.worker_key == worker.key)
    lasted = (LEASES.c.started_at < asleep_at, func.coalesce(LEASES.c.ended_at, LEASES.c.seen_at) > asleep_at)
    still_open = (LEASES.c.started_at < asleep_at, LEASES.c.ended_at.is_(None))
    change = update(LEASES).where(*is_ours, or_(and_(*lasted), and_(*still_open)))
    connection.execute(change.values(started_at=LEASES.c.started_at + slept_seconds))


def intervals(connection: Connection, study_id: int) -> list[tuple[float, float]]:
    """Return start and end of every attempt; a running attempt ends when its worker was last seen."""
    end_or_seen = func.coalesce(LEASES.c.ended_at, LEASES.c.seen_at)
    rows = connection.execute(select(LEASES.c.started_at, end_or_seen).where(LEASES.c.study_id == study_id))
    return [(start, end) for start, end in rows]


def count_workers(connection: Connection) -> int:
    """Return the number of workers, of any study, with a live lease."""
    return int(connection.execute(select(func.count(LEASES.c.worker_key.distinct())).where(*live(tables.now(connection)))).scalar_one())


def live(now: ColumnElement[float] | float) -> tuple[ColumnElement[bool], ...]:
    """Return the condition that a lease has not ended and its worker was seen within the length of a lease."""
    return LEASES.c.ended_at.is_(None), LEASES.c.seen_at >= now - timing().lease_seconds


def last_results(connection: Connection, study_id: int, *, count: int, since: float) -> Sequence[tuple[str, str]]:
    """Return ending and error of the trials that ended last, the latest first."""
    endings = [LeaseEnding.COMPLETED, LeaseEnding.PRUNED, LeaseEnding.FAILED]
    query = select(LEASES.c.ending, LEASES.c.error).where(
        LEASES.c.study_id == study_id, LEASES.c.ending.in_(endings), LEASES.c.ended_at > since
    )
    latest = (LEASES.c.ended_at.desc(), LEASES.c.trial_number.desc(), LEASES.c.attempt.desc())
    return [(ending, error) for ending, error in connection.execute(query.order_by(*latest).limit(count))]


def is_alive_here(namespace: str, pid: int, process_started: float) -> bool | None:
    """Return whether the process of a worker is alive, or None if it is not a process of this host."""
    return _is_alive(pid, process_started) if namespace == _namespace() else None


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
    """Return the name of the scope in which process ids are valid. It changes with a reboot, and differs between containers."""
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
