"""`tuner versions`, `promote`, `rollback` and `diff`: what was kept of studies, and which of it is in use."""

import dataclasses
import datetime as dt
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tuner import wording
from tuner.commands import artifacts, controlling, options, showing
from tuner.commands.registering import Elsewhere
from tuner.errors import RequestError, VersionError
from tuner.results import best as bests
from tuner.results import differences, keeping, stages, versions
from tuner.results.stages import Event
from tuner.results.versions import Reading, Stage, Version
from tuner.search import storage as storages
from tuner.search.storage import Storage
from tuner.terminal import kept as shown
from tuner.terminal import plain, printing


def show(name: str | None, url: str, *, deleted: bool, as_json: bool) -> int:
    """Print the versions of a name, or of all."""
    storage = _open(url)
    found = [] if storage is None else versions.all(storage, name, deleted=deleted)
    if name is not None and not found:
        raise _nothing(name, url, storage)
    readings = [] if storage is None else versions.readings(storage, name)
    if as_json:
        plain.result(json.dumps([_as_json(version, readings, whole=name is not None) for version in found], indent=2))
    elif not found:
        plain.result(f"There is no version in {storages.shown(url)} yet. One is made by: tuner retrain STUDY")
    else:
        printing.result(shown.table(found, readings))
        if name is not None and storage is not None:
            printing.result(*shown.history(stages.history(storage, name), readings))
    return 0


def named(name: str | None, option: str, number: int, *, but: int | None = None) -> str:
    """The name that an option is of.

    Raises:
        RequestError: none is given, or another option, too.
    """
    if but is not None:
        raise RequestError("--add and --delete are both given; choose one.")
    if name is None:
        raise RequestError(f"{option} is {number}, of no name; expected for example: tuner versions flowers {option} {number}")
    return name


def add(name: str, url: str, trial: int, *, as_json: bool) -> int:
    """Keep a trial as a version; one that is kept already is told."""
    study = showing.load(name, url)
    best = bests.of(study, trial)
    if best.weights is None:
        kept = wording.listed(bests.with_weights(study)) or "none"
        raise RequestError(f"no weights are kept of trial {trial} of the study {name}, only of trials that were the best so far: {kept}.")
    with tempfile.TemporaryDirectory(prefix="tuner-") as folder, artifacts.fetched(best.weights, Path(folder)) as weights:
        if not weights.is_file():
            raise RequestError(f"the weights of trial {trial} were kept in {weights}, which is not there; add it where it was trained")
        new, reading = keeping.of_trial(best, weights, by=controlling.user())
    there = [version for version in versions.all(study.storage, name) if version.kept.sha256 == new.sha256]
    version = there[-1] if there else versions.add(study.storage, new, reading=reading)
    if as_json:
        plain.result(json.dumps(_as_json(version, versions.readings(study.storage, name), whole=True), indent=2))
    else:
        plain.result(f"{name} {version.number} {'was kept before:' if there else 'is'} trial {trial} of {name}.")
    return 0


def delete(name: str, url: str, number: int, *, confirmed: bool, as_json: bool) -> int:
    """Delete a version for good, after asking.

    Raises:
        RequestError: no one can be asked.
        VersionError: it is not there, or is in use.
    """
    storage = _must_open(name, url)
    version = versions.find(storage, name, number)
    if not confirmed and not _agreed(version):
        plain.line("Nothing was deleted.")
        return 1
    versions.delete(storage, name, number, by=controlling.user())
    if as_json:
        (gone,) = (each for each in versions.all(storage, name, deleted=True) if each.number == number)
        plain.result(json.dumps(_as_json(gone, versions.readings(storage, name, number), whole=True), indent=2))
    else:
        plain.result(
            f"{name} {number} is deleted; its number is not given again. Its weights are left where they are: {version.kept.artifact}"
        )
    return 0


def promote(name: str, url: str, number: int, to: str, *, elsewhere: Elsewhere, as_json: bool) -> int:
    """Put a version into a stage."""
    storage, stage = _must_open(name, url), Stage(to)
    version, before = versions.find(storage, name, number), _in(storage, name, stage)
    known = elsewhere.register(version)
    event = stages.promote(storage, name, number, stage=stage, by=controlling.user())
    replaced = f", in place of {name} {before}" if before not in (None, number) else ", as it was" if before == number else ""
    return _tell(event, f"{name} {number} is in {stage}{replaced}.", elsewhere.point(event, known), as_json=as_json)


def rollback(name: str, url: str, of: str, *, withdraw: bool, elsewhere: Elsewhere, as_json: bool) -> int:
    """Put back what was in a stage before, or nothing."""
    storage, stage = _must_open(name, url), Stage(of)
    before = _in(storage, name, stage)
    change = stages.withdraw if withdraw else stages.rollback
    event = change(storage, name, stage=stage, by=controlling.user())
    gone = "" if before is None else f"{name} {before} is out of {stage}; "
    now = f"nothing of {name} is there now" if event.version is None else f"{name} {event.version} is there again"
    return _tell(event, f"{gone}{now}.", elsewhere.follow(event, storage), as_json=as_json)


def diff(name: str, url: str, numbers: tuple[int, int], *, as_json: bool) -> int:
    """Print what differs between two versions."""
    storage = _must_open(name, url)
    first, second = (versions.find(storage, name, number) for number in numbers)
    found = differences.between(first, second)
    if as_json:
        plain.result(json.dumps({"name": name, "versions": list(numbers), **dataclasses.asdict(found)}, indent=2))
    elif found.is_none:
        plain.result(f"{name} {numbers[0]} and {numbers[1]} do not differ.")
    else:
        printing.result(*shown.differences(found, name, numbers))
    return 0


def _open(url: str) -> Storage | None:
    """The storage; None: it is not there, and asking does not make it."""
    return storages.open(url) if options.is_there(url) else None


def _must_open(name: str, url: str) -> Storage:
    storage = _open(url)
    if storage is None:
        raise _nothing(name, url, None)
    return storage


def _nothing(name: str, url: str, storage: Storage | None) -> VersionError:
    if storage is None:
        return VersionError(f"there is no version of {name}: {storages.shown(url)} does not exist. Name the database with --storage")
    try:
        versions.find(storage, name)
    except VersionError as error:
        return error
    raise AssertionError("a version that is found is listed")


def _in(storage: Storage, name: str, stage: Stage) -> int | None:
    """The number of the version that is in a stage."""
    return next((version.number for version in versions.all(storage, name) if stage in version.stages), None)


def _agreed(version: Version) -> bool:
    if not sys.stdin.isatty():
        raise RequestError("nothing was deleted, because no one can be asked here; confirm with --yes.")
    made = f"made by {version.kept.created_by} on {wording.moment(version.created_at)}"
    return plain.agreed(f"Delete {version.name} {version.number}, {made}, for good?")


def _tell(event: Event, words: str, registered: str | None, *, as_json: bool) -> int:
    if registered is not None:
        plain.line(registered)
    plain.result(json.dumps(_event_as_json(event), indent=2) if as_json else words)
    return 0


def _as_json(version: Version, readings: list[Reading], *, whole: bool) -> dict[str, Any]:
    """A version; the whole of it has its config and metrics, too."""
    kept = dataclasses.asdict(version.kept)
    long = {name: kept.pop(name) for name in ("config", "metrics")}
    return {
        "name": kept.pop("name"),
        "version": version.number,
        "stages": list(version.stages),
        **kept,
        "created_at": _moment(version.created_at),
        "deleted_at": None if version.deleted_at is None else _moment(version.deleted_at),
        "deleted_by": version.deleted_by,
        "validation_accuracy": version.kept.metrics.get("validation_accuracy"),
        "test_accuracy": version.kept.metrics.get("test_accuracy"),
        "readings": [
            {"at": _moment(reading.at), **dataclasses.asdict(reading.look)}
            for reading in readings
            if (reading.name, reading.version) == (version.name, version.number)
        ],
        **(long if whole else {}),
    }


def _event_as_json(event: Event) -> dict[str, Any]:
    return dataclasses.asdict(event) | {"at": _moment(event.at)}


def _moment(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds")
