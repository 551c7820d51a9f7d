"""`tuner promote --mlflow`: the files of a version, and its stage, into MLflow's model registry."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tuner import study_file
from tuner.commands import artifacts
from tuner.errors import RegistryError, RequestError, TunerError
from tuner.results import manifest, versions
from tuner.results.registry import Registered, Registry
from tuner.results.stages import Event
from tuner.results.versions import Version
from tuner.search.storage import Storage
from tuner.spec import StudySpec


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

    def follow(self, event: Event, storage: Storage) -> str | None:
        """As `point`, with the version registered if it is not yet."""
        if self.mlflow is None:
            return None
        known = None
        if event.version is not None:
            with _told(event):
                known = self.register(versions.find(storage, event.name, event.version))
        return self.point(event, known)

    def point(self, event: Event, known: Registered | None) -> str | None:
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
def _told(event: Event) -> Iterator[None]:
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
    spec = StudySpec.model_validate(version.kept.config)
    (folder / "config.yaml").write_text(study_file.dump(spec), encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps(version.kept.metrics, indent=2) + "\n", encoding="utf-8")
    with artifacts.fetched(version.kept.artifact, folder) as weights:
        _require(weights, version)
        yield [folder / "config.yaml", folder / "metrics.json", weights]


def _require(weights: Path, version: Version) -> None:
    if not weights.is_file():
        raise TunerError(f"the weights of {version.name} {version.number} are gone: {weights}")
    found = manifest.digest(weights)
    if found != version.kept.sha256:
        raise TunerError(
            f"the weights of {version.name} {version.number} at {version.kept.artifact} are not those that were kept: "
            f"their SHA-256 is {found}, and {version.kept.sha256} was expected"
        )
