"""How the queue and the pool stand, for pages and programs: who waits, who works, why not, and how the last day was used."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from tuner.queue import choice, entries, limits, pool
from tuner.queue.choice import OwnerShare
from tuner.queue.entries import OPEN, Entry, QueueState
from tuner.queue.pool import PoolMember
from tuner.storage import tables
from tuner.storage.engine import Storage


@dataclass(frozen=True, kw_only=True)
class StudyInQueue:
    """A study in the queue."""

    id: int
    name: str
    state: str
    priority: int
    owner: str
    #: workers that it may have at the same time, and those that it has
    num_wanted: int
    num_workers: int
    needs: tuple[str, ...]
    after: tuple[str, ...]
    preempts: bool
    #: seconds since the epoch; None: not yet
    submitted_at: float
    started_at: float | None
    ended_at: float | None
    #: why it ended or was stopped
    message: str
    #: why no worker takes it now; "" if one may
    waits: str
    #: why workers cannot serve it, by the name of the worker
    refusals: dict[str, str]
    #: whether it waits although no active worker of the pool can serve it
    is_stuck: bool


@dataclass(frozen=True, kw_only=True)
class WorkerOfPool:
    """A worker of the pool."""

    name: str
    host: str
    labels: tuple[str, ...]
    gpu_memory_bytes: int
    data_root: str
    #: the study that it works on; None: it is idle
    study_id: int | None
    study: str | None
    #: why it is idle, or ended; "" if it works
    idle_because: str
    #: seconds since the epoch: when it came to its study, or became idle
    since: float
    num_trials: int
    silent_seconds: float
    is_present: bool
    #: who asked it to leave; "": nobody
    asked_by: str


@dataclass(frozen=True, kw_only=True)
class OwnerDay:
    """What an owner used of the pool in the last day."""

    owner: str
    worker_hours: float
    num_trials: int
    num_workers: int


@dataclass(frozen=True, kw_only=True)
class PoolStanding:
    """The pool as a whole."""

    #: active workers first
    workers: tuple[WorkerOfPool, ...]
    #: who stopped the whole pool; "": nobody
    stopped_by: str
    #: share of the workers' time of the last day in which they worked; None: there were no workers
    utilization: float | None
    #: the largest use first
    owners: tuple[OwnerDay, ...]


def queue(storage: Storage, *, offset: int = 0, limit: int | None = None) -> list[StudyInQueue]:
    """Return the studies of the queue in the order in which they are served, the ended ones last."""

    def read(connection: Connection) -> list[StudyInQueue]:
        found = entries.read(connection, limit=limit, offset=offset)
        return _described(connection, found)

    return storage.read(read)


def one(storage: Storage, name: str) -> StudyInQueue:
    """Return a study of the queue.

    Raises:
        StudyError: the queue has no such study.
    """
    found = entries.entry(storage, name)
    return storage.read(lambda connection: _described(connection, [found]))[0]


def whole_pool(storage: Storage) -> PoolStanding:
    """Return the workers of the pool, and how the last day was used."""
    return storage.read(_pool)


def _described(connection: Connection, found: Sequence[Entry]) -> list[StudyInQueue]:
    present = [member for member in pool.read(connection) if member.is_present]
    owners = _owners(connection)
    done = entries.done(connection, {name for each in found for name in each.after})
    described = []
    for each in found:
        share = owners.get(each.owner, OwnerShare())
        waits = choice.waits_because(each, share, done=done) if each.state in OPEN else None
        refusals = pool.reasons(each, present) if each.state in OPEN else {}
        described.append(
            _study(each, waits or "", refusals, is_stuck=each.state is QueueState.QUEUED and not waits and len(refusals) == len(present))
        )
    return described


def _owners(connection: Connection) -> dict[str, OwnerShare]:
    opened = entries.read(connection, OPEN)
    return pool.owner_shares(connection, limits.read(connection), opened, tables.clock(connection))


def _study(each: Entry, waits: str, refusals: dict[str, str], *, is_stuck: bool) -> StudyInQueue:
    return StudyInQueue(
        id=each.study_id, name=each.name, state=each.state.value, priority=each.priority, owner=each.owner, num_wanted=each.num_wanted,
        num_workers=each.num_workers, needs=each.needs, after=each.after, preempts=each.preempts, submitted_at=each.submitted_at,
        started_at=each.started_at, ended_at=each.ended_at, message=each.message, waits=waits, refusals=refusals, is_stuck=is_stuck,
    )  # fmt: skip


def _pool(connection: Connection) -> PoolStanding:
    found = pool.read(connection)
    stopped_by = limits.read(connection).stopped_by
    used = limits.used(connection, tables.clock(connection))
    idle_seconds = used.pop(limits.IDLE).seconds if limits.IDLE in used else 0.0
    busy_seconds = sum(use.seconds for use in used.values())
    working = [member for member in found if member.is_present and member.study is not None]
    owner_of = {each.study_id: each.owner for each in entries.read(connection, OPEN)}
    for member in working:
        owner = owner_of.get(member.study_id or 0)
        if owner is not None:
            before = used.get(owner, limits.OwnerUse())
            used[owner] = replace(before, num_workers=before.num_workers + 1)
    days = [
        OwnerDay(owner=owner, worker_hours=use.seconds / 3600, num_trials=use.num_trials, num_workers=use.num_workers)
        for owner, use in used.items()
    ]
    return PoolStanding(
        workers=tuple(_worker(member, stopped_by) for member in found),
        stopped_by=stopped_by,
        utilization=busy_seconds / (busy_seconds + idle_seconds) if busy_seconds + idle_seconds > 0 else None,
        owners=tuple(sorted(days, key=lambda day: (-day.worker_hours, day.owner))),
    )


def _worker(member: PoolMember, stopped_by: str) -> WorkerOfPool:
    return WorkerOfPool(
        name=member.name, host=member.host, labels=tuple(member.abilities.labels), gpu_memory_bytes=member.abilities.gpu_memory_bytes,
        data_root=member.abilities.data_root, study_id=member.study_id, study=member.study, idle_because=_idle(member, stopped_by),
        since=member.since, num_trials=member.num_trials, silent_seconds=member.silent_seconds, is_present=member.is_present,
        asked_by=member.requested_by,
    )  # fmt: skip


def _idle(member: PoolMember, stopped_by: str) -> str:
    """Return why a worker does not work; "" if it does."""
    if member.ended_at is not None:
        return member.ending or "ended"
    if not member.is_present:
        return "not seen any more"
    if member.study is not None:
        return ""
    if stopped_by:
        return f"{stopped_by} stopped the pool"
    if not member.refusals:
        return "no study waits for it"
    return "; ".join(f"{study}: {reason}" for study, reason in list(member.refusals.items())[:3])
