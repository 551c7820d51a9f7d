"""Entries: the studies that were submitted to the pool, in which order they are served, and how each stands.

Each function is one transaction under the lock of the settings. `by` is stored as the author of a request.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, case, func, insert, or_, select, update

from tuner import wording
from tuner.errors import RequestError, StudyError
from tuner.queue import limits
from tuner.queue.limits import OwnerUse, PoolSettings
from tuner.spec import budget
from tuner.spec.study import AnyStudySpec, StudySpec
from tuner.storage import tables
from tuner.storage.engine import Storage
from tuner.storage.tables import POOL, QUEUE, STUDIES
from tuner.studies import control, leases
from tuner.studies import progress as studies_progress
from tuner.studies import study as studies
from tuner.studies.study import Study

#: bounds of what a submission may say
MAX_PRIORITY = 1_000
MAX_WORKERS = 10_000
_MAX_LABELS = 20
#: queued studies of each owner, priority and needs that a decision reads first, and of how many priorities
_FIRST = 3
_LEVELS = 2
_MAX_NAME = 200
_MAX_MESSAGE = 1_000


class QueueState(StrEnum):
    """How a study in the queue stands."""

    #: no worker has started it
    QUEUED = "queued"
    RUNNING = "running"
    #: a user stopped it for a while
    PAUSED = "paused"
    DONE = "done"
    #: it stopped itself, or no trial has completed
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_open(self) -> bool:
        """Whether workers may serve it."""
        return self in OPEN

    @property
    def has_ended(self) -> bool:
        """Whether it is served no more, unless a user asks for it again."""
        return self in (QueueState.DONE, QueueState.FAILED, QueueState.CANCELLED)


OPEN = (QueueState.QUEUED, QueueState.RUNNING)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What a user asks of the pool for a study."""

    owner: str
    #: a higher one is served first
    priority: int = 0
    #: maximum number of workers at the same time
    num_wanted: int = 1
    #: labels that a worker must have
    needs: tuple[str, ...] = ()
    #: names of studies in the queue that must be done before
    after: tuple[str, ...] = ()
    #: whether it begins with the best configurations of the studies in `after`
    takes_winner: bool = False
    #: whether it takes workers from studies of a lower priority at once, in the middle of their trials
    preempts: bool = False
    #: idempotency key: a second submission with the same key changes nothing; None: none
    key: str | None = None
    #: path of the images below the data root of a worker; "": the study's own path decides
    data_path: str = ""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A study in the queue."""

    study_id: int
    #: name of the study
    name: str
    state: QueueState
    priority: int
    #: among studies of one owner and one priority, a lower one comes first
    position: int
    owner: str
    num_wanted: int
    needs: tuple[str, ...]
    after: tuple[str, ...]
    takes_winner: bool
    preempts: bool
    key: str | None
    data_path: str
    #: equal for studies with the same images and backbone; "" for a study of user code
    likeness: str
    #: seconds since the epoch by the database's clock, as the fields that follow
    submitted_at: float
    started_at: float | None
    ended_at: float | None
    #: why it ended, or who stopped it
    message: str
    #: pool workers that have it now
    num_workers: int = 0


def submit(storage: Storage, spec: AnyStudySpec, submission: Submission) -> Entry:
    """Put a study into the queue, and create it in the storage; return its entry.

    A second submission with the same key changes nothing and returns the first entry. A study that has ended is queued again.

    Raises:
        RequestError: the submission is wrong, or its owner has reached a limit.
        StudyError: the study is in the queue already, or the storage has another study of this name.
    """
    _require_sound(spec, submission)
    known = storage.read(lambda connection: _known(connection, spec, submission))
    if known is not None:
        return known
    study = studies.join(spec, storage)
    return storage.write(lambda connection: _put(connection, study, submission))


def entries(storage: Storage, states: Collection[QueueState] = (), *, limit: int | None = None, offset: int = 0) -> list[Entry]:
    """Return the studies in the queue in some states, or in all; the order is that in which they are served, the ended ones last."""
    return storage.read(lambda connection: read(connection, states, limit=limit, offset=offset))


def entry(storage: Storage, name: str) -> Entry:
    """Return a study in the queue.

    Raises:
        StudyError: the queue has no such study.
    """
    return storage.read(lambda connection: _require(connection, name))


def count(storage: Storage, states: Collection[QueueState] = ()) -> int:
    """Return the number of studies in the queue in some states, or in all."""
    query = select(func.count()).select_from(QUEUE).join(STUDIES, STUDIES.c.study_id == QUEUE.c.study_id).where(*_in(states))
    return storage.read(lambda connection: int(connection.execute(query).scalar_one()))


def move(storage: Storage, name: str, *, priority: int | None = None, place: int | None = None) -> Entry:
    """Change the priority of a study, or its place among the open studies of its owner and its priority, counted from 1.

    Raises:
        RequestError: a value is out of its range.
        StudyError: the queue has no such study, or it has ended.
    """
    if priority is not None:
        _require_number("the priority", priority, -MAX_PRIORITY, MAX_PRIORITY)
    if place is not None:
        _require_number("the place", place, 1, 1_000_000)

    def write(connection: Connection) -> Entry:
        limits.lock(connection)
        found = _require_unended(connection, name)
        if priority is not None and priority != found.priority:
            _set(connection, found, priority=priority, position=_last_position(connection, found.owner, priority))
            found = _require(connection, name)
        if place is not None:
            _renumber(connection, found, place)
        return _require(connection, name)

    return storage.write(write)


def cancel(storage: Storage, name: str, *, by: str) -> Entry:
    """End a study in the queue; its running trials are suspended.

    Raises:
        StudyError: the queue has no such study, or it has ended.
    """
    return _halt(storage, name, QueueState.CANCELLED, by=by, now=True)


def pause(storage: Storage, name: str, *, by: str, now: bool = False) -> Entry:
    """Stop a study in the queue until it is resumed; running trials are trained to their end, or suspended with `now`.

    Raises:
        StudyError: the queue has no such study, or it has ended.
    """
    return _halt(storage, name, QueueState.PAUSED, by=by, now=now)


def resume(storage: Storage, name: str) -> Entry:
    """Queue a study again that was paused or cancelled, or that failed.

    Raises:
        StudyError: the queue has no such study, or it needs no worker.
    """

    def write(connection: Connection) -> Entry:
        limits.lock(connection)
        found = _require(connection, name)
        if found.state in (*OPEN, QueueState.DONE):
            raise StudyError(f"the study {name} is {found.state.value}, so it cannot be resumed")
        tables.lock_study(connection, found.study_id, found.name)
        control.lift(connection, found.study_id)
        _set(connection, found, state=QueueState.QUEUED.value, ended_at=None, message="")
        return _require(connection, name)

    return storage.write(write)


def settle(study: Study) -> QueueState | None:
    """Store that a study in the queue has ended, if it has; return its state, or None if it is not in the queue."""

    def write(connection: Connection) -> QueueState | None:
        limits.lock(connection)
        found = _first(connection, QUEUE.c.study_id == study.id)
        if found is None or not found.state.is_open:
            return None if found is None else found.state
        state, message = _ending(connection, study)
        if state is not found.state and state is not QueueState.RUNNING:
            ended_at = tables.clock(connection) if state.has_ended else None
            _set(connection, found, state=state.value, message=message[:_MAX_MESSAGE], ended_at=ended_at)
            return state
        return found.state

    return study.storage.write(write)


def read(connection: Connection, states: Collection[QueueState] = (), *, limit: int | None = None, offset: int = 0) -> list[Entry]:
    """Return the same as `entries`, in a transaction of the caller."""
    has_ended = case((QUEUE.c.ended_at.is_(None), 0), else_=1)
    query = _query(connection).where(*_in(states))
    query = query.order_by(has_ended, QUEUE.c.ended_at.desc(), QUEUE.c.priority.desc(), QUEUE.c.position, QUEUE.c.submitted_at)
    return [_entry(row) for row in connection.execute(query.limit(limit).offset(offset or None))]


def first(connection: Connection, *, without: Collection[int]) -> list[Entry]:
    """Return the open studies among which the next one is, in most cases: all that run or wait for others, and the first that are queued.

    These are the first `_FIRST` of each owner, priority and needs, of the highest priorities. Reading a long queue as a whole takes long,
    and everyone else waits meanwhile. Studies in `without` are not looked for.
    """
    beside = [QUEUE.c.owner, QUEUE.c.priority, QUEUE.c.needs]
    place = func.row_number().over(partition_by=beside, order_by=[QUEUE.c.position, QUEUE.c.submitted_at])
    level = func.dense_rank().over(order_by=QUEUE.c.priority.desc())
    is_queued = (QUEUE.c.state == QueueState.QUEUED.value, QUEUE.c.after == "[]", QUEUE.c.study_id.not_in(without))
    ranked = select(QUEUE.c.study_id, place.label("place"), level.label("level")).where(*is_queued).subquery()
    early = select(ranked.c.study_id).where(ranked.c.place <= _FIRST, ranked.c.level <= _LEVELS)
    waits = and_(QUEUE.c.state == QueueState.QUEUED.value, QUEUE.c.after != "[]")
    wanted = or_(QUEUE.c.state == QueueState.RUNNING.value, waits, QUEUE.c.study_id.in_(early))
    return [_entry(row) for row in connection.execute(_query(connection).where(wanted))]


def done(connection: Connection, names: Collection[str]) -> set[str]:
    """Return those of some studies that are done."""
    if not names:
        return set()
    query = select(STUDIES.c.study_name).join(QUEUE, QUEUE.c.study_id == STUDIES.c.study_id)
    return set(connection.execute(query.where(QUEUE.c.state == QueueState.DONE.value, STUDIES.c.study_name.in_(names))).scalars())


def start(connection: Connection, found: Entry) -> None:
    """Store that a study has its first worker. The settings must be locked."""
    if found.state is QueueState.QUEUED:
        started_at = tables.clock(connection) if found.started_at is None else found.started_at
        _set(connection, found, state=QueueState.RUNNING.value, started_at=started_at, message="")


def likeness(spec: AnyStudySpec) -> str:
    """Return a text that is equal for studies with the same images and backbone; "" for a study of user code."""
    if not isinstance(spec, StudySpec):
        return ""
    sections = {"data": spec.data.model_dump(mode="json"), "model": spec.model.model_dump(mode="json")}
    return hashlib.sha256(json.dumps(sections, sort_keys=True).encode()).hexdigest()


def _require_sound(spec: AnyStudySpec, asked: Submission) -> None:
    _require_number("the priority", asked.priority, -MAX_PRIORITY, MAX_PRIORITY)
    _require_number("the number of workers", asked.num_wanted, 1, MAX_WORKERS)
    for what, name in (("owner", asked.owner), *(("label", label) for label in asked.needs)):
        if not name.strip() or len(name) > _MAX_NAME or not name.isprintable():
            raise RequestError(f"the {what} is {wording.show(name)}; expected 1 to {_MAX_NAME} printable characters")
    for what, names in (("labels", asked.needs), ("studies to wait for", asked.after)):
        if len(names) > _MAX_LABELS:
            raise RequestError(f"{len(names)} {what} are given; expected at most {_MAX_LABELS}")
    if asked.key is not None and not 0 < len(asked.key) <= _MAX_NAME:
        raise RequestError(f"the idempotency key has {len(asked.key)} characters; expected 1 to {_MAX_NAME}")
    if asked.takes_winner and (not asked.after or not isinstance(spec, StudySpec)):
        raise RequestError(
            "the winner of another study can be taken only by a study of images that waits for that study; name the study with --after"
        )


def _require_number(what: str, number: int, least: int, most: int) -> None:
    if not least <= number <= most:
        raise RequestError(f"{what} is {number}; expected a number from {least} to {most}")


def _known(connection: Connection, spec: AnyStudySpec, asked: Submission) -> Entry | None:
    """Return the entry of an earlier submission with the same key; refuse the submission if it cannot be queued."""
    if asked.key is not None and (first := _first(connection, QUEUE.c.request_key == asked.key)) is not None:
        return first
    found = _first(connection, STUDIES.c.study_name == spec.name)
    if found is not None and not found.state.has_ended:
        raise StudyError(
            f"the study {spec.name} is in the queue already, and it is {found.state.value}; "
            "cancel it first, or choose another name in the file"
        )
    _require_after(connection, spec.name, asked.after)
    settings = limits.read(connection)
    if settings.over is limits.Over.REFUSE:
        _require_within_limits(connection, settings, asked)
    return None


def _require_within_limits(connection: Connection, settings: PoolSettings, asked: Submission) -> None:
    allowed = settings.limits_of(asked.owner)
    if allowed.workers is not None and asked.num_wanted > allowed.workers:
        most = wording.count(allowed.workers, "worker")
        raise RequestError(f"{asked.owner} may use at most {most}, and {asked.num_wanted} are wanted; ask for fewer with --workers")
    used = limits.used(connection, tables.clock(connection)).get(asked.owner, OwnerUse())
    size = 0 if allowed.artifact_bytes is None else limits.artifact_bytes(connection, asked.owner)
    use = OwnerUse(seconds=used.seconds, num_trials=used.num_trials, artifact_bytes=size)
    reached = limits.exceeded(asked.owner, use, allowed.model_copy(update={"workers": None}))
    if reached is not None:
        raise RequestError(f"the study is not queued: {reached}; wait, or ask an admin of the pool for a higher limit")


def _require_after(connection: Connection, name: str, after: Sequence[str]) -> None:
    """Refuse studies to wait for that are not in the queue, or that wait for this one."""
    waits_for = {row.study_name: json.loads(row.after) for row in connection.execute(_names_and_after())}
    for other in after:
        if other not in waits_for:
            known = f" {wording.known(sorted(waits_for), other)}" if waits_for else " The queue is empty."
            raise StudyError(f"--after is {other}, which is not in the queue; submit it first.{known}")
    if name in _all_before(after, waits_for):
        raise StudyError(f"the study {name} would wait for itself, because {wording.listed(after)} waits for it; drop --after")


def _names_and_after() -> Select[str, str]:
    return select(STUDIES.c.study_name, QUEUE.c.after).join(QUEUE, QUEUE.c.study_id == STUDIES.c.study_id)


def _all_before(after: Sequence[str], waits_for: dict[str, list[str]]) -> set[str]:
    found: set[str] = set()
    left = list(after)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += waits_for.get(name, [])
    return found


def _put(connection: Connection, study: Study, asked: Submission) -> Entry:
    limits.lock(connection)
    known = _known(connection, study.spec, asked)
    if known is not None:
        return known
    tables.lock_study(connection, study.id, study.name)
    control.lift(connection, study.id)
    row = {
        "name": study.name,
        "state": QueueState.QUEUED.value,
        "priority": asked.priority,
        "position": _last_position(connection, asked.owner, asked.priority),
        "owner": asked.owner,
        "num_wanted": asked.num_wanted,
        "needs": json.dumps(sorted(set(asked.needs))),
        "after": json.dumps(list(dict.fromkeys(asked.after))),
        "takes_winner": asked.takes_winner,
        "preempts": asked.preempts,
        "request_key": asked.key,
        "data_path": asked.data_path,
        "likeness": likeness(study.spec),
        "submitted_at": tables.clock(connection),
        "started_at": None,
        "ended_at": None,
        "message": "",
    }
    change = update(QUEUE).where(QUEUE.c.study_id == study.id).values(**row)
    if connection.execute(change).rowcount == 0:
        connection.execute(insert(QUEUE).values(study_id=study.id, **row))
    return _require(connection, study.name)


def _last_position(connection: Connection, owner: str, priority: int) -> int:
    """Return the position of a study that comes after all open ones of its owner and priority; equal positions mean: the oldest first."""
    is_beside = (QUEUE.c.owner == owner, QUEUE.c.priority == priority, QUEUE.c.ended_at.is_(None))
    return int(connection.execute(select(func.coalesce(func.max(QUEUE.c.position), 0)).where(*is_beside)).scalar_one())


def _renumber(connection: Connection, moved: Entry, place: int) -> None:
    """Number the open studies of an owner and a priority anew, with one of them at a given place."""
    beside = [one for one in read(connection) if not one.state.has_ended and (one.owner, one.priority) == (moved.owner, moved.priority)]
    others = [one for one in beside if one.study_id != moved.study_id]
    others.insert(place - 1, moved)
    for position, one in enumerate(others, start=1):
        if one.position != position:
            _set(connection, one, position=position)


def _halt(storage: Storage, name: str, state: QueueState, *, by: str, now: bool) -> Entry:
    def write(connection: Connection) -> Entry:
        limits.lock(connection)
        found = _require_unended(connection, name)
        if found.state is state:
            raise StudyError(f"the study {name} is {state.value} already: {found.message}")
        tables.lock_study(connection, found.study_id, found.name)
        control.halt(connection, found.study_id, by=by, now=now)
        ended_at = tables.clock(connection) if state.has_ended else None
        _set(connection, found, state=state.value, message=f"{state.value} by {by}"[:_MAX_MESSAGE], ended_at=ended_at)
        return _require(connection, name)

    return storage.write(write)


def _ending(connection: Connection, study: Study) -> tuple[QueueState, str]:
    """Return how a study stands by its trials, and why."""
    current, progress = studies_progress.read(connection, study)
    if progress.halted:
        return QueueState.PAUSED, f"paused by {progress.halted}"
    over = budget.decide(current.spec.budget, progress)
    if over is None:
        return QueueState.RUNNING, ""
    if budget.decide_to_end(current.spec.budget, progress) is None and leases.of_running_trials(connection, study.id):
        return QueueState.RUNNING, ""
    if progress.stopped:
        return QueueState.FAILED, progress.stopped
    state = studies_progress.read_state(connection, study)
    return (QueueState.FAILED, f"no trial completed; {over}") if state.best is None else (QueueState.DONE, over)


def _query(connection: Connection) -> Select[Any]:
    seen_since = tables.now(connection) - leases.timing().lease_seconds
    working = (
        select(POOL.c.study_id, func.count().label("num_workers"))
        .where(POOL.c.ended_at.is_(None), POOL.c.study_id.is_not(None), POOL.c.seen_at >= seen_since)
        .group_by(POOL.c.study_id)
        .subquery()
    )
    num_workers = func.coalesce(working.c.num_workers, 0).label("num_workers")
    query = select(QUEUE, STUDIES.c.study_name, num_workers).join(STUDIES, STUDIES.c.study_id == QUEUE.c.study_id)
    return query.outerjoin(working, working.c.study_id == QUEUE.c.study_id)


def _in(states: Collection[QueueState]) -> Iterator[ColumnElement[bool]]:
    if states:
        yield QUEUE.c.state.in_([state.value for state in states])


def _first(connection: Connection, *where: ColumnElement[bool]) -> Entry | None:
    row = connection.execute(_query(connection).where(*where)).first()
    return None if row is None else _entry(row)


def _require(connection: Connection, name: str) -> Entry:
    found = _first(connection, STUDIES.c.study_name == name)
    if found is None:
        known = list(connection.execute(select(QUEUE.c.name).order_by(QUEUE.c.submitted_at.desc())).scalars())
        hint = wording.known(known, name) if known else "The queue is empty."
        raise StudyError(f"there is no study {name} in the queue. {hint}")
    return found


def _require_unended(connection: Connection, name: str) -> Entry:
    found = _require(connection, name)
    if found.state.has_ended:
        raise StudyError(f"the study {name} is {found.state.value} already{f': {found.message}' if found.message else ''}")
    return found


def _set(connection: Connection, found: Entry, **values: Any) -> None:
    connection.execute(update(QUEUE).where(QUEUE.c.study_id == found.study_id).values(**values))


def _entry(row: Row[Any]) -> Entry:
    return Entry(
        study_id=row.study_id,
        name=row.study_name,
        state=QueueState(row.state),
        priority=row.priority,
        position=row.position,
        owner=row.owner,
        num_wanted=row.num_wanted,
        needs=tuple(json.loads(row.needs)),
        after=tuple(json.loads(row.after)),
        takes_winner=bool(row.takes_winner),
        preempts=bool(row.preempts),
        key=row.request_key,
        data_path=row.data_path,
        likeness=row.likeness,
        submitted_at=row.submitted_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        message=row.message,
        num_workers=row.num_workers,
    )
