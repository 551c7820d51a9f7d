"""Workers: the workers of a study, their status, and requests to them.

A worker has a row from its start, which its heartbeat renews. When a worker starts, the rows of workers that ended long ago are deleted.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, insert, select, update

from tuner.protocol.messages import Stage
from tuner.storage import tables
from tuner.storage.engine import Storage
from tuner.storage.tables import LEASES, STUDIES, WORKERS
from tuner.studies import leases
from tuner.studies.leases import WorkerId
from tuner.studies.study import Study

#: how long, and for how many workers, the rows of ended workers stay in the table
MAX_AGE_SECONDS = 7 * 86_400.0
MAX_ENDED = 100


class WorkerRequest(StrEnum):
    """A request to a worker."""

    NONE = ""
    #: to end after its trial
    LEAVE = "leave"
    #: to suspend its trial and end
    SUSPEND = "suspend"


@dataclass(frozen=True, kw_only=True)
class WorkerStatus:
    """Status that a worker sends with each heartbeat."""

    #: "" until its trainer is ready
    device: str = ""
    #: of Python, Keras, TensorFlow and tuner, by name
    versions: Mapping[str, str] = field(default_factory=dict)
    memory_bytes: int | None = None
    trainer_memory_bytes: int | None = None
    #: number of the current trial; None if there is none
    trial: int | None = None
    stage: Stage | None = None


@dataclass(frozen=True, kw_only=True)
class WorkerRow:
    """A worker of a study with its last known status."""

    study: str
    #: unique id
    key: str
    #: host and name, for display
    name: str
    host: str
    #: for example "cpu, 2 threads" or "NVIDIA H100"; "" until its trainer is ready
    device: str
    threads: int | None
    #: of Python, Keras, TensorFlow and tuner, by name
    versions: Mapping[str, str]
    pid: int
    #: seconds since the epoch by the database's clock, as the fields that follow
    started_at: float
    seen_at: float
    #: None if it has not reported its end
    ended_at: float | None
    #: why it ended, in words
    ending: str
    memory_bytes: int | None
    trainer_memory_bytes: int | None
    #: number of its trial when it was last seen; None if it had none
    trial: int | None
    stage: Stage | None
    request: WorkerRequest
    #: who made the request
    requested_by: str
    #: seconds since it was last seen, at the time of reading
    silent_seconds: float

    @property
    def is_present(self) -> bool:
        """Whether the worker has not ended and was seen recently."""
        return self.ended_at is None and self.silent_seconds <= leases.timing().lease_seconds


def of_study(study: Study) -> list[WorkerRow]:
    """Return the workers of a study: active ones first, then ended and lost ones, the latest first."""
    return study.storage.read(lambda connection: read(connection, study.id))


def of_storage(storage: Storage) -> list[WorkerRow]:
    """Return the workers of all studies, in the same order as `of_study`."""
    return storage.read(lambda connection: _read(connection, WORKERS.c.study_id.is_not(None)))


def read(connection: Connection, study_id: int) -> list[WorkerRow]:
    """Return the workers of a study, in the same order as `of_study`."""
    return _read(connection, WORKERS.c.study_id == study_id)


def alive(connection: Connection, study_id: int) -> list[str]:
    """Return the names of workers that have not ended and are alive; of those on other hosts, only silence is known."""
    silent_since = tables.clock(connection) - leases.timing().lease_seconds
    active: set[str] = set()
    for table in (WORKERS, LEASES):
        for row in connection.execute(select(table).where(table.c.study_id == study_id, table.c.ended_at.is_(None))):
            is_alive = leases.is_alive_here(row.namespace, row.pid, row.process_started)
            if is_alive or (is_alive is None and row.seen_at >= silent_since):
                active.add(row.worker)
    return sorted(active)


def register(connection: Connection, study: Study, worker: WorkerId, status: WorkerStatus, *, threads: int | None) -> None:
    """Add the row of a worker unless it exists, and delete the rows of workers that ended long ago."""
    now = tables.clock(connection)
    is_here = (WORKERS.c.study_id == study.id, WORKERS.c.worker_key == worker.key)
    if connection.execute(select(WORKERS.c.pid).where(*is_here)).first() is not None:
        return
    row = insert(WORKERS).values(
        study_id=study.id,
        worker_key=worker.key,
        worker=worker.name,
        host=worker.name.rpartition("/")[0],
        namespace=worker.namespace,
        pid=worker.pid,
        process_started=worker.process_started,
        threads=threads,
        started_at=now,
        seen_at=now,
        **_columns(status),
    )
    connection.execute(row)
    _forget(connection, study.id, now)


def beat(connection: Connection, study_id: int, worker: WorkerId, status: WorkerStatus) -> WorkerRequest | None:
    """Store a heartbeat, and return the request to the worker, or None if the worker has no row.

    This is one statement if the database supports UPDATE ... RETURNING.
    """
    is_it = (WORKERS.c.study_id == study_id, WORKERS.c.worker_key == worker.key)
    change = update(WORKERS).where(*is_it).values(seen_at=tables.now(connection), **_columns(status))
    if connection.dialect.update_returning:
        row = connection.execute(change.returning(WORKERS.c.wish)).first()
    else:
        connection.execute(change)
        row = connection.execute(select(WORKERS.c.wish).where(*is_it)).first()
    return None if row is None else WorkerRequest(row[0])


def leave(connection: Connection, study_id: int, worker: WorkerId, ending: str) -> None:
    """Store that a worker has ended, and why."""
    is_it = (WORKERS.c.study_id == study_id, WORKERS.c.worker_key == worker.key)
    now = tables.now(connection)
    change = update(WORKERS).where(*is_it)
    connection.execute(change.values(seen_at=now, ended_at=now, ending=ending[:200], trial_number=None, stage=""))


def request_to(connection: Connection, study_id: int, worker_key: str) -> tuple[WorkerRequest, str]:
    """Return the request to a worker, and who made it."""
    query = select(WORKERS.c.wish, WORKERS.c.wished_by).where(WORKERS.c.study_id == study_id, WORKERS.c.worker_key == worker_key)
    row = connection.execute(query).first()
    return (WorkerRequest.NONE, "") if row is None else (WorkerRequest(row[0]), str(row[1]))


def ask(connection: Connection, request: WorkerRequest, *where: ColumnElement[bool], by: str) -> int:
    """Store a request to workers that have not ended, and return their number."""
    change = update(WORKERS).where(*where, WORKERS.c.ended_at.is_(None)).values(wish=request.value, wished_by=by[:200])
    return connection.execute(change).rowcount


def withdraw_suspensions(connection: Connection, study_id: int) -> None:
    """Withdraw the request to suspend from workers that have not read it yet."""
    is_asked = (WORKERS.c.study_id == study_id, WORKERS.c.wish == WorkerRequest.SUSPEND.value)
    connection.execute(update(WORKERS).where(*is_asked).values(wish=WorkerRequest.NONE.value, wished_by=""))


def _columns(status: WorkerStatus) -> dict[str, Any]:
    return {
        "device": status.device[:200],
        "versions": json.dumps({name: version[:40] for name, version in list(status.versions.items())[:6]}),
        "memory_bytes": status.memory_bytes,
        "trainer_memory_bytes": status.trainer_memory_bytes,
        "trial_number": status.trial,
        "stage": status.stage.value if status.stage else "",
    }


def _forget(connection: Connection, study_id: int, now: float) -> None:
    """Delete the rows of workers that ended or were lost long ago; of more recent ones, keep only the latest."""
    is_of_study = WORKERS.c.study_id == study_id
    is_silent = (is_of_study, WORKERS.c.seen_at < now - leases.timing().lease_seconds)
    latest = select(WORKERS.c.seen_at).where(*is_silent).order_by(WORKERS.c.seen_at.desc()).offset(MAX_ENDED).limit(1)
    oldest = connection.execute(latest).scalar_one_or_none() or 0.0
    connection.execute(delete(WORKERS).where(is_of_study, WORKERS.c.seen_at <= max(oldest, now - MAX_AGE_SECONDS)))


def _read(connection: Connection, where: ColumnElement[bool]) -> list[WorkerRow]:
    query = select(WORKERS, STUDIES.c.study_name, tables.now(connection).label("now"))
    query = query.join(STUDIES, STUDIES.c.study_id == WORKERS.c.study_id).where(where)
    found = [_worker(row) for row in connection.execute(query.order_by(WORKERS.c.started_at, WORKERS.c.worker_key))]
    gone = sorted((worker for worker in found if not worker.is_present), key=lambda worker: -worker.seen_at)
    return [worker for worker in found if worker.is_present] + gone


def _worker(row: Row[Any]) -> WorkerRow:
    return WorkerRow(
        study=row.study_name,
        key=row.worker_key,
        name=row.worker,
        host=row.host,
        device=row.device,
        threads=row.threads,
        versions=json.loads(row.versions),
        pid=row.pid,
        started_at=row.started_at,
        seen_at=row.seen_at,
        ended_at=row.ended_at,
        ending=row.ending,
        memory_bytes=row.memory_bytes,
        trainer_memory_bytes=row.trainer_memory_bytes,
        trial=row.trial_number,
        stage=Stage(row.stage) if row.stage else None,
        request=WorkerRequest(row.wish),
        requested_by=row.wished_by,
        silent_seconds=max(0.0, float(row.now) - row.seen_at),
    )
