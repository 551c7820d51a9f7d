"""Pool: the workers that serve whatever study is next, what each can serve, and which study each has.

Every decision is one transaction under the lock of the settings. No process coordinates the others: a worker that is free decides
for itself, and the lock makes sure that no study gets more workers than it wants.
"""

import collections
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, exists, insert, select, update

from tuner import wording
from tuner.errors import StudyError
from tuner.queue import choice, limits
from tuner.queue import entries as queue_entries
from tuner.queue.choice import Asker, OwnerShare
from tuner.queue.entries import OPEN, Entry, QueueState
from tuner.queue.limits import OwnerUse, PoolSettings
from tuner.storage import tables
from tuner.storage.engine import Storage
from tuner.storage.tables import POOL, QUEUE, STUDIES
from tuner.studies import leases, warm_start, workers
from tuner.studies.leases import WorkerId
from tuner.studies.study import Study
from tuner.studies.warm_start import Earlier
from tuner.studies.workers import WorkerRequest

#: how many reasons of one worker are stored, and how long each may be
_MAX_REFUSALS = 50
_MAX_REASON = 200


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """What a pool worker can serve."""

    labels: tuple[str, ...] = ()
    #: memory of its GPU; 0 if it has none
    gpu_memory_bytes: int = 0
    #: folder below which it reads images; "": it reads no files
    data_root: str = ""
    #: modules and files that a study may import
    allowed_code: tuple[str, ...] = ()
    #: versions of packages that studies may need, by name
    packages: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PoolMember:
    """A worker of the pool with its last known status."""

    #: unique id
    key: str
    #: host and name, for display
    name: str
    host: str
    abilities: Abilities
    #: id and name of the study that it works on; None: it is idle
    study_id: int | None
    study: str | None
    #: when it came to this study; seconds since the epoch by the database's clock, as the times that follow
    since: float
    #: trials that it has ended since
    num_trials: int
    started_at: float
    seen_at: float
    ended_at: float | None
    #: why it ended, in words
    ending: str
    #: why it cannot serve a study, by the name of the study
    refusals: Mapping[str, str]
    request: WorkerRequest
    requested_by: str
    #: seconds since it was last seen, at the time of reading
    silent_seconds: float
    namespace: str = field(repr=False)
    pid: int
    process_started: float = field(repr=False)
    counted_at: float = field(repr=False)

    @property
    def is_present(self) -> bool:
        """Whether it has not ended and was seen recently."""
        return self.ended_at is None and self.silent_seconds <= leases.timing().lease_seconds

    @property
    def identity(self) -> WorkerId:
        """The worker as its process."""
        return WorkerId(key=self.key, name=self.name, namespace=self.namespace, pid=self.pid, process_started=self.process_started)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a worker finds when it looks at a study that it could serve next."""

    #: why this worker cannot serve it; "": it can
    refusal: str = ""
    #: whether it has a trial for one more worker
    has_trial: bool = True
    #: the opened study; None if it cannot be served
    study: Study | None = None
    #: the configurations that its first worker enqueues for a warm start
    earlier: Sequence[Earlier] = ()


@dataclass(frozen=True, kw_only=True)
class Place:
    """A worker's right to train trials of a study, until its next decision."""

    entry: Entry
    look: Look
    #: whether the worker was there before
    is_same: bool


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What a worker must heed while it trains or waits."""

    request: WorkerRequest = WorkerRequest.NONE
    requested_by: str = ""
    #: who stopped the whole pool; "": nobody
    stopped_by: str = ""
    #: whether a study of a higher priority takes workers at once
    is_preempted: bool = False
    #: whether a user has ended the study that the worker has
    is_cancelled: bool = False
    #: whether a study could be served
    has_work: bool = False
    #: whether the storage knows the worker
    is_known: bool = True


#: looks at a study for a worker; called outside of any transaction
LookAt = Callable[[Entry], Look]


def register(storage: Storage, worker: WorkerId, abilities: Abilities) -> None:
    """Add the row of a worker, and delete the rows of workers that ended long ago."""

    def write(connection: Connection) -> None:
        now = tables.clock(connection)
        connection.execute(delete(POOL).where(POOL.c.seen_at <= now - workers.MAX_AGE_SECONDS))
        if _own(connection, worker) is not None:
            return
        row = {
            "worker_key": worker.key,
            "worker": worker.name,
            "host": worker.name.rpartition("/")[0],
            "namespace": worker.namespace,
            "pid": worker.pid,
            "process_started": worker.process_started,
            "labels": json.dumps(list(abilities.labels)),
            "abilities": json.dumps(_plain(abilities)),
            "since": now,
            "num_trials": 0,
            "counted_at": now,
            "started_at": now,
            "seen_at": now,
            "ending": "",
            "refusals": "{}",
            "wish": WorkerRequest.NONE.value,
            "wished_by": "",
        }
        connection.execute(insert(POOL).values(**row))

    storage.write(write)


def beat(storage: Storage, worker: WorkerId, *, refusals: Mapping[str, str]) -> bool:
    """Store a heartbeat and why the worker cannot serve some studies, and count its time; return whether the storage knows the worker."""
    kept = {name: reason[:_MAX_REASON] for name, reason in list(refusals.items())[-_MAX_REFUSALS:]}

    def write(connection: Connection) -> bool:
        own = _own(connection, worker)
        if own is not None:
            _count(connection, own, num_trials=own.num_trials)
            _set(connection, worker, seen_at=tables.now(connection), refusals=json.dumps(kept))
        return own is not None

    return storage.write(write)


def leave(storage: Storage, worker: WorkerId, ending: str) -> None:
    """Store that a worker has ended, and why."""

    def write(connection: Connection) -> None:
        own = _own(connection, worker)
        if own is not None:
            _count(connection, own, num_trials=own.num_trials)
            now = tables.now(connection)
            _set(connection, worker, seen_at=now, ended_at=now, ending=ending[:_MAX_REASON], study_id=None)

    storage.write(write)


def drain(storage: Storage, host_or_worker: str, *, now: bool, by: str) -> list[str]:
    """Ask the workers of a host, or one worker, to leave: after their trials, or with `now` at once; return their names.

    Raises:
        StudyError: the pool has no such worker.
    """

    def write(connection: Connection) -> list[str]:
        present = [one for one in read(connection) if one.is_present]
        named = [one for one in present if host_or_worker in (one.host, one.name, one.name.rpartition("/")[2])]
        if not named:
            known = sorted({name for one in present for name in (one.host, one.name)})
            hint = wording.known(known, host_or_worker) if known else "The pool has no worker."
            raise StudyError(f"the pool has no host or worker {host_or_worker}. {hint}")
        request = WorkerRequest.SUSPEND if now else WorkerRequest.LEAVE
        asked = update(POOL).where(POOL.c.worker_key.in_([one.key for one in named]))
        connection.execute(asked.values(wish=request.value, wished_by=by[:_MAX_REASON]))
        return [one.name for one in named]

    return storage.write(write)


def members(storage: Storage) -> list[PoolMember]:
    """Return the workers of the pool: active ones first, then ended and lost ones, the latest first."""
    return storage.read(read)


def read(connection: Connection) -> list[PoolMember]:
    """Return the same as `members`, in a transaction of the caller."""
    found = _read(connection)
    gone = sorted((one for one in found if not one.is_present), key=lambda one: -one.seen_at)
    return [one for one in found if one.is_present] + gone


def reasons(entry: Entry, present: Collection[PoolMember]) -> dict[str, str]:
    """Return why workers cannot serve a study, by the name of the worker; a worker that can is left out."""
    found: dict[str, str] = {}
    for one in present:
        reason = choice.unmet_need(entry.needs, one.abilities.labels, one.abilities.gpu_memory_bytes) or one.refusals.get(entry.name)
        if reason:
            found[one.name] = reason
    return found


def explained(storage: Storage, found: Sequence[Entry]) -> dict[int, str]:
    """Return why each of some studies waits, by its id; "" if a worker has it, or if one will take it."""
    return storage.read(lambda connection: _explained(connection, found))


def unserved(found: Entry, present: Collection[PoolMember]) -> str | None:
    """Return why no living worker can serve a study, with the reason of each; None if one can."""
    why = reasons(found, present)
    if len(why) < len(present):
        return None
    listed = "; ".join(f"{wording.worker(name)}: {reason}" for name, reason in why.items())
    return f"no worker can serve it ({listed})" if why else "the pool has no worker"


def _explained(connection: Connection, found: Sequence[Entry]) -> dict[int, str]:
    settings, now = limits.read(connection), tables.clock(connection)
    owners = owner_shares(connection, settings, queue_entries.read(connection, OPEN), now)
    present = [one for one in read(connection) if one.is_present]
    done = queue_entries.done(connection, {name for one in found for name in one.after})
    words: dict[int, str] = {}
    for one in found:
        why = "" if one.num_workers or not one.state.is_open else choice.waits_because(one, owners[one.owner], done=done)
        if one.state.is_open and not one.num_workers and not why:
            why = f"the pool was stopped by {settings.stopped_by}" if settings.stopped_by else unserved(one, present)
        words[one.study_id] = why or one.message
    return words


def signal(storage: Storage, worker: WorkerId) -> Signal:
    """Return what a worker must heed now."""
    return storage.read(lambda connection: _signal(connection, worker))


def decide(storage: Storage, worker: WorkerId, look_at: LookAt, *, num_trials: int = 0, likely: Entry | None = None) -> Place | None:
    """Return the study that a worker serves next, and give it the place there; None: it becomes idle.

    `num_trials`: trials that it has ended in its present study since it came there.
    `likely`: the study that it will probably get, which saves one wait for the lock.
    """
    seen = {} if likely is None else {likely.study_id: look_at(likely)}
    return _decide(storage, look_at, seen, lambda connection: _choose(connection, storage, worker, seen, num_trials))


def yield_to(storage: Storage, worker: WorkerId, look_at: LookAt) -> Place | None:
    """Return the study for which a worker must suspend its trial, and give it the place there; None: it continues its trial."""
    seen: dict[int, Look] = {}
    return _decide(storage, look_at, seen, lambda connection: _choose_preempting(connection, storage, worker, seen))


def _decide(storage: Storage, look_at: LookAt, seen: dict[int, Look], chosen: Callable[[Connection], Entry | Place | None]) -> Place | None:
    """Look at studies outside of the lock, the best first, until one of them can be served."""
    while isinstance(found := storage.write(chosen), Entry):
        seen[found.study_id] = look_at(found)
    return found


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """Everything that a decision depends on."""

    settings: PoolSettings
    own: PoolMember
    #: all other workers that are not lost
    others: Sequence[PoolMember]
    #: open studies, with the number of other workers on each
    entries: Sequence[Entry]
    owners: Mapping[str, OwnerShare]
    done: Collection[str]
    now: float


def _choose(connection: Connection, storage: Storage, worker: WorkerId, seen: Mapping[int, Look], num_trials: int) -> Entry | Place | None:
    """Return the next study, or an entry that the worker must look at first."""
    scene = _scene(connection, storage, worker, without=_without(seen))
    if scene is None:
        return None
    found = None
    if not scene.settings.stopped_by and scene.own.request is WorkerRequest.NONE:
        found = _first_choice(connection, scene, seen, num_trials)
        if found is not None and found.study_id not in seen:
            return found
    return _take(connection, scene, found, seen, max(num_trials, scene.own.num_trials))


def _first_choice(connection: Connection, scene: _Scene, seen: Mapping[int, Look], num_trials: int) -> Entry | None:
    """Choose among the first studies of the queue; among all, if the best of these has a lower priority than one that was not read."""
    asker = _asker(scene, seen, num_trials)
    found = choice.choose(scene.entries, asker, scene.owners, done=scene.done, now=scene.now)
    read_down_to = min((one.priority for one in scene.entries if one.state is QueueState.QUEUED and not one.after), default=None)
    if read_down_to is None or (found is not None and found.priority >= read_down_to):
        return found
    everything = _with_others(scene.others, queue_entries.read(connection, OPEN))
    owners = owner_shares(connection, scene.settings, everything, scene.now)
    return choice.choose(everything, asker, owners, done=scene.done, now=scene.now)


def _choose_preempting(connection: Connection, storage: Storage, worker: WorkerId, seen: Mapping[int, Look]) -> Entry | Place | None:
    scene = _scene(connection, storage, worker, without=_without(seen))
    if scene is None:
        return None
    own = scene.own
    current = next((one for one in scene.entries if one.study_id == own.study_id), None)
    if current is None:
        return None
    above = [one for one in scene.entries if one.preempts and one.priority > current.priority]
    found = choice.choose(above, _asker(scene, seen, own.num_trials), scene.owners, done=scene.done, now=scene.now)
    if found is None or not _is_due(scene, found, current):
        return None
    if found.study_id not in seen:
        return found
    return _take(connection, scene, found, seen, own.num_trials)


def _is_due(scene: _Scene, preempting: Entry, current: Entry) -> bool:
    priorities = {one.study_id: one.priority for one in scene.entries}
    able = [one for one in scene.others if not reasons(preempting, [one])]
    serving = {one.key: (priorities[one.study_id], one.since) for one in able if one.study_id in priorities}
    serving[scene.own.key] = (current.priority, scene.own.since)
    num_idle = sum(one.study_id is None for one in able)
    return choice.is_due_to_yield(preempting, scene.own.key, serving, num_idle=num_idle)


def _take(connection: Connection, scene: _Scene, found: Entry | None, seen: Mapping[int, Look], num_trials: int) -> Place | None:
    """Store which study the worker has now, after counting what it did before."""
    own = scene.own
    _count(connection, own, num_trials=num_trials)
    study_id = None if found is None else found.study_id
    is_same = study_id == own.study_id
    values: dict[str, Any] = {"seen_at": tables.now(connection), "study_id": study_id}
    values |= {"num_trials": num_trials} if is_same else {"num_trials": 0, "since": scene.now}
    if found is not None and found.state is QueueState.QUEUED:
        look = seen[found.study_id]
        if found.takes_winner and look.study is not None and look.earlier:
            warm_start.enqueue_in(connection, look.study, look.earlier, by=found.owner)
        queue_entries.start(connection, found)
    _set(connection, own.identity, **values)
    return None if found is None else Place(entry=found, look=seen[found.study_id], is_same=is_same)


def _asker(scene: _Scene, seen: Mapping[int, Look], num_trials: int) -> Asker:
    own = scene.own
    likenesses = {one.study_id: one.likeness for one in scene.entries}
    return Asker(
        labels=frozenset(own.abilities.labels),
        gpu_memory_bytes=own.abilities.gpu_memory_bytes,
        study_id=own.study_id,
        num_trials=num_trials,
        seconds=scene.now - own.since,
        likeness="" if own.study_id is None else likenesses.get(own.study_id, ""),
        without=_without(seen),
    )


def _without(seen: Mapping[int, Look]) -> set[int]:
    return {study_id for study_id, look in seen.items() if look.refusal or not look.has_trial}


def _scene(connection: Connection, storage: Storage, worker: WorkerId, *, without: Collection[int]) -> _Scene | None:
    settings = limits.lock(connection)
    _lock(connection, worker)  # its heartbeat counts its time, too
    now = tables.clock(connection)
    present = _read(connection, POOL.c.ended_at.is_(None))
    own = next((one for one in present if one.key == worker.key), None)
    if own is None:
        return None
    steady_seconds = storage.steady_seconds()
    others = [one for one in present if one is not own and not _is_lost(one, worker, steady_seconds)]
    entries = _with_others(others, queue_entries.first(connection, without=without))
    afters = {name for one in entries for name in one.after}
    owners = owner_shares(connection, settings, entries, now)
    return _Scene(
        settings=settings, own=own, others=others, entries=entries, owners=owners, done=queue_entries.done(connection, afters), now=now
    )


def _with_others(others: Sequence[PoolMember], found: Sequence[Entry]) -> list[Entry]:
    """Return studies with the number of other workers on each."""
    working = collections.Counter(one.study_id for one in others)
    return [one if one.num_workers == working[one.study_id] else replace(one, num_workers=working[one.study_id]) for one in found]


def owner_shares(connection: Connection, settings: PoolSettings, entries: Sequence[Entry], now: float) -> dict[str, OwnerShare]:
    """Return the owners of some entries as the scheduler sees them; `Entry.num_workers` are their workers."""
    used = limits.used(connection, now)
    shares: dict[str, OwnerShare] = {}
    for owner in {one.owner for one in entries}:
        allowed, before = settings.limits_of(owner), used.get(owner, OwnerUse())
        size = 0 if allowed.artifact_bytes is None else limits.artifact_bytes(connection, owner)
        num_workers = sum(one.num_workers for one in entries if one.owner == owner)
        use = replace(before, num_workers=num_workers, artifact_bytes=size)
        shares[owner] = OwnerShare(use=use, weight=settings.weight_of(owner), limits=allowed)
    return shares


def _is_lost(one: PoolMember, seer: WorkerId, steady_seconds: float) -> bool:
    return leases.is_lost(one.identity, seer, silent_seconds=one.silent_seconds, steady_seconds=steady_seconds)


def _count(connection: Connection, own: PoolMember, *, num_trials: int) -> None:
    """Count the time of a worker since it was last counted, and the trials that it has ended since, for the owner of its study."""
    query = select(QUEUE.c.owner).where(QUEUE.c.study_id == own.study_id)
    owner = None if own.study_id is None else connection.execute(query).scalar()
    now = tables.clock(connection)
    seconds = max(0.0, now - own.counted_at)
    limits.count(connection, owner or limits.IDLE, now, seconds=seconds, num_trials=num_trials - own.num_trials)
    _set(connection, own.identity, counted_at=now, num_trials=num_trials)


def _signal(connection: Connection, worker: WorkerId) -> Signal:
    own = connection.execute(select(POOL).where(POOL.c.worker_key == worker.key, POOL.c.ended_at.is_(None))).first()
    if own is None:
        return Signal(is_known=False)
    is_open = QUEUE.c.state.in_([state.value for state in OPEN])
    current = select(QUEUE.c.priority).where(QUEUE.c.study_id == own.study_id).scalar_subquery()
    preempted = exists().where(is_open, QUEUE.c.preempts, QUEUE.c.priority > current)
    is_cancelled = exists().where(QUEUE.c.study_id == own.study_id, QUEUE.c.state == QueueState.CANCELLED.value)
    query = select(preempted.label("preempted"), exists().where(is_open).label("work"), is_cancelled.label("cancelled"))
    row = connection.execute(query).one()
    return Signal(
        request=WorkerRequest(own.wish),
        requested_by=own.wished_by,
        stopped_by=limits.read(connection).stopped_by,
        is_preempted=bool(row.preempted),
        is_cancelled=bool(row.cancelled),
        has_work=bool(row.work),
    )


def _own(connection: Connection, worker: WorkerId) -> PoolMember | None:
    """Return the row of a worker that has not ended, and lock it."""
    _lock(connection, worker)
    return next(iter(_read(connection, POOL.c.worker_key == worker.key, POOL.c.ended_at.is_(None))), None)


def _lock(connection: Connection, worker: WorkerId) -> None:
    connection.execute(select(POOL.c.pid).where(POOL.c.worker_key == worker.key).with_for_update())


def _set(connection: Connection, worker: WorkerId, **values: Any) -> None:
    connection.execute(update(POOL).where(POOL.c.worker_key == worker.key).values(**values))


def _read(connection: Connection, *where: ColumnElement[bool]) -> list[PoolMember]:
    query = select(POOL, STUDIES.c.study_name, tables.now(connection).label("now"))
    query = query.outerjoin(STUDIES, STUDIES.c.study_id == POOL.c.study_id).where(*where)
    return [_member(row) for row in connection.execute(query.order_by(POOL.c.started_at, POOL.c.worker_key))]


def _member(row: Row[Any]) -> PoolMember:
    return PoolMember(
        key=row.worker_key,
        name=row.worker,
        host=row.host,
        abilities=_abilities(json.loads(row.labels), json.loads(row.abilities)),
        study_id=row.study_id,
        study=row.study_name,
        since=row.since,
        num_trials=row.num_trials,
        started_at=row.started_at,
        seen_at=row.seen_at,
        ended_at=row.ended_at,
        ending=row.ending,
        refusals=json.loads(row.refusals),
        request=WorkerRequest(row.wish),
        requested_by=row.wished_by,
        silent_seconds=max(0.0, float(row.now) - row.seen_at),
        namespace=row.namespace,
        pid=row.pid,
        process_started=row.process_started,
        counted_at=row.counted_at,
    )


def _plain(abilities: Abilities) -> dict[str, Any]:
    return {
        "gpu_memory_bytes": abilities.gpu_memory_bytes,
        "data_root": abilities.data_root,
        "allowed_code": list(abilities.allowed_code),
        "packages": dict(abilities.packages),
    }


def _abilities(labels: list[str], known: Mapping[str, Any]) -> Abilities:
    return Abilities(
        labels=tuple(labels),
        gpu_memory_bytes=known.get("gpu_memory_bytes", 0),
        data_root=known.get("data_root", ""),
        allowed_code=tuple(known.get("allowed_code", ())),
        packages=known.get("packages", {}),
    )
