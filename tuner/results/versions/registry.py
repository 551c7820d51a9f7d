"""MLflow registry: registers a version with its metrics and files in MLflow, and sets an alias for its stage.

Tags name the version, so a second registration finds the first one and adds nothing.
"""

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner import wording
from tuner.errors import MissingPackage, RegistryError
from tuner.results.versions.versions import Version, VersionStage
from tuner.storage import engine as storages

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

_EXPERIMENT = "tuner"
_VERSION = "tuner.version"
_SHA256 = "tuner.sha256"
#: characters of the longest parameter that MLflow accepts
_MAX_PARAMETER = 6000
#: retries and time limit of a request; MLflow's defaults take minutes
_TIMEOUTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A version in MLflow."""

    #: MLflow's number of the version
    number: str
    run: str
    #: URI of its files
    source: str
    #: whether it was registered before
    is_known: bool


class Registry:
    """A model registry of MLflow, by the URI of its tracking server or database.

    Raises:
        MissingPackage: MLflow is not installed.
        RegistryError: the registry cannot be used.
    """

    def __init__(self, uri: str) -> None:
        if importlib.util.find_spec("mlflow") is None:
            raise MissingPackage("mlflow-skinny", extra="mlflow", needed_for=f"--mlflow {storages.shown(uri)}")
        for name, value in {**_TIMEOUTS, "MLFLOW_DISABLE_TELEMETRY": "true"}.items():
            os.environ.setdefault(name, value)
        self.shown = storages.shown(uri)
        with self._explained():
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def register(self, version: Version, files: Sequence[Path]) -> Registered:
        """Register a version with these files and folders, unless it is registered already."""
        with self._explained():
            known = self._known(version)
            if known is not None:
                return _registered(known, is_known=True)
            run = self._log(version, files)
            source = self._client.get_run(run).info.artifact_uri
            tags = {_VERSION: str(version.number), _SHA256: version.model.sha256, "tuner.study": version.model.study}
            made = self._client.create_model_version(version.name, source=source, run_id=run, tags=tags)
            return _registered(made, is_known=False)

    def point(self, name: str, stage: VersionStage, number: str) -> None:
        """Set the alias of a stage to a version, by MLflow's number."""
        with self._explained():
            self._client.set_registered_model_alias(name, stage.value, number)

    def withdraw(self, name: str, stage: VersionStage) -> None:
        """Delete the alias of a stage."""
        with self._explained():
            self._client.delete_registered_model_alias(name, stage.value)

    def _known(self, version: Version) -> "ModelVersion | None":
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_registered_model(version.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._client.create_registered_model(version.name)
        found = self._client.search_model_versions(f"name = '{version.name}'")
        ours = (str(version.number), version.model.sha256)
        return next((each for each in found if (each.tags.get(_VERSION), each.tags.get(_SHA256)) == ours), None)

    def _log(self, version: Version, files: Sequence[Path]) -> str:
        """Create a run with the parameters, metrics and files of a version; return its id."""
        experiment = self._client.get_experiment_by_name(_EXPERIMENT)
        where = experiment.experiment_id if experiment is not None else self._client.create_experiment(_EXPERIMENT)
        run: str = self._client.create_run(where, run_name=f"{version.name} {version.number}").info.run_id
        for name, value in wording.flatten(version.model.config.get("search") or {}).items():
            self._client.log_param(run, name, str(value)[:_MAX_PARAMETER])
        for name, value in wording.flatten(version.model.metrics).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._client.log_metric(run, _metric(name), float(value))
        for name in ("fingerprint", "splits", "created_by"):
            self._client.set_tag(run, f"tuner.{name}", getattr(version.model, name))
        for path in files:
            if path.is_dir():
                self._client.log_artifacts(run, str(path), path.name)
            else:
                self._client.log_artifact(run, str(path))
        self._client.set_terminated(run)
        return run

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError) as error:
            lines = str(error).strip().splitlines()
            raise RegistryError(
                f"the MLflow registry {self.shown} cannot be used: {lines[0] if lines else type(error).__name__}"
            ) from error


def _metric(name: str) -> str:
    """Return a name without characters that MLflow refuses."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)


def _registered(found: Any, *, is_known: bool) -> Registered:
    return Registered(number=str(found.version), run=str(found.run_id), source=str(found.source), is_known=is_known)
