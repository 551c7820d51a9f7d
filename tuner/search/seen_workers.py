"""The leases of a storage into the workers that were seen of late."""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from tuner.search import leases
from tuner.search.leases import LEASE_SECONDS
from tuner.search.tables import LEASES, STUDIES

#: a worker that was not seen for longer is left out
RECENT_SECONDS = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class SeenWorker:
    """A worker, as its leases show it."""

    key: str
    #: host and name
    name: str
    study_id: int
    #: "": the study was deleted
    study: str
    #: the trial at hand, or the last one
    trial: int
    attempt: int
    #: whether it has the trial still
    is_at_work: bool
    #: since it was last seen
    silent_seconds: float
    #: since its first attempt in this study
    seconds: float
    num_attempts: int

    @property
    def host(self) -> str:
        """Where it runs."""
        return self.name.partition("/")[0]


def read(connection: Connection, *, limit: int) -> list[SeenWorker]:
    """The workers that were seen within a day, those at work first; a worker belongs to one study."""
    now = leases.clock(connection)
    last = select(
        *(LEASES.c[name] for name in ("worker_key", "worker", "study_id", "trial_number", "attempt", "started_at", "seen_at", "ended_at")),
        func.row_number().over(partition_by=LEASES.c.worker_key, order_by=LEASES.c.started_at.desc()).label("place"),
        func.count().over(partition_by=LEASES.c.worker_key).label("num"),
        func.min(LEASES.c.started_at).over(partition_by=LEASES.c.worker_key).label("first"),
    ).subquery()
    query = (
        select(last, STUDIES.c.study_name)
        .select_from(last.outerjoin(STUDIES, STUDIES.c.study_id == last.c.study_id))
        .where(last.c.place == 1, last.c.seen_at > now - RECENT_SECONDS)
        .order_by(last.c.ended_at.is_not(None), last.c.seen_at.desc())
        .limit(limit)
    )
    return [
        SeenWorker(
            key=row.worker_key,
            name=row.worker,
            study_id=row.study_id,
            study=row.study_name or "",
            trial=row.trial_number,
            attempt=row.attempt,
            is_at_work=row.ended_at is None and row.seen_at + LEASE_SECONDS >= now,
            silent_seconds=max(0.0, now - row.seen_at),
            seconds=max(0.0, now - row.first),
            num_attempts=row.num,
        )
        for row in connection.execute(query)
    ]
