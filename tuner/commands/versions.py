"""`tuner promote --mlflow`: the files of a version, and its stage, into MLflow's model registry.

`tuner versions`, `promote`, `rollback` and `diff`: what was kept of studies, and which of it is in use.
"""

import dataclasses
import datetime as dt
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner import wording
from tuner.commands import control, options
from tuner.commands import show as commands_show
from tuner.errors import RegistryError, RequestError, TunerError, VersionError
from tuner.results import best as bests
from tuner.results.bundle import manifest
from tuner.results.versions import differences, stages, versions
from tuner.results.versions.registry import Registered, Registry
from tuner.results.versions.stages import StageEvent
from tuner.results.versions.versions import Reading, Version, VersionStage
from tuner.spec import file as study_file
from tuner.spec.study import StudySpec
from tuner.storage import engine as storages
from tuner.storage.engine import Storage
from tuner.terminal import plain, printing
from tuner.terminal import versions as shown


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """The model registry that is to know of a change, too."""

    #: tracking server or database of MLflow; None: there is none
    mlflow: str | None
    #: bundle of the version; None: its weights, config and metrics are sent
    bundle: Path | None = None

    def register(self, version: Version) -> Registered | None:
        """Have MLflow know a version and its files, if it does not yet; None: there is no registry.

        Raises:
            RequestError: there is no such bundle, or a bundle without a registry.
            TunerError: its weights are gone or are others, or the registry cannot be used.
        """
        if self.mlflow is None:
            if self.bundle is not None:
                raise RequestError(f"--bundle is {self.bundle}, and there is no --mlflow that it could go to")
            return None
        registry = Registry(self.mlflow)
        if self.bundle is not None:
            if not self.bundle.is_dir():
                raise RequestError(f"--bundle is {self.bundle}, which is no folder; expected one that `tuner export` made")
            return registry.register(version, sorted(self.bundle.iterdir()))
        with tempfile.TemporaryDirectory(prefix="tuner-") as made, _files(version, Path(made)) as files:
            return registry.register(version, files)

    def follow(self, event: StageEvent, storage: Storage) -> str | None:
        """As `point`, with the version registered if it is not yet."""
        if self.mlflow is None:
            return None
        known = None
        if event.version is not None:
            with _told(event):
                known = self.register(versions.find(storage, event.name, event.version))
        return self.point(event, known)

    def point(self, event: StageEvent, known: Registered | None) -> str | None:
        """Have MLflow's alias of a stage mean what is in it now; what it came to, in words.

        Raises:
            RegistryError: it could not be told; says how to do that later.
        """
        if self.mlflow is None:
            return None
        with _told(event):
            registry = Registry(self.mlflow)
            if known is None:
                registry.withdraw(event.name, event.stage)
                return f"MLflow at {registry.shown}: the alias {event.stage} of {event.name} means nothing."
            registry.point(event.name, event.stage, known.number)
        how = "known before" if known.is_known else "new"
        return f"MLflow at {registry.shown}: {event.name} {known.number} ({how}) has the alias {event.stage}."


@contextmanager
def _told(event: StageEvent) -> Iterator[None]:
    """Say of an error that the change itself is done."""
    try:
        yield
    except TunerError as error:
        if event.version is None:
            done = f"{event.name} has nothing in {event.stage} any more, and MLflow does not know that; take the alias off there"
        else:
            again = f"tuner promote {event.name} {event.version} --to {event.stage} --mlflow URI"
            done = f"{event.name} {event.version} is in {event.stage}, and MLflow does not know that yet; to tell it: {again}"
        raise RegistryError(f"{done}. {error}") from error


@contextmanager
def _files(version: Version, folder: Path) -> Iterator[list[Path]]:
    """Weights, config and metrics of a version as files, while a `with` block runs."""
    spec = StudySpec.model_validate(version.model.config)
    (folder / "config.yaml").write_text(study_file.dump(spec), encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps(version.model.metrics, indent=2) + "\n", encoding="utf-8")
    with options.fetched(version.model.artifact, folder) as weights:
        _require(weights, version)
        yield [folder / "config.yaml", folder / "metrics.json", weights]


def _require(weights: Path, version: Version) -> None:
    if not weights.is_file():
        raise TunerError(f"the weights of {version.name} {version.number} are gone: {weights}")
    found = manifest.digest(weights)
    if found != version.model.sha256:
        raise TunerError(
            f"the weights of {version.name} {version.number} at {version.model.artifact} are not those that were kept: "
            f"their SHA-256 is {found}, and {version.model.sha256} was expected"
        )


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
        printing.result(shown.versions_table(found, readings))
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
    study = commands_show.load(name, url)
    best = bests.of(study, trial)
    if best.weights is None:
        kept = wording.listed(bests.with_weights(study)) or "none"
        raise RequestError(f"no weights are kept of trial {trial} of the study {name}, only of trials that were the best so far: {kept}.")
    with tempfile.TemporaryDirectory(prefix="tuner-") as folder, options.fetched(best.weights, Path(folder)) as weights:
        if not weights.is_file():
            raise RequestError(f"the weights of trial {trial} were kept in {weights}, which is not there; add it where it was trained")
        new, reading = versions.of_trial(best, weights, by=control.user())
    there = [version for version in versions.all(study.storage, name) if version.model.sha256 == new.sha256]
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
    versions.delete(storage, name, number, by=control.user())
    if as_json:
        (gone,) = (each for each in versions.all(storage, name, deleted=True) if each.number == number)
        plain.result(json.dumps(_as_json(gone, versions.readings(storage, name, number), whole=True), indent=2))
    else:
        plain.result(
            f"{name} {number} is deleted; its number is not given again. Its weights are left where they are: {version.model.artifact}"
        )
    return 0


def promote(name: str, url: str, number: int, to: str, *, elsewhere: Elsewhere, as_json: bool) -> int:
    """Put a version into a stage."""
    storage, stage = _must_open(name, url), VersionStage(to)
    version, before = versions.find(storage, name, number), _in(storage, name, stage)
    known = elsewhere.register(version)
    event = stages.promote(storage, name, number, stage=stage, by=control.user())
    replaced = f", in place of {name} {before}" if before not in (None, number) else ", as it was" if before == number else ""
    return _tell(event, f"{name} {number} is in {stage}{replaced}.", elsewhere.point(event, known), as_json=as_json)


def rollback(name: str, url: str, of: str, *, withdraw: bool, elsewhere: Elsewhere, as_json: bool) -> int:
    """Put back what was in a stage before, or nothing."""
    storage, stage = _must_open(name, url), VersionStage(of)
    before = _in(storage, name, stage)
    change = stages.withdraw if withdraw else stages.rollback
    event = change(storage, name, stage=stage, by=control.user())
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


def _in(storage: Storage, name: str, stage: VersionStage) -> int | None:
    """The number of the version that is in a stage."""
    return next((version.number for version in versions.all(storage, name) if stage in version.stages), None)


def _agreed(version: Version) -> bool:
    if not sys.stdin.isatty():
        raise RequestError("nothing was deleted, because no one can be asked here; confirm with --yes.")
    made = f"made by {version.model.created_by} on {wording.moment(version.created_at)}"
    return plain.agreed(f"Delete {version.name} {version.number}, {made}, for good?")


def _tell(event: StageEvent, words: str, registered: str | None, *, as_json: bool) -> int:
    if registered is not None:
        plain.line(registered)
    plain.result(json.dumps(_event_as_json(event), indent=2) if as_json else words)
    return 0


def _as_json(version: Version, readings: list[Reading], *, whole: bool) -> dict[str, Any]:
    """A version; the whole of it has its config and metrics, too."""
    kept = dataclasses.asdict(version.model)
    long = {name: kept.pop(name) for name in ("config", "metrics")}
    return {
        "name": kept.pop("name"),
        "version": version.number,
        "stages": list(version.stages),
        **kept,
        "created_at": _moment(version.created_at),
        "deleted_at": None if version.deleted_at is None else _moment(version.deleted_at),
        "deleted_by": version.deleted_by,
        "validation_accuracy": version.model.metrics.get("validation_accuracy"),
        "test_accuracy": version.model.metrics.get("test_accuracy"),
        "readings": [
            {"at": _moment(reading.at), **dataclasses.asdict(reading.content)}
            for reading in readings
            if (reading.name, reading.version) == (version.name, version.number)
        ],
        **(long if whole else {}),
    }


def _event_as_json(event: StageEvent) -> dict[str, Any]:
    return dataclasses.asdict(event) | {"at": _moment(event.at)}


def _moment(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds")
