"""The versions of a name: kept once, numbered, never changed; and who read the test split for them.

A completed trial into a version, as the search measured it.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from tuner import wording
from tuner.errors import VersionError
from tuner.results import export
from tuner.results.best import Best
from tuner.results.bundle import manifest
from tuner.storage import tables
from tuner.storage.engine import Storage
from tuner.storage.tables import READINGS, STAGES, VERSIONS

#: other processes that may take the number before this one does
_TRIES = 20


class WeightsSource(StrEnum):
    """What a version's weights come from."""

    TRIAL = "trial"
    RETRAINING = "retraining"


class VersionStage(StrEnum):
    """What a version is used for."""

    STAGING = "staging"
    PRODUCTION = "production"


@dataclass(frozen=True, kw_only=True)
class NewVersion:
    """A model to be kept as a version."""

    #: of the model: the study's, unless someone chose another
    name: str
    study: str
    origin: WeightsSource
    #: whose hyperparameters it was trained with
    trial: int | None
    #: the study file of fixed values that it was trained by, as `results.config` gives it, in JSON's types
    config: Mapping[str, Any]
    #: what was measured, in JSON's types, nested as one likes; `validation_accuracy` and `test_accuracy` are shown in lists
    metrics: Mapping[str, Any]
    #: of the data, and of its splits
    fingerprint: str
    splits: str
    #: path or URL of the weights, which no one may write to from then on
    artifact: str
    #: SHA-256 of the weights, in hexadecimal
    sha256: str
    #: who had it made
    created_by: str


@dataclass(frozen=True, kw_only=True)
class Version:
    """A model that was kept."""

    #: counts up from 1 for each name; never given twice
    number: int
    kept: NewVersion
    #: seconds since the epoch by the database's clock
    created_at: float
    #: the same; None while it is there
    deleted_at: float | None = None
    deleted_by: str | None = None
    #: what it is used for now
    stages: tuple[VersionStage, ...] = ()

    @property
    def name(self) -> str:
        """The name that it is a version of."""
        return self.kept.name

    @property
    def is_deleted(self) -> bool:
        """Whether someone deleted it."""
        return self.deleted_at is not None


@dataclass(frozen=True, kw_only=True)
class NewReading:
    """A look at the test split."""

    #: fingerprint of the splits
    splits: str
    by: str
    #: what for: "retrain", "verify", ...
    purpose: str
    accuracy: float
    num_images: int


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A look at the test split, as it was recorded."""

    name: str
    version: int
    #: seconds since the epoch by the database's clock
    at: float
    look: NewReading
    #: counts the looks at the same test split for the same version, from 1: from 2 on its figure is not of unseen images
    ordinal: int = 1


def add(storage: Storage, new: NewVersion, *, reading: NewReading | None = None) -> Version:
    """Keep a version under the next number of its name, and with it the look at the test split that its metrics come from.

    Raises:
        ValueError: config or metrics hold what JSON does not, such as NaN.
    """
    values = _row(new)

    def write(connection: Connection) -> Version:
        lock(connection, new.name)
        last = connection.execute(select(func.max(VERSIONS.c.number)).where(VERSIONS.c.name == new.name)).scalar()
        number = (last or 0) + 1
        connection.execute(insert(VERSIONS).values(number=number, created_at=tables.clock(connection), **values))
        if reading is not None:
            _record(connection, new.name, number, reading)
        return must_find(connection, new.name, number)

    def attempt() -> Version:
        for remaining in reversed(range(_TRIES)):
            try:
                return storage.transact(write)
            except IntegrityError:  # the first of a name has no row to lock; another process had the same number
                if not remaining:
                    raise
        raise AssertionError("the last try returns or raises")

    return storage.call(attempt)


def find(storage: Storage, name: str, number: int | None = None) -> Version:
    """A version that is there; without a number the one in production, else the latest.

    Raises:
        VersionError: it is not, or was deleted.
    """

    def look(connection: Connection) -> Version:
        if number is not None:
            return must_find(connection, name, number)
        known = [version for version in read(connection, name) if not version.is_deleted]
        if not known:
            raise _missing(connection, name)
        return next((version for version in known if VersionStage.PRODUCTION in version.stages), known[-1])

    return storage.read(look)


def all(storage: Storage, name: str | None = None, *, deleted: bool = False) -> list[Version]:  # noqa: A001
    """The versions of a name, or of all names, the oldest first; with `deleted` also those."""
    found = storage.read(lambda connection: read(connection, name))
    return [version for version in found if deleted or not version.is_deleted]


def delete(storage: Storage, name: str, number: int, *, by: str) -> Version:
    """Mark a version as deleted, for good; as it was. Its weights are left to the caller.

    Raises:
        VersionError: it is not there, or is in a stage.
    """

    def write(connection: Connection) -> Version:
        lock(connection, name)
        version = must_find(connection, name, number)
        if version.stages:
            where = wording.listed(version.stages)
            raise VersionError(
                f"{name} {number} is in {where} and is not deleted; put another version there first (tuner promote {name} NUMBER "
                f"--to {version.stages[0]}), or take it out (tuner rollback {name} --stage {version.stages[0]} --withdraw)"
            )
        is_it = (VERSIONS.c.name == name, VERSIONS.c.number == number)
        connection.execute(update(VERSIONS).where(*is_it).values(deleted_at=tables.clock(connection), deleted_by=by))
        return version

    return storage.write(write)


def record_reading(storage: Storage, name: str, number: int, look: NewReading) -> Reading:
    """Record a look at the test split for a version; how many there were of the same is in what is returned.

    Raises:
        VersionError: the version is not there.
    """

    def write(connection: Connection) -> Reading:
        lock(connection, name)
        must_find(connection, name, number)
        _record(connection, name, number, look)
        return _readings(connection, name, number)[-1]

    return storage.write(write)


def readings(storage: Storage, name: str | None = None, number: int | None = None) -> list[Reading]:
    """The looks at the test split for a version, for all versions of a name, or for those of all names, the oldest first."""
    return storage.read(lambda connection: _readings(connection, name, number))


def lock(connection: Connection, name: str) -> None:
    """Let no other change versions or stages of this name until the transaction ends."""
    connection.execute(select(VERSIONS.c.number).where(VERSIONS.c.name == name).with_for_update()).all()


def read(connection: Connection, name: str | None) -> list[Version]:
    """The versions of a name, or of all names, with the deleted ones, the oldest of each name first; inside a transaction."""
    query = select(VERSIONS).order_by(VERSIONS.c.name, VERSIONS.c.number)
    rows = connection.execute(query if name is None else query.where(VERSIONS.c.name == name)).all()
    now = _in_stages(connection, name)
    return [_version(row, tuple(stage for (of, stage), number in now.items() if (of, number) == (row.name, row.number))) for row in rows]


def must_find(connection: Connection, name: str, number: int) -> Version:
    """A version that is there, inside a transaction.

    Raises:
        VersionError: it is not, or was deleted.
    """
    found = next((version for version in read(connection, name) if version.number == number), None)
    if found is None:
        raise _missing(connection, name, number)
    if found.deleted_at is not None:
        when = wording.moment(found.deleted_at)
        raise VersionError(f"{name} {number} was deleted by {found.deleted_by} on {when}; what there is: tuner versions {name}")
    return found


def _in_stages(connection: Connection, name: str | None) -> dict[tuple[str, VersionStage], int | None]:
    """What is in the stages of each name now."""
    last = select(func.max(STAGES.c.id)).group_by(STAGES.c.name, STAGES.c.stage)
    query = select(STAGES.c.name, STAGES.c.stage, STAGES.c.version).where(STAGES.c.id.in_(last)).order_by(STAGES.c.stage)
    rows = connection.execute(query if name is None else query.where(STAGES.c.name == name))
    return {(row.name, VersionStage(row.stage)): row.version for row in rows}


def _version(row: Row[Any, Any], stages: tuple[VersionStage, ...]) -> Version:
    fields = row._asdict()
    own = {name: fields.pop(name) for name in ("number", "created_at", "deleted_at", "deleted_by")}
    fields |= {"origin": WeightsSource(row.origin), "config": json.loads(row.config), "metrics": json.loads(row.metrics)}
    return Version(kept=NewVersion(**fields), stages=stages, **own)


def _row(new: NewVersion) -> dict[str, Any]:
    return asdict(new) | {"config": json.dumps(new.config, allow_nan=False), "metrics": json.dumps(new.metrics, allow_nan=False)}


def _record(connection: Connection, name: str, number: int, look: NewReading) -> None:
    connection.execute(insert(READINGS).values(name=name, version=number, at=tables.clock(connection), **asdict(look)))


def _readings(connection: Connection, name: str | None, number: int | None) -> list[Reading]:
    query = select(READINGS).order_by(READINGS.c.id)
    query = query if name is None else query.where(READINGS.c.name == name)
    seen: Counter[tuple[str, int, str]] = Counter()
    found = []
    for row in connection.execute(query if number is None else query.where(READINGS.c.version == number)):
        seen[row.name, row.version, row.splits] += 1
        look = NewReading(splits=row.splits, by=row.by, purpose=row.purpose, accuracy=row.accuracy, num_images=row.num_images)
        found.append(Reading(name=row.name, version=row.version, at=row.at, look=look, ordinal=seen[row.name, row.version, row.splits]))
    return found


def _missing(connection: Connection, name: str, number: int | None = None) -> VersionError:
    versions = [version for version in read(connection, None) if not version.is_deleted]
    numbers = [str(version.number) for version in versions if version.name == name]
    if numbers:
        return VersionError(f"there is no version {number} of {name}; there are {wording.listed(numbers)}")
    known = wording.known(sorted({version.name for version in versions}), name) if versions else "There is no version of anything yet."
    return VersionError(f"there is no version of {name}. {known} One is made by: tuner retrain {name}")


def of_trial(best: Best, weights: Path, *, by: str) -> tuple[NewVersion, NewReading | None]:
    """A trial whose weights are in a file, and the look at the test split that scored it; None: it was not scored."""
    prepared = best.prepared
    new = NewVersion(
        name=best.spec.name,
        study=best.spec.name,
        origin=WeightsSource.TRIAL,
        trial=best.trial,
        config=export.resolved(best).model_dump(mode="json"),
        metrics={"validation_accuracy": best.value, "test_accuracy": best.test_accuracy, "num_test": best.num_test},
        fingerprint=prepared.fingerprint,
        splits=prepared.splits,
        artifact=str(best.weights),
        sha256=manifest.digest(weights),
        created_by=by,
    )
    if best.test_accuracy is None:
        return new, None
    reading = NewReading(splits=prepared.splits, by=by, purpose="run", accuracy=best.test_accuracy, num_images=best.num_test)
    return new, reading
