"""Stages: which version of a name is in staging or production, as a history of events; the last one counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, insert, select

from tuner.errors import VersionError
from tuner.results.versions import versions
from tuner.results.versions.versions import Version, VersionStage
from tuner.storage import tables
from tuner.storage.engine import Storage
from tuner.storage.tables import STAGES


class StageAction(StrEnum):
    """The kinds of changes of a stage."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, kw_only=True)
class StageEvent:
    """A change of a stage."""

    name: str
    stage: VersionStage
    change: StageAction
    #: version in the stage from then on; None if it is empty
    version: int | None
    #: seconds since the epoch by the database's clock
    at: float
    by: str


def promote(storage: Storage, name: str, number: int, *, stage: VersionStage = VersionStage.PRODUCTION, by: str) -> StageEvent:
    """Put a version into a stage, where it replaces another one; if it is already there, write nothing.

    Raises:
        VersionError: there is no such version, or it was deleted.
    """

    def write(connection: Connection) -> StageEvent:
        versions.lock(connection, name)
        versions.must_find(connection, name, number)
        past = _events(connection, name, stage)
        if past and past[-1].version == number:
            return past[-1]
        return _write(connection, name, stage, change=StageAction.PROMOTED, version=number, by=by)

    return storage.write(write)


def rollback(storage: Storage, name: str, *, stage: VersionStage = VersionStage.PRODUCTION, by: str) -> StageEvent:
    """Roll a stage back to its previous version; a second call goes back one more.

    Raises:
        VersionError: there is no previous version, or all of them were deleted.
    """

    def write(connection: Connection) -> StageEvent:
        versions.lock(connection, name)
        before = _before(connection, name, stage)
        return _write(connection, name, stage, change=StageAction.ROLLED_BACK, version=before.number, by=by)

    return storage.write(write)


def withdraw(storage: Storage, name: str, *, stage: VersionStage = VersionStage.PRODUCTION, by: str) -> StageEvent:
    """Remove the version from a stage.

    Raises:
        VersionError: the stage is empty.
    """

    def write(connection: Connection) -> StageEvent:
        versions.lock(connection, name)
        past = _events(connection, name, stage)
        if not past or past[-1].version is None:
            raise VersionError(f"there is no version of {name} in {stage}; to list the versions: tuner versions {name}")
        return _write(connection, name, stage, change=StageAction.WITHDRAWN, version=None, by=by)

    return storage.write(write)


def history(storage: Storage, name: str) -> list[StageEvent]:
    """Return the changes of a name's stages, oldest first."""
    return storage.read(lambda connection: _events(connection, name, None))


def past_versions(events: Sequence[StageEvent]) -> list[int | None]:
    """Return the versions that rollbacks go through, the current one last: a promotion appends, a rollback removes the later ones."""
    stack: list[int | None] = []
    for event in events:
        if event.change is StageAction.ROLLED_BACK:
            while stack and stack[-1] != event.version:
                stack.pop()
        else:
            stack.append(event.version)
    return stack


def _before(connection: Connection, name: str, stage: VersionStage) -> Version:
    """Return the previous version of a stage that is not deleted."""
    stack = past_versions(_events(connection, name, stage))
    existing = {version.number: version for version in versions.read(connection, name) if not version.is_deleted}
    for number in reversed(stack[:-1]):
        if number is not None and number in existing and number != stack[-1]:
            return existing[number]
    if not stack:
        raise VersionError(f"no version of {name} was ever in {stage}; to list the versions: tuner versions {name}")
    raise VersionError(
        f"{stage} of {name} has no previous version that still exists; promote another one: tuner promote {name} NUMBER --to {stage}"
    )


def _events(connection: Connection, name: str, stage: VersionStage | None) -> list[StageEvent]:
    query = select(STAGES).where(STAGES.c.name == name).order_by(STAGES.c.id)
    rows = connection.execute(query if stage is None else query.where(STAGES.c.stage == stage))
    return [
        StageEvent(name=row.name, stage=VersionStage(row.stage), change=StageAction(row.change), version=row.version, at=row.at, by=row.by)
        for row in rows
    ]


def _write(connection: Connection, name: str, stage: VersionStage, *, change: StageAction, version: int | None, by: str) -> StageEvent:
    row = {"name": name, "stage": stage.value, "change": change.value, "version": version, "at": tables.clock(connection), "by": by}
    connection.execute(insert(STAGES).values(**row))
    return _events(connection, name, stage)[-1]
