"""`tuner promote --mlflow`, compared with MLflow's own client on a separate database."""

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import databases
from tests.results.conftest import PREPARED
from tuner.cli import main
from tuner.results.versions import versions
from tuner.results.versions.versions import NewVersion, WeightsSource
from tuner.spec import file as study_file
from tuner.spec.study import images_of
from tuner.storage import engine as storages

# MLflow's tables use what SQLAlchemy 2.1 no longer likes
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

WEIGHTS = b"weights"
SPEC = images_of(study_file.parse({"name": "flowers-trial-3", "data": {"source": "digits"}, "search": {"dropout": 0.25}}, "flowers.yaml"))
NEW = NewVersion(
    name="flowers",
    study="flowers",
    origin=WeightsSource.RETRAINING,
    trial=3,
    config=SPEC.model_dump(mode="json"),
    metrics={"test_accuracy": 0.9, "classes": [{"name": "daisy & rose", "recall": 0.8}]},
    fingerprint=PREPARED.fingerprint,
    splits=PREPARED.splits,
    artifact="",
    sha256=hashlib.sha256(WEIGHTS).hexdigest(),
    created_by="ada",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a folder with a storage of several versions, in which the commands run and MLflow keeps its files."""
    place = tmp_path_factory.mktemp("registering")
    (place / "weights.npz").write_bytes(WEIGHTS)
    (place / "other.npz").write_bytes(b"others")
    storage = storages.open(databases.sqlite(place))
    for name in ("weights.npz", "weights.npz", "other.npz", "gone.npz"):
        versions.add(storage, dataclasses.replace(NEW, artifact=str(place / name)))
    storage.close()
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TUNER_STORAGE", f"sqlite:///{place / 'tuner.db'}")
        os.chdir(place)
        yield place
        os.chdir(before)


@pytest.fixture(scope="module")
def mlflow(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def client(mlflow: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=mlflow, registry_uri=mlflow)


def test_a_version_is_registered_with_its_metrics_files_and_alias(mlflow: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["promote", "flowers", "1", "--mlflow", mlflow]) == 0
    shown = capsys.readouterr()
    assert shown.out == "flowers 1 is in production.\n"
    assert "flowers 1 (new) has the alias production" in shown.err
    found = client(mlflow).get_model_version_by_alias("flowers", "production")
    assert found.tags["tuner.version"] == "1"
    run = client(mlflow).get_run(found.run_id)
    assert run.data.metrics == {"test_accuracy": 0.9, "classes.daisy _ rose.recall": 0.8}
    assert run.data.params["dropout"] == "0.25"
    assert run.data.tags["tuner.fingerprint"] == PREPARED.fingerprint
    files = Path(str(found.source).removeprefix("file://"))
    assert sorted(path.name for path in files.iterdir()) == ["config.yaml", "metrics.json", "weights.npz"]
    assert (files / "weights.npz").read_bytes() == WEIGHTS
    assert study_file.read_images(files / "config.yaml") == SPEC


def test_a_version_of_user_code_is_registered(mlflow: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = {"model": {"build": "my.py:build"}, "data": {"load": "my.py:load"}, "search": {"units": 8}}
    spec = study_file.parse({"name": "prices", "task": "custom", "objective": "val_mae", **code}, "prices.yaml")
    storage = storages.open(f"sqlite:///{folder / 'tuner.db'}")
    given: dict[str, Any] = {
        "name": "prices",
        "config": spec.model_dump(mode="json"),
        "metrics": {"value": 0.5},
        "artifact": str(folder / "weights.npz"),
    }
    versions.add(storage, dataclasses.replace(NEW, **given))
    storage.close()
    assert main.main(["promote", "prices", "1", "--mlflow", mlflow]) == 0, capsys.readouterr().err
    found = client(mlflow).get_model_version_by_alias("prices", "production")
    assert client(mlflow).get_run(found.run_id).data.metrics == {"value": 0.5}
    config = study_file.read(Path(str(found.source).removeprefix("file://")) / "config.yaml")
    assert dict(config.named_code()) == {"model.build": "my.py:build", "data.load": "my.py:load"}


def test_the_alias_follows_and_nothing_is_registered_twice(mlflow: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = folder / "bundle"
    (bundle / "probes").mkdir(parents=True)
    (bundle / "model.keras").write_bytes(b"model")
    (bundle / "probes" / "0.png").write_bytes(b"png")
    assert main.main(["promote", "flowers", "2", "--mlflow", mlflow, "--bundle", str(bundle)]) == 0
    found = client(mlflow).get_model_version_by_alias("flowers", "production")
    assert found.tags["tuner.version"] == "2"
    files = Path(str(found.source).removeprefix("file://"))
    assert sorted(path.name for path in files.iterdir()) == ["model.keras", "probes"]
    assert (files / "probes" / "0.png").is_file()
    assert main.main(["rollback", "flowers", "--mlflow", mlflow]) == 0
    assert "flowers 1 (already registered)" in capsys.readouterr().err
    assert client(mlflow).get_model_version_by_alias("flowers", "production").tags["tuner.version"] == "1"
    assert len(client(mlflow).search_model_versions("name = 'flowers'")) == 2
    assert main.main(["rollback", "flowers", "--withdraw", "--mlflow", mlflow]) == 0
    assert client(mlflow).get_registered_model("flowers").aliases == {}


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        (["3"], 1, "were changed: their SHA-256 is"),
        (["4"], 1, "the weights of flowers 4 do not exist any more"),
        (["1", "--bundle", "nowhere"], 2, "--bundle is nowhere, which is not a folder"),
    ],
)
def test_a_version_that_cannot_be_registered_is_not_promoted(
    mlflow: str, folder: Path, capsys: pytest.CaptureFixture[str], call: list[str], code: int, words: str
) -> None:
    assert main.main(["promote", "flowers", *call, "--to", "staging", "--mlflow", mlflow]) == code
    assert words in capsys.readouterr().err
    assert main.main(["versions", "flowers", "--json"]) == 0
    assert all("staging" not in version["stages"] for version in json.loads(capsys.readouterr().out))


def test_an_unusable_registry_gives_a_message_of_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["promote", "flowers", "1", "--to", "staging", "--mlflow", "nonsense://me:secret@host"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("the MLflow registry nonsense://me:***@host cannot be used: ")


def test_a_bundle_needs_a_registry_and_a_registry_its_package(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main.main(["promote", "flowers", "1", "--bundle", "."]) == 2
    assert "--bundle . applies only to --mlflow" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert main.main(["promote", "flowers", "1", "--mlflow", "sqlite:///mlflow.db"]) == 2
    assert "pip install 'tuner[mlflow]'" in capsys.readouterr().err
