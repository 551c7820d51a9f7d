"""Who changed what through the dashboard, into the storage and back."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, String, insert, select

from tuner.storage import tables
from tuner.storage.engine import Storage
from tuner.storage.tables import AUDIT, STUDIES, TRIALS


@dataclass(frozen=True, kw_only=True)
class AuditEvent:
    """A changing request, or a sign-in."""

    #: user or token; of a sign-in that failed, the name that was given
    who: str
    #: "" if who asked did not come in
    role: str
    method: str
    path: str
    #: of HTTP
    status: int
    #: its name at the time; "" if the request is of none
    study: str
    #: where it came from
    address: str


@dataclass(frozen=True, kw_only=True)
class AuditRecord:
    """A deed as it was recorded."""

    #: counts up
    id: int
    #: seconds since the epoch by the database's clock
    at: float
    deed: AuditEvent


def write(storage: Storage, deed: AuditEvent) -> None:
    """Record a deed.

    Raises:
        StorageError: the database does not take it.
    """
    fields = {name: value[: _LENGTHS[name]] if isinstance(value, str) else value for name, value in asdict(deed).items()}
    # a surrogate or a zero is no text to a database
    clean = {name: _clean(value) if isinstance(value, str) else value for name, value in fields.items()}
    storage.write(lambda connection: connection.execute(insert(AUDIT).values(at=tables.clock(connection), **clean)))


def read(storage: Storage, *, limit: int, before: int | None = None) -> Sequence[AuditRecord]:
    """The latest records, the newest first; `before` an id, to go on from."""

    def look(connection: Connection) -> list[AuditRecord]:
        query = select(AUDIT).order_by(AUDIT.c.id.desc()).limit(limit)
        rows = connection.execute(query if before is None else query.where(AUDIT.c.id < before))
        found = []
        for row in rows:
            fields = row._asdict()
            found.append(AuditRecord(id=fields.pop("id"), at=fields.pop("at"), deed=AuditEvent(**fields)))
        return found

    return storage.read(look)


def study_name(storage: Storage, *, study_id: int | None, trial_id: int | None) -> str:
    """The name of a study, or of the study of a trial; "" if there is none."""
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
