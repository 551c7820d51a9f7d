"""Versions: models that are stored under a name and a number and never changed, and the readings of the test split for them."""

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
from tuner.spec.study import StudySpec
from tuner.storage import tables
from tuner.storage.engine import Storage
from tuner.storage.tables import READINGS, STAGES, VERSIONS
from tuner.studies import moved

#: tries to take the next number, which other processes may take first
_TRIES = 20


class WeightsSource(StrEnum):
    """The origin of a version's weights."""

    TRIAL = "trial"
    RETRAINING = "retraining"


class VersionStage(StrEnum):
    """The stages of versions."""

    STAGING = "staging"
    PRODUCTION = "production"


@dataclass(frozen=True, kw_only=True)
class NewVersion:
    """A model that becomes a version."""

    #: name of the model; by default that of the study
    name: str
    study: str
    origin: WeightsSource
    #: trial with the same hyperparameters
    trial: int | None
    #: its study file with fixed values, from `results.export`, as JSON types
    config: Mapping[str, Any]
    #: its measurements as JSON types, at any depth
    metrics: Mapping[str, Any]
    #: fingerprints of the data and of its splits
    fingerprint: str
    splits: str
    #: path or URL of the weights, which must not change any more
    artifact: str
    #: SHA-256 of the weights, hexadecimal
    sha256: str
    #: user who made it
    created_by: str

    @property
    def scores(self) -> tuple[float | None, float | None]:
        """Its figures on the validation and on the test data: the metric of its study, which is the accuracy if none is named."""
        names = ("value", "test_value") if "value" in self.metrics else ("validation_accuracy", "test_accuracy")
        found = [self.metrics.get(name) for name in names]
        validation, test = (each if isinstance(each, int | float) else None for each in found)
        return validation, test


@dataclass(frozen=True, kw_only=True)
class Version:
    """A model that was kept, with its number."""

    #: counted from 1 for each name; never used twice
    number: int
    model: NewVersion
    #: seconds since the epoch by the database's clock
    created_at: float
    #: when it was deleted; None if it was not
    deleted_at: float | None = None
    deleted_by: str | None = None
    #: its current stages
    stages: tuple[VersionStage, ...] = ()

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.model.name

    @property
    def is_deleted(self) -> bool:
        """Whether it was deleted."""
        return self.deleted_at is not None


@dataclass(frozen=True, kw_only=True)
class NewReading:
    """A reading of the test split."""

    #: fingerprint of the splits
    splits: str
    by: str
    #: purpose: "retrain", "verify", …
    purpose: str
    accuracy: float
    num_images: int


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A recorded reading of the test split."""

    name: str
    version: int
    #: seconds since the epoch by the database's clock
    at: float
    content: NewReading
    #: number of this reading among those of the same version and test split; from 2 on the images are not unseen any more
    ordinal: int = 1


def add(storage: Storage, new: NewVersion, *, reading: NewReading | None = None) -> Version:
    """Store a model under the next number of its name, with the reading of the test split that its metrics come from.

    Raises:
        ValueError: config or metrics hold values that JSON does not allow, such as NaN.
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
            except IntegrityError:  # the first version of a name has no row to lock, so another process may take the same number
                if not remaining:
                    raise
        raise AssertionError("the last try returns or raises")

    return storage.call(attempt)


def find(storage: Storage, name: str, number: int | None = None) -> Version:
    """Return a version; without a number, the one in production, else the latest.

    Raises:
        VersionError: there is no such version, or it was deleted.
    """

    def find_one(connection: Connection) -> Version:
        if number is not None:
            return must_find(connection, name, number)
        known = [version for version in read(connection, name) if not version.is_deleted]
        if not known:
            raise _missing(connection, name)
        return next((version for version in known if VersionStage.PRODUCTION in version.stages), known[-1])

    return storage.read(find_one)


def all(storage: Storage, name: str | None = None, *, deleted: bool = False) -> list[Version]:  # noqa: A001
    """Return the versions of a name or of all names, oldest first; with `deleted`, including deleted ones."""
    found = storage.read(lambda connection: read(connection, name))
    return [version for version in found if deleted or not version.is_deleted]


def delete(storage: Storage, name: str, number: int, *, by: str) -> Version:
    """Mark a version as deleted and return it; the caller deletes its weights.

    Raises:
        VersionError: there is no such version, or it is in a stage.
    """

    def write(connection: Connection) -> Version:
        lock(connection, name)
        version = must_find(connection, name, number)
        if version.stages:
            where = wording.listed(version.stages)
            raise VersionError(
                f"{name} {number} is in {where}, so it is not deleted; promote another version first (tuner promote {name} NUMBER "
                f"--to {version.stages[0]}), or withdraw it (tuner rollback {name} --stage {version.stages[0]} --withdraw)"
            )
        is_it = (VERSIONS.c.name == name, VERSIONS.c.number == number)
        connection.execute(update(VERSIONS).where(*is_it).values(deleted_at=tables.clock(connection), deleted_by=by))
        return version

    return storage.write(write)


def record_reading(storage: Storage, name: str, number: int, new: NewReading) -> Reading:
    """Record a reading of the test split for a version; return it with its ordinal number.

    Raises:
        VersionError: there is no such version.
    """

    def write(connection: Connection) -> Reading:
        lock(connection, name)
        must_find(connection, name, number)
        _record(connection, name, number, new)
        return _readings(connection, name, number)[-1]

    return storage.write(write)


def readings(storage: Storage, name: str | None = None, number: int | None = None) -> list[Reading]:
    """Return the readings for a version, for all versions of a name, or for all names, oldest first."""
    return storage.read(lambda connection: _readings(connection, name, number))


def lock(connection: Connection, name: str) -> None:
    """Lock the versions and stages of a name until the transaction ends."""
    connection.execute(select(VERSIONS.c.number).where(VERSIONS.c.name == name).with_for_update()).all()


def read(connection: Connection, name: str | None) -> list[Version]:
    """Return the versions of a name or of all names, including deleted ones, oldest first; inside a transaction."""
    query = select(VERSIONS).order_by(VERSIONS.c.name, VERSIONS.c.number)
    rows = connection.execute(query if name is None else query.where(VERSIONS.c.name == name)).all()
    now = _in_stages(connection, name)
    return [_version(row, tuple(stage for (of, stage), number in now.items() if (of, number) == (row.name, row.number))) for row in rows]


def must_find(connection: Connection, name: str, number: int) -> Version:
    """Return a version, inside a transaction.

    Raises:
        VersionError: there is no such version, or it was deleted.
    """
    found = next((version for version in read(connection, name) if version.number == number), None)
    if found is None:
        raise _missing(connection, name, number)
    if found.deleted_at is not None:
        when = wording.moment(found.deleted_at)
        raise VersionError(f"{name} {number} was deleted by {found.deleted_by} on {when}; to list the others: tuner versions {name}")
    return found


def _in_stages(connection: Connection, name: str | None) -> dict[tuple[str, VersionStage], int | None]:
    """Return the version number in each stage of each name."""
    last = select(func.max(STAGES.c.id)).group_by(STAGES.c.name, STAGES.c.stage)
    query = select(STAGES.c.name, STAGES.c.stage, STAGES.c.version).where(STAGES.c.id.in_(last)).order_by(STAGES.c.stage)
    rows = connection.execute(query if name is None else query.where(STAGES.c.name == name))
    return {(row.name, VersionStage(row.stage)): row.version for row in rows}


def _version(row: Row[Any, Any], stages: tuple[VersionStage, ...]) -> Version:
    fields = row._asdict()
    own = {name: fields.pop(name) for name in ("number", "created_at", "deleted_at", "deleted_by")}
    fields |= {"origin": WeightsSource(row.origin), "config": json.loads(row.config), "metrics": json.loads(row.metrics)}
    return Version(model=NewVersion(**fields), stages=stages, **own)


def _row(new: NewVersion) -> dict[str, Any]:
    return asdict(new) | {"config": json.dumps(new.config, allow_nan=False), "metrics": json.dumps(new.metrics, allow_nan=False)}


def _record(connection: Connection, name: str, number: int, new: NewReading) -> None:
    connection.execute(insert(READINGS).values(name=name, version=number, at=tables.clock(connection), **asdict(new)))


def _readings(connection: Connection, name: str | None, number: int | None) -> list[Reading]:
    query = select(READINGS).order_by(READINGS.c.id)
    query = query if name is None else query.where(READINGS.c.name == name)
    seen: Counter[tuple[str, int, str]] = Counter()
    found = []
    for row in connection.execute(query if number is None else query.where(READINGS.c.version == number)):
        seen[row.name, row.version, row.splits] += 1
        content = NewReading(splits=row.splits, by=row.by, purpose=row.purpose, accuracy=row.accuracy, num_images=row.num_images)
        found.append(
            Reading(name=row.name, version=row.version, at=row.at, content=content, ordinal=seen[row.name, row.version, row.splits])
        )
    return found


def _missing(connection: Connection, name: str, number: int | None = None) -> VersionError:
    versions = [version for version in read(connection, None) if not version.is_deleted]
    numbers = [str(version.number) for version in versions if version.name == name]
    if numbers:
        return VersionError(f"there is no version {number} of {name}; its versions: {wording.listed(numbers)}")
    now = moved.current_name(connection, name)
    if now != name:
        return VersionError(f"there is no version of {name}: another program renamed this study to {now}; see tuner versions {now}")
    known = wording.known(sorted({version.name for version in versions}), name) if versions else "There are no versions yet."
    return VersionError(f"there is no version of {name}. {known} To create one: tuner retrain {name}")


def _scores(best: Best) -> dict[str, Any]:
    """Return the accuracies of a trial, and its metric if that is another one; of user code, only its metric."""
    named = {"metric": best.spec.objective.metric, "value": best.validated, "test_value": best.test_value}
    if not isinstance(best.spec, StudySpec):
        return {**named, **best.costs, "num_test": best.num_test}
    found = {"validation_accuracy": best.validation_accuracy, "test_accuracy": best.test_accuracy, "num_test": best.num_test}
    return found if best.is_accuracy else found | named


def of_trial(best: Best, weights: Path, *, by: str) -> tuple[NewVersion, NewReading | None]:
    """Return a trial with a weights file as a new version, and the reading that scored it, None if it was not scored."""
    prepared = best.prepared
    new = NewVersion(
        name=best.spec.name,
        study=best.spec.name,
        origin=WeightsSource.TRIAL,
        trial=best.trial,
        config=export.resolved(best).model_dump(mode="json"),
        metrics=_scores(best),
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
