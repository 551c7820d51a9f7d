"""`tuner versions`, `promote`, `rollback` and `diff`: the versions of a study, and which of them is in use."""

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

from tuner import machine, wording
from tuner.commands import artifacts, storage_url
from tuner.commands import show as commands_show
from tuner.errors import RegistryError, RequestError, TunerError, VersionError
from tuner.results import best as bests
from tuner.results.bundle import manifest
from tuner.results.versions import differences, stages, versions
from tuner.results.versions.registry import Registered, Registry
from tuner.results.versions.stages import StageEvent
from tuner.results.versions.versions import Reading, Version, VersionStage
from tuner.spec import file as study_file
from tuner.spec import tasks
from tuner.storage import engine as storages
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.terminal import plain, printing
from tuner.terminal import versions as screens


@dataclass(frozen=True, kw_only=True)
class MlflowTarget:
    """The MLflow model registry that records a change, too, if there is one."""

    #: URI of MLflow's tracking server or database; None: there is none
    mlflow: str | None
    #: bundle of the version; None: its weights, configuration and metrics are uploaded
    bundle: Path | None = None

    def register(self, version: Version) -> Registered | None:
        """Register a version and its files, unless MLflow already has it; return None without a registry.

        Raises:
            RequestError: the bundle does not exist, or is given without a registry.
            TunerError: the weights were deleted or changed, or the registry cannot be used.
        """
        if self.mlflow is None:
            if self.bundle is not None:
                raise RequestError(f"--bundle {self.bundle} applies only to --mlflow; add --mlflow URI or drop --bundle")
            return None
        registry = Registry(self.mlflow)
        if self.bundle is not None:
            if not self.bundle.is_dir():
                raise RequestError(f"--bundle is {self.bundle}, which is not a folder; expected a bundle that `tuner export` wrote")
            return registry.register(version, sorted(self.bundle.iterdir()))
        with tempfile.TemporaryDirectory(prefix="tuner-") as made, _files(version, Path(made)) as files:
            return registry.register(version, files)

    def record(self, event: StageEvent, storage: Storage) -> str | None:
        """Register the version of a change, and set its alias; return what was done, in words."""
        if self.mlflow is None:
            return None
        known = None
        if event.version is not None:
            with _after_change(event):
                known = self.register(versions.find(storage, event.name, event.version))
        return self.set_alias(event, known)

    def set_alias(self, event: StageEvent, known: Registered | None) -> str | None:
        """Let MLflow's alias of a stage point to the version that is in the stage now; return what was done, in words.

        Raises:
            RegistryError: MLflow could not be changed; the message says how to do it later.
        """
        if self.mlflow is None:
            return None
        with _after_change(event):
            registry = Registry(self.mlflow)
            if known is None:
                registry.withdraw(event.name, event.stage)
                return f"MLflow at {registry.shown}: removed the alias {event.stage} of {event.name}."
            registry.point(event.name, event.stage, known.number)
        how = "already registered" if known.is_known else "new"
        return f"MLflow at {registry.shown}: {event.name} {known.number} ({how}) has the alias {event.stage}."


def show(name: str | None, url: str, *, deleted: bool, as_json: bool) -> int:
    """Print the versions of one study, or of all studies."""
    storage = _open(url)
    found = [] if storage is None else versions.all(storage, name, deleted=deleted)
    if name is not None and not found:
        raise _not_found(name, url, storage)
    readings = [] if storage is None else versions.readings(storage, name)
    if as_json:
        plain.result(json.dumps([_as_json(version, readings, whole=name is not None) for version in found], indent=2))
    elif not found:
        plain.result(f"{storages.shown(url)} has no versions yet. Create one with: tuner retrain STUDY")
    else:
        printing.result(screens.versions_table(found, readings))
        if name is not None and storage is not None:
            printing.result(*screens.history(stages.history(storage, name), readings))
    return 0


def require_name(name: str | None, option: str, number: int, *, other: int | None = None) -> str:
    """Return the name of the study that an option applies to.

    Args:
        name: as given on the command line.
        option: `--add` or `--delete`.
        number: the value of the option.
        other: the value of the other one of these options.

    Raises:
        RequestError: the name is missing, or both options are given.
    """
    if other is not None:
        raise RequestError("--add and --delete are both given; choose one.")
    if name is None:
        raise RequestError(f"{option} is {number}, but no study is given; expected for example: tuner versions flowers {option} {number}")
    return name


def add(name: str, url: str, trial: int, *, as_json: bool) -> int:
    """Store a trial as a version, unless it is one already."""
    study = commands_show.load_study(name, url)
    best = bests.of(study, trial)
    if study.spec.num_folds > 1:
        raise RequestError(bests.without_model(best))
    if best.weights is None:
        stored = wording.listed(bests.with_weights(study)) or "none"
        raise RequestError(f"the weights of trial {trial} of the study {name} were not stored. Trials with stored weights: {stored}.")
    with tempfile.TemporaryDirectory(prefix="tuner-") as folder, artifacts.local_copy(best.weights, Path(folder)) as weights:
        if not weights.is_file():
            raise RequestError(
                f"the weights of trial {trial} were stored in {weights}, which does not exist here; "
                "add the version on the machine that trained them"
            )
        new, reading = versions.of_trial(best, weights, by=machine.user_name())
    existing = [version for version in versions.all(study.storage, name) if version.model.sha256 == new.sha256]
    version = existing[-1] if existing else versions.add(study.storage, new, reading=reading)
    if as_json:
        plain.result(json.dumps(_as_json(version, versions.readings(study.storage, name), whole=True), indent=2))
    else:
        words = "is already stored" if existing else "is stored"
        plain.result(f"Trial {trial} of {name} {words} as {name} {version.number}.")
    return 0


def delete(name: str, url: str, number: int, *, confirmed: bool, as_json: bool) -> int:
    """Delete a version permanently, after a confirmation.

    Raises:
        RequestError: there is no terminal to ask for a confirmation.
        VersionError: the version does not exist, or is in use.
    """
    storage = _must_open(name, url)
    version = versions.find(storage, name, number)
    if not confirmed and not _confirm(version):
        plain.line("Nothing was deleted.")
        return 1
    versions.delete(storage, name, number, by=machine.user_name())
    if as_json:
        (deleted,) = (each for each in versions.all(storage, name, deleted=True) if each.number == number)
        plain.result(json.dumps(_as_json(deleted, versions.readings(storage, name, number), whole=True), indent=2))
    else:
        plain.result(f"{name} {number} is deleted. Its number is never used again. Its weights were not deleted: {version.model.artifact}")
    return 0


def promote(name: str, url: str, number: int, to: str, *, mlflow: MlflowTarget, as_json: bool) -> int:
    """Put a version into a stage, in place of the current one."""
    storage, stage = _must_open(name, url), VersionStage(to)
    version, before = versions.find(storage, name, number), _version_in(storage, name, stage)
    known = mlflow.register(version)
    event = stages.promote(storage, name, number, stage=stage, by=machine.user_name())
    replaced = f", in place of {name} {before}" if before not in (None, number) else ", as before" if before == number else ""
    return _print_change(event, f"{name} {number} is in {stage}{replaced}.", mlflow.set_alias(event, known), as_json=as_json)


def rollback(name: str, url: str, of: str, *, withdraw: bool, mlflow: MlflowTarget, as_json: bool) -> int:
    """Put the previous version back into a stage, or leave the stage empty."""
    storage, stage = _must_open(name, url), VersionStage(of)
    before = _version_in(storage, name, stage)
    change = stages.withdraw if withdraw else stages.rollback
    event = change(storage, name, stage=stage, by=machine.user_name())
    if event.version is None:
        words = f"{name} {before} was removed from {stage}, which is now empty." if before is not None else f"{stage} is empty."
    else:
        words = f"{name} {event.version} is in {stage} again" + ("." if before is None else f", in place of {name} {before}.")
    return _print_change(event, words, mlflow.record(event, storage), as_json=as_json)


def diff(name: str, url: str, numbers: tuple[int, int], *, as_json: bool) -> int:
    """Print the differences between two versions."""
    storage = _must_open(name, url)
    first, second = (versions.find(storage, name, number) for number in numbers)
    found = differences.between(first, second)
    if as_json:
        plain.result(json.dumps({"name": name, "versions": list(numbers), **dataclasses.asdict(found)}, indent=2))
    elif found.is_none:
        plain.result(f"{name} {numbers[0]} and {numbers[1]} do not differ.")
    else:
        printing.result(*screens.differences(found, name, numbers))
    return 0


def _open(url: str) -> Storage | None:
    """Open the storage, or return None if it does not exist. Reading must not create it."""
    if not storage_url.exists(url):
        return None
    storage = storages.open(url)
    studies.follow_renames(storage)
    return storage


def _must_open(name: str, url: str) -> Storage:
    storage = _open(url)
    if storage is None:
        raise _not_found(name, url, None)
    return storage


def _not_found(name: str, url: str, storage: Storage | None) -> VersionError:
    if storage is None:
        return VersionError(f"there is no version of {name}: {storages.shown(url)} does not exist. Name the database with --storage")
    try:
        versions.find(storage, name)
    except VersionError as error:
        return error
    raise AssertionError("a version that exists is listed")


def _version_in(storage: Storage, name: str, stage: VersionStage) -> int | None:
    """Return the number of the version that is in a stage."""
    return next((version.number for version in versions.all(storage, name) if stage in version.stages), None)


def _confirm(version: Version) -> bool:
    if not sys.stdin.isatty():
        raise RequestError("nothing was deleted, because there is no terminal to confirm at; confirm with --yes.")
    made = f"created by {version.model.created_by} on {wording.moment(version.created_at)}"
    return plain.confirm(f"Permanently delete {version.name} {version.number}, {made}?")


def _print_change(event: StageEvent, words: str, registered: str | None, *, as_json: bool) -> int:
    if registered is not None:
        plain.line(registered)
    plain.result(json.dumps(_event_as_json(event), indent=2) if as_json else words)
    return 0


def _as_json(version: Version, readings: list[Reading], *, whole: bool) -> dict[str, Any]:
    """Return a version for JSON; a whole one includes its configuration and metrics."""
    fields = dataclasses.asdict(version.model)
    value, test_value = version.model.scores
    long = {name: fields.pop(name) for name in ("config", "metrics")}
    return {
        "name": fields.pop("name"),
        "version": version.number,
        "stages": list(version.stages),
        **fields,
        "created_at": _moment(version.created_at),
        "deleted_at": None if version.deleted_at is None else _moment(version.deleted_at),
        "deleted_by": version.deleted_by,
        "validation_accuracy": version.model.metrics.get("validation_accuracy"),
        "test_accuracy": version.model.metrics.get("test_accuracy"),
        "metric": version.model.metrics.get("metric", "accuracy"),
        "value": value,
        "test_value": test_value,
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


@contextmanager
def _after_change(event: StageEvent) -> Iterator[None]:
    """Add to an error from MLflow that the change in tuner succeeded."""
    try:
        yield
    except TunerError as error:
        if event.version is None:
            done = f"tuner has removed {event.name} from {event.stage}, but MLflow was not changed; remove the alias there by hand"
        else:
            again = f"tuner promote {event.name} {event.version} --to {event.stage} --mlflow URI"
            done = f"{event.name} {event.version} is in {event.stage}, but MLflow was not changed; retry with: {again}"
        raise RegistryError(f"{done}. {error}") from error


@contextmanager
def _files(version: Version, folder: Path) -> Iterator[list[Path]]:
    """Give the weights, the configuration and the metrics of a version as files, while a `with` block runs."""
    spec = tasks.parse(version.model.config)
    (folder / "config.yaml").write_text(study_file.dump(spec), encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps(version.model.metrics, indent=2) + "\n", encoding="utf-8")
    with artifacts.local_copy(version.model.artifact, folder) as weights:
        _require(weights, version)
        yield [folder / "config.yaml", folder / "metrics.json", weights]


def _require(weights: Path, version: Version) -> None:
    if not weights.is_file():
        raise TunerError(f"the weights of {version.name} {version.number} do not exist any more: {weights}")
    found = manifest.digest(weights)
    if found != version.model.sha256:
        raise TunerError(
            f"the weights of {version.name} {version.number} at {version.model.artifact} were changed: "
            f"their SHA-256 is {found}; expected {version.model.sha256}"
        )
