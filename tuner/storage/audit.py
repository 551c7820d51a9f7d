"""Audit: who changed what through the dashboard."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, String, insert, select

from tuner.storage import tables
from tuner.storage.engine import Storage
from tuner.storage.tables import AUDIT, STUDIES, TRIALS


@dataclass(frozen=True, kw_only=True)
class AuditEvent:
    """A request that changes something, or a sign-in."""

    #: user or token; for a failed sign-in, the name that was entered
    who: str
    #: "" if the sign-in failed
    role: str
    method: str
    path: str
    #: status of the HTTP response
    status: int
    #: its name at the time; "" if the request concerns no study
    study: str
    #: IP address of the client
    address: str


@dataclass(frozen=True, kw_only=True)
class AuditRecord:
    """A stored audit event."""

    #: rises with time
    id: int
    #: seconds since the epoch by the database's clock
    at: float
    event: AuditEvent


def write(storage: Storage, event: AuditEvent) -> None:
    """Store an event.

    Raises:
        StorageError: the database did not store it.
    """
    fields = {name: value[: _LENGTHS[name]] if isinstance(value, str) else value for name, value in asdict(event).items()}
    # databases refuse surrogates and zero bytes in text
    clean = {name: _clean(value) if isinstance(value, str) else value for name, value in fields.items()}
    storage.write(lambda connection: connection.execute(insert(AUDIT).values(at=tables.clock(connection), **clean)))


def read(storage: Storage, *, limit: int, before: int | None = None) -> Sequence[AuditRecord]:
    """Return the latest records, the newest first. With `before`, return only records with a lower id, for the next page."""

    def read_page(connection: Connection) -> list[AuditRecord]:
        query = select(AUDIT).order_by(AUDIT.c.id.desc()).limit(limit)
        rows = connection.execute(query if before is None else query.where(AUDIT.c.id < before))
        found = []
        for row in rows:
            fields = row._asdict()
            found.append(AuditRecord(id=fields.pop("id"), at=fields.pop("at"), event=AuditEvent(**fields)))
        return found

    return storage.read(read_page)


def study_name(storage: Storage, *, study_id: int | None, trial_id: int | None) -> str:
    """Return the name of a study or of a trial's study, or "" if there is none."""
    if study_id is None and trial_id is None:
        return ""
    query = select(STUDIES.c.study_name)
    if study_id is not None:
        query = query.where(STUDIES.c.study_id == study_id)
    else:
        query = query.join(TRIALS, TRIALS.c.study_id == STUDIES.c.study_id).where(TRIALS.c.trial_id == trial_id)
    return storage.read(lambda connection: connection.execute(query).scalar()) or ""


_LENGTHS = {column.name: column.type.length for column in AUDIT.columns if isinstance(column.type, String)}


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
