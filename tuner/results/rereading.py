"""What verifying a bundle reads of the test split, recorded with the version that the bundle was made of."""

from collections.abc import Mapping
from typing import Any

from tuner import errands, wording
from tuner.errors import TunerError, VersionError
from tuner.results import versions
from tuner.results.verification import Check, Outcome
from tuner.results.versions import NewReading, Version
from tuner.search.storage import Storage

_NAME = "test reading"


def version_of(recorded: Mapping[str, Any]) -> tuple[str, int] | None:
    """Name and number of the version that a bundle's metrics are of; None: they are of a trial, or of a bundle that does not say."""
    name, number = recorded.get("name"), recorded.get("version")
    return (name, number) if isinstance(name, str) and type(number) is int else None


def find(storage: Storage, named: tuple[str, int]) -> Version | str:
    """The version, or why there is none to record a reading with."""
    try:
        return versions.find(storage, *named)
    except VersionError as error:
        return str(error)


def record(storage: Storage, version: Version, test: errands.TestScore, *, by: str) -> Check:
    """Record a reading of the test split; one of other images than the version's is none of it."""
    if (version.kept.fingerprint, version.kept.splits) != (test.fingerprint, test.splits):
        return unrecorded(f"the images read here are not the test split of {version.name} {version.number}")
    look = NewReading(splits=test.splits, by=by, purpose="verify", accuracy=test.accuracy, num_images=test.num_images)
    try:
        reading = versions.record_reading(storage, version.name, version.number, look)
    except TunerError as error:
        return Check(name=_NAME, outcome=Outcome.FAILED, found=(f"it could not be recorded: {error}",))
    said = f"recorded; {version.name} {version.number} has had {wording.count(reading.ordinal, 'reading')} of its test split"
    warning = ("what is chosen by this one has not been tested on unseen images",) if reading.ordinal > 1 else ()
    return Check(name=_NAME, outcome=Outcome.OK, found=(said, *warning))


def unrecorded(why: str) -> Check:
    """That a reading was made, and is recorded nowhere."""
    return Check(name=_NAME, outcome=Outcome.NOT_CHECKED, found=(f"it is not recorded: {why}",))
