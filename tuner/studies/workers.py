"""The workers of a study: who is at work, on what and on which device, and what someone asks of them.

A worker has a row from its start on, which its heartbeat renews. Rows of workers that ended long ago are deleted when another one starts.
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
from tuner.storage.tables import STUDIES, WORKERS
from tuner.studies.leases import LEASE_SECONDS, WorkerId
from tuner.studies.study import Study

#: for how long, and how many, workers that have ended are remembered
KEPT_SECONDS = 7 * 86_400.0
KEPT_WORKERS = 100


class WorkerRequest(StrEnum):
    """What someone asks of a worker."""

    NONE = ""
    #: to end after its trial
    LEAVE = "leave"
    #: to hand its trial back and end
    SUSPEND = "suspend"


@dataclass(frozen=True, kw_only=True)
class WorkerStatus:
    """What a worker says of itself with each beat."""

    #: "" until its trainer is ready
    device: str = ""
    #: of Python, Keras, TensorFlow, tuner
    versions: Mapping[str, str] = field(default_factory=dict)
    memory_bytes: int | None = None
    trainer_memory_bytes: int | None = None
    #: at hand; None: none
    trial: int | None = None
    stage: Stage | None = None


@dataclass(frozen=True, kw_only=True)
class WorkerRow:
    """A worker of a study, as it was last seen."""

    study: str
    #: unique
    key: str
    #: for people: host and name
    name: str
    host: str
    #: for example "cpu, 2 threads" or "NVIDIA H100"; "" until its trainer is ready
    device: str
    threads: int | None
    #: of Python, Keras, TensorFlow, tuner
    versions: Mapping[str, str]
    pid: int
    #: seconds since the epoch by the database's clock, as all that follow
    started_at: float
    seen_at: float
    #: None: it has not said that it ended
    ended_at: float | None
    #: why it ended, in words
    ending: str
    memory_bytes: int | None
    trainer_memory_bytes: int | None
    #: at hand when it was last seen; None: none
    trial: int | None
    stage: Stage | None
    wish: WorkerRequest
    #: who has that wish
    wished_by: str
    #: since it was last seen, when it was read
    silent_seconds: float

    @property
    def is_present(self) -> bool:
        """Whether it is at work as far as anyone knows."""
        return self.ended_at is None and self.silent_seconds <= LEASE_SECONDS


def of_study(study: Study) -> list[WorkerRow]:
    """The workers of a study: those at work first, then those that have ended or gone, the latest first."""
    return study.storage.read(lambda connection: read(connection, study.id))


def of_storage(storage: Storage) -> list[WorkerRow]:
    """The workers of all studies, in the same order."""
    return storage.read(lambda connection: _read(connection, WORKERS.c.study_id.is_not(None)))


def read(connection: Connection, study_id: int) -> list[WorkerRow]:
    """The workers of a study, in the same order."""
    return _read(connection, WORKERS.c.study_id == study_id)


def register(connection: Connection, study: Study, worker: WorkerId, pulse: WorkerStatus, *, threads: int | None) -> None:
    """Take a worker up, and forget those that ended long ago; one that is there stays as it is."""
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
        **_pulse(pulse),
    )
    connection.execute(row)
    _forget(connection, study.id, now)


def beat(connection: Connection, study_id: int, worker: WorkerId, pulse: WorkerStatus) -> WorkerRequest | None:
    """Note that a worker lives; what someone asks of it, None if it is not known here. One statement where the database can answer it."""
    is_it = (WORKERS.c.study_id == study_id, WORKERS.c.worker_key == worker.key)
    change = update(WORKERS).where(*is_it).values(seen_at=tables.now(connection), **_pulse(pulse))
    if connection.dialect.update_returning:
        row = connection.execute(change.returning(WORKERS.c.wish)).first()
    else:
        connection.execute(change)
        row = connection.execute(select(WORKERS.c.wish).where(*is_it)).first()
    return None if row is None else WorkerRequest(row[0])


def leave(connection: Connection, study_id: int, worker: WorkerId, ending: str) -> None:
    """Note that a worker has ended, and why."""
    is_it = (WORKERS.c.study_id == study_id, WORKERS.c.worker_key == worker.key)
    now = tables.now(connection)
    change = update(WORKERS).where(*is_it)
    connection.execute(change.values(seen_at=now, ended_at=now, ending=ending[:200], trial_number=None, stage=""))


def wish(connection: Connection, study_id: int, worker_key: str) -> tuple[WorkerRequest, str]:
    """What someone asks of a worker, and who."""
    query = select(WORKERS.c.wish, WORKERS.c.wished_by).where(WORKERS.c.study_id == study_id, WORKERS.c.worker_key == worker_key)
    row = connection.execute(query).first()
    return (WorkerRequest.NONE, "") if row is None else (WorkerRequest(row[0]), str(row[1]))


def ask(connection: Connection, wish: WorkerRequest, *where: ColumnElement[bool], by: str) -> int:
    """Ask something of workers that have not ended; how many there are."""
    change = update(WORKERS).where(*where, WORKERS.c.ended_at.is_(None)).values(wish=wish.value, wished_by=by[:200])
    return connection.execute(change).rowcount


def forgive(connection: Connection, study_id: int) -> None:
    """Let workers that were to hand their trials back go on, those that have not heard of it."""
    is_asked = (WORKERS.c.study_id == study_id, WORKERS.c.wish == WorkerRequest.SUSPEND.value)
    connection.execute(update(WORKERS).where(*is_asked).values(wish=WorkerRequest.NONE.value, wished_by=""))


def _pulse(pulse: WorkerStatus) -> dict[str, Any]:
    return {
        "device": pulse.device[:200],
        "versions": json.dumps({name: version[:40] for name, version in list(pulse.versions.items())[:6]}),
        "memory_bytes": pulse.memory_bytes,
        "trainer_memory_bytes": pulse.trainer_memory_bytes,
        "trial_number": pulse.trial,
        "stage": pulse.stage.value if pulse.stage else "",
    }


def _forget(connection: Connection, study_id: int, now: float) -> None:
    """Delete the rows of workers that ended, or fell silent, long ago, and of the others all but the latest."""
    is_of_study = WORKERS.c.study_id == study_id
    is_silent = (is_of_study, WORKERS.c.seen_at < now - LEASE_SECONDS)
    latest = select(WORKERS.c.seen_at).where(*is_silent).order_by(WORKERS.c.seen_at.desc()).offset(KEPT_WORKERS).limit(1)
    oldest = connection.execute(latest).scalar_one_or_none() or 0.0
    connection.execute(delete(WORKERS).where(is_of_study, WORKERS.c.seen_at <= max(oldest, now - KEPT_SECONDS)))


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
        wish=WorkerRequest(row.wish),
        wished_by=row.wished_by,
        silent_seconds=max(0.0, float(row.now) - row.seen_at),
    )
