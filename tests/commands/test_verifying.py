"""`tuner verify` with a real process of Keras; tests/results and tests/trainer test the single checks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.results import bundles
from tests.results.new_versions import new_version
from tuner.cli import main
from tuner.protocol import errands
from tuner.results.bundle import manifest
from tuner.results.versions import versions
from tuner.storage import engine as storages
from tuner.workers.worker import evaluation


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TUNER_DATA", raising=False)
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    return bundles.make(tmp_path / "bundle", tmp_path / "data.npz")


def test_a_bundle_is_verified_with_moved_images(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / "data.npz").rename(moved / "data.npz")
    (tmp_path / "robustness.yaml").write_text("clean: 0.95\njpeg: [0.85, null, null]\n")
    call = ["verify", str(bundle), "--data", str(moved), "--require", str(tmp_path / "robustness.yaml"), "--images", "20", "--json"]
    assert main.main(call) == 1
    found = json.loads(capsys.readouterr().out)
    outcomes = {check["name"]: check["outcome"] for check in found["checks"]}
    assert outcomes == {
        "manifest": "ok",
        "signature": "not checked",
        "safe loading": "ok",
        "probes": "ok",
        "test metrics": "ok",
        "robustness": "failed",
    }
    assert not found["good"]
    assert found["checks"][-1]["found"] == [line for line in found["checks"][-1]["found"] if line.startswith("clean has 0.9000")]
    assert found["measured"]["num_images"] == 20 and len(found["measured"]["robust"]) == 25


def test_a_changed_bundle_is_reported_in_lines_and_not_loaded(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / "labels.txt").write_text("red\nblue\n")
    assert main.main(["verify", str(bundle)]) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].startswith("failed       manifest   labels.txt has the SHA-256")
    assert "not checked  model      not loaded, because a check above failed" in printed.out
    assert printed.err.endswith(f"{bundle} failed verification. Do not load it.\n")


def no_database(path: Path, metrics: dict[str, Any]) -> None:
    """Create nothing."""


def notes(path: Path, metrics: dict[str, Any]) -> None:
    path.write_text("these are my notes\n" * 100)


def without_versions(path: Path, metrics: dict[str, Any]) -> None:
    storages.open(f"sqlite:///{path}").close()


def with_the_version(path: Path, metrics: dict[str, Any]) -> None:
    storage = storages.open(f"sqlite:///{path}")
    new = new_version(
        name="colours",
        metrics={"test_accuracy": metrics["test"]["accuracy"]},
        fingerprint=metrics["fingerprint"],
        splits=metrics["splits"],
    )
    versions.add(storage, new)
    storage.close()


@pytest.mark.parametrize(
    ("prepare", "outcome", "said"),
    [
        (no_database, "not checked", "does not exist; name the database of version colours 1 with --storage"),
        (notes, "not checked", "is not an SQLite database"),
        (without_versions, "not checked", "there is no version of colours"),
        (with_the_version, "ok", "recorded; colours 1 has 1 reading of its test split"),
    ],
)
def test_a_reading_is_recorded_with_its_version_or_the_reason_is_printed(
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[Path, dict[str, Any]], None],
    outcome: str,
    said: str,
) -> None:
    metrics = json.loads((bundle / "metrics.json").read_text()) | {"name": "colours", "version": 1}
    (bundle / "metrics.json").write_text(json.dumps(metrics))
    manifest.write(bundle)
    score = errands.TestScore(
        accuracy=metrics["test"]["accuracy"], num_images=40, fingerprint=metrics["fingerprint"], splits=metrics["splits"]
    )
    answer = errands.Verified(num_probes=6, num_agreeing=6, max_difference=0.0, test=score, num_images=40, clean=0.9, robust=())
    monkeypatch.setattr(evaluation, "run", lambda order: answer)
    database = tmp_path / "versions.db"
    prepare(database, metrics)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert main.main(["verify", str(bundle), "--no-robustness", "--storage", f"sqlite:///{database}", "--json"]) == 0
    check = json.loads(capsys.readouterr().out)["checks"][-1]
    assert (check["name"], check["outcome"]) == ("test reading", outcome)
    assert said in check["found"][0]
    assert before == sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(("cache", "versions.db-")))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (["verify", "nowhere"], "nowhere is not a folder"),
        (["verify", "BUNDLE", "--require", "nowhere.yaml"], "nowhere.yaml"),
        (["verify", "BUNDLE", "--images", "0"], "--images"),
        (["verify", "BUNDLE", "--tolerance", "2"], "--tolerance"),
    ],
)
def test_a_wrong_request_gives_one_message(bundle: Path, capsys: pytest.CaptureFixture[str], call: list[str], said: str) -> None:
    assert main.main([str(bundle) if word == "BUNDLE" else word for word in call]) == 2
    assert said in capsys.readouterr().err
