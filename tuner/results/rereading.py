"""What verifying a bundle reads of the test split, recorded with the version that the bundle was made of."""

import re
from collections.abc import Mapping
from typing import Any

from tuner import errands, wording
from tuner.errors import TunerError
from tuner.results import versions
from tuner.results.verification import Check, Outcome
from tuner.results.versions import NewReading
from tuner.search import storage as storages
from tuner.search.version_tables import VERSIONS
from tuner.spec import NAME

_CHECK = "test reading"


def version_of(recorded: Mapping[str, Any]) -> tuple[str, int] | None:
    """Name and number of the version that a bundle's metrics are of; None: they name none, or something that is none."""
    name, number = recorded.get("name"), recorded.get("version")
    if isinstance(name, str) and re.fullmatch(NAME, name) and type(number) is int and 0 < number < 2**31:
        return name, number
    return None


def record(url: str, named: tuple[str, int], test: errands.TestScore, *, tolerance: float, by: str) -> Check:
    """Record a reading of the test split with a version that a database keeps; where that cannot be, say why.

    A reading of other images than the version's, or of a model with another accuracy, is none of it. Nothing is created in a database
    that keeps no versions.
    """
    try:
        return _record(url, named, test, tolerance, by)
    except TunerError as error:
        return unrecorded(str(error))


def unrecorded(why: str) -> Check:
    """That a reading was made, and is recorded nowhere."""
    return Check(name=_CHECK, outcome=Outcome.NOT_CHECKED, found=(f"it is not recorded: {why}",))


def _record(url: str, named: tuple[str, int], test: errands.TestScore, tolerance: float, by: str) -> Check:
    words = f"{named[0]} {named[1]}"
    if not storages.holds(url, VERSIONS.name):
        return unrecorded(f"{storages.shown(url)} keeps no versions; name the database that keeps {words} with --storage")
    storage = storages.open(url)
    try:
        kept = versions.find(storage, *named).kept
        if (kept.fingerprint, kept.splits) != (test.fingerprint, test.splits):
            return unrecorded(f"the images read here are not the test split of {words}")
        said = kept.metrics.get("test_accuracy")
        if said is not None and abs(said - test.accuracy) > tolerance:
            return unrecorded(f"this is not the model of {words} in {storages.shown(url)}, whose test accuracy is {said:.4f}")
        look = NewReading(splits=test.splits, by=by, purpose="verify", accuracy=test.accuracy, num_images=test.num_images)
        reading = versions.record_reading(storage, *named, look)
    finally:
        storage.close()
    found = f"recorded; {words} has had {wording.count(reading.ordinal, 'reading')} of its test split"
    warning = ("what is chosen by this one has not been tested on unseen images",) if reading.ordinal > 1 else ()
    return Check(name=_CHECK, outcome=Outcome.OK, found=(found, *warning))
