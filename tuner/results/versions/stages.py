"""Which version of a name is in a stage: one event a change, the last one holds."""

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
    """What someone did."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, kw_only=True)
class StageEvent:
    """A change of what is in a stage."""

    name: str
    stage: VersionStage
    change: StageAction
    #: what is there from then on; None: nothing
    version: int | None
    #: seconds since the epoch by the database's clock
    at: float
    by: str


def promote(storage: Storage, name: str, number: int, *, stage: VersionStage = VersionStage.PRODUCTION, by: str) -> StageEvent:
    """Put a version into a stage, in place of what is there; nothing is written if it is there already.

    Raises:
        VersionError: it is not there, or was deleted.
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
    """Put the version back into a stage that was there before the present one; once more, the one before that.

    Raises:
        VersionError: there was none before, or all of them were deleted.
    """

    def write(connection: Connection) -> StageEvent:
        versions.lock(connection, name)
        before = _before(connection, name, stage)
        return _write(connection, name, stage, change=StageAction.ROLLED_BACK, version=before.number, by=by)

    return storage.write(write)


def withdraw(storage: Storage, name: str, *, stage: VersionStage = VersionStage.PRODUCTION, by: str) -> StageEvent:
    """Take what is in a stage out of it.

    Raises:
        VersionError: there is nothing in it.
    """

    def write(connection: Connection) -> StageEvent:
        versions.lock(connection, name)
        past = _events(connection, name, stage)
        if not past or past[-1].version is None:
            raise VersionError(f"there is no version of {name} in {stage}; what there is: tuner versions {name}")
        return _write(connection, name, stage, change=StageAction.WITHDRAWN, version=None, by=by)

    return storage.write(write)


def history(storage: Storage, name: str) -> list[StageEvent]:
    """What was changed of a name's stages, the oldest first."""
    return storage.read(lambda connection: _events(connection, name, None))


def standing(events: Sequence[StageEvent]) -> list[int | None]:
    """What a stage would go back through, the present last: a promotion adds to it, a rollback takes away what came after."""
    stack: list[int | None] = []
    for event in events:
        if event.change is StageAction.ROLLED_BACK:
            while stack and stack[-1] != event.version:
                stack.pop()
        else:
            stack.append(event.version)
    return stack


def _before(connection: Connection, name: str, stage: VersionStage) -> Version:
    """The latest earlier version of a stage that is still there."""
    stack = standing(_events(connection, name, stage))
    there = {version.number: version for version in versions.read(connection, name) if not version.is_deleted}
    for number in reversed(stack[:-1]):
        if number is not None and number in there and number != stack[-1]:
            return there[number]
    if not stack:
        raise VersionError(f"no version of {name} was ever in {stage}; what there is: tuner versions {name}")
    raise VersionError(
        f"no version of {name} that is still there was in {stage} before; put another one there: tuner promote {name} NUMBER --to {stage}"
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
