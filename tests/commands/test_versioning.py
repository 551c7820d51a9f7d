"""The commands `tuner versions`, `promote`, `rollback` and `diff`."""

import dataclasses
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.results.new_versions import new_version
from tests.studies import by_hand
from tuner.cli import main
from tuner.results.versions import versions
from tuner.results.versions.versions import NewReading
from tuner.storage import engine as storages
from tuner.studies import data_check, trials
from tuner.studies import study as studies

LOOK = NewReading(splits="5" * 64, by="ada", purpose="retrain", accuracy=0.9, num_images=200)
FIRST = new_version(
    config={
        "name": "flowers-trial-17",
        "data": {"source": "folder", "path": "/photos"},
        "search": {"optimizer": "sgd", "dropout": 0.3},
        "result": {"classes": ["daisy", "rose"], "images": {"train": 100}, "versions": {"keras": "3.15.0"}, "seconds": 5.0},
    },
    metrics={
        "validation_accuracy": 0.95,
        "test_accuracy": 0.9,
        "classes": [{"name": "daisy", "recall": 0.8}],
        "confusion": [[4, 1], [0, 5]],
        "notes": ["What is said in words."],
    },
)
SECOND = dataclasses.replace(
    FIRST,
    config={**FIRST.config, "search": {"optimizer": "sgd", "dropout": 0.5, "momentum": 0.9}},
    metrics={**FIRST.metrics, "test_accuracy": 0.92, "notes": ["Other words."], "classes": [{"name": "daisy", "recall": 0.85}]},
    fingerprint="e" * 64,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a database with two versions of the study flowers."""
    file = tmp_path_factory.mktemp("versions") / "tuner.db"
    storage = storages.open(f"sqlite:///{file}")
    versions.add(storage, FIRST, reading=LOOK)
    versions.add(storage, SECOND, reading=LOOK)
    versions.record_reading(storage, "flowers", 2, LOOK)
    storage.close()
    return file


@pytest.fixture(autouse=True)
def database(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands find a copy of it in the environment."""
    shutil.copy(made, tmp_path / "tuner.db")
    monkeypatch.setenv("TUNER_STORAGE", f"sqlite:///{tmp_path / 'tuner.db'}")


def output_of(capsys: pytest.CaptureFixture[str], *call: str) -> str:
    assert main.main(list(call)) == 0
    return capsys.readouterr().out


def json_of(capsys: pytest.CaptureFixture[str], *call: str) -> Any:
    return json.loads(output_of(capsys, *call, "--json"))


def refused(capsys: pytest.CaptureFixture[str], *call: str) -> str:
    assert main.main(list(call)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    return shown.err


def test_versions_are_listed_with_their_accuracies_and_readings(capsys: pytest.CaptureFixture[str]) -> None:
    shown = output_of(capsys, "versions")
    assert "flowers 1" in shown and "0.9500" in shown and "0.9000" in shown
    assert "once" in shown and "2 times" in shown
    assert "The test split was read more than once for version 2" in output_of(capsys, "versions", "flowers")
    first, second = json_of(capsys, "versions", "flowers")
    assert (first["version"], first["config"], first["metrics"]) == (1, FIRST.config, FIRST.metrics)
    assert first["created_at"].endswith("+00:00")
    assert [reading["accuracy"] for reading in second["readings"]] == [0.9, 0.9]
    assert "config" not in json_of(capsys, "versions")[0]


def test_production_is_set_replaced_and_rolled_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert output_of(capsys, "promote", "flowers", "1") == "flowers 1 is in production.\n"
    assert output_of(capsys, "promote", "flowers", "2", "--to", "production") == "flowers 2 is in production, in place of flowers 1.\n"
    assert json_of(capsys, "promote", "flowers", "2")["change"] == "promoted"
    assert [version["stages"] for version in json_of(capsys, "versions", "flowers")] == [[], ["production"]]
    assert output_of(capsys, "rollback", "flowers") == "flowers 1 is in production again, in place of flowers 2.\n"
    assert "production of flowers has no previous version that still exists" in refused(capsys, "rollback", "flowers")
    event = json_of(capsys, "rollback", "flowers", "--withdraw")
    assert (event["stage"], event["change"], event["version"]) == ("production", "withdrawn", None)
    shown = output_of(capsys, "versions", "flowers")
    assert [word in shown for word in ("promoted", "rolled back", "withdrawn", "nothing")] == [True] * 4
    assert output_of(capsys, "rollback", "flowers") == "flowers 1 is in production again.\n"


def test_differences_are_shown_by_section(capsys: pytest.CaptureFixture[str]) -> None:
    found = json_of(capsys, "diff", "flowers", "1", "2")
    assert found["config"] == [
        {"field": "search.dropout", "before": 0.3, "after": 0.5},
        {"field": "search.momentum", "before": None, "after": 0.9},
    ]
    assert [(each["field"], each["before"][0]) for each in found["data"]] == [("fingerprint", "f")]
    assert [each["field"] for each in found["metrics"]] == ["test_accuracy", "classes.daisy.recall"]
    assert found["making"] == []
    shown = output_of(capsys, "diff", "flowers", "1", "2")
    assert "search.dropout" in shown and "+0.2" in shown and "Packages\nthe same" in shown
    assert output_of(capsys, "diff", "flowers", "2", "2") == "flowers 2 and 2 do not differ.\n"


def test_a_version_is_deleted_after_a_confirmation(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    output_of(capsys, "promote", "flowers", "1")
    assert "flowers 1 is in production, so it is not deleted" in refused(capsys, "versions", "flowers", "--delete", "1", "--yes")
    assert "confirm with --yes" in refused(capsys, "versions", "flowers", "--delete", "2")
    assert "--delete is 2, but no study is given" in refused(capsys, "versions", "--delete", "2")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdin, "readline", lambda: "no\n")
    assert main.main(["versions", "flowers", "--delete", "2"]) == 1
    monkeypatch.setattr(sys.stdin, "readline", lambda: "y\n")
    assert "Its number is never used again" in output_of(capsys, "versions", "flowers", "--delete", "2")
    assert [version["version"] for version in json_of(capsys, "versions", "flowers")] == [1]
    assert json_of(capsys, "versions", "flowers", "--deleted")[1]["deleted_by"]
    assert "deleted" in output_of(capsys, "versions", "flowers", "--deleted")
    assert "was deleted by" in refused(capsys, "promote", "flowers", "2")


def test_a_trial_is_stored_as_a_version_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path / 'tuner.db'}"
    study = studies.join(by_hand.spec(), storages.open(url))
    data_check.admit(study, by_hand.PREPARED)
    for value, weights in ((0.5, "kept"), (0.75, "gone"), (0.625, None)):
        claimed = by_hand.must_claim(study)
        name = None if weights is None else str(tmp_path / weights)
        finished = by_hand.finished(claimed, value).model_copy(update={"weights": name})
        trials.finish(study, claimed, finished, [], device="cpu")
    study.storage.close()
    (tmp_path / "kept").write_bytes(b"weights")
    assert output_of(capsys, "versions", "by-hand", "--add", "0") == "Trial 0 of by-hand is stored as by-hand 1.\n"
    assert output_of(capsys, "versions", "by-hand", "--add", "0") == "Trial 0 of by-hand is already stored as by-hand 1.\n"
    (kept,) = json_of(capsys, "versions", "by-hand")
    assert (kept["origin"], kept["trial"], kept["artifact"]) == ("trial", 0, str(tmp_path / "kept"))
    assert kept["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert (kept["validation_accuracy"], kept["test_accuracy"], kept["readings"]) == (0.5, None, [])
    assert kept["config"]["result"]["fingerprint"] == kept["fingerprint"] == by_hand.PREPARED.fingerprint
    assert "which does not exist here; add the version on the machine that trained them" in refused(
        capsys, "versions", "by-hand", "--add", "1"
    )
    assert "the weights of trial 2 of the study by-hand were not stored. Trials with stored weights: 0, 1." in refused(
        capsys, "versions", "by-hand", "--add", "2"
    )
    assert "has no completed trial 3" in refused(capsys, "versions", "by-hand", "--add", "3")
    assert "--add and --delete are both given" in refused(capsys, "versions", "by-hand", "--add", "1", "--delete", "1")
    assert "--add is 1, but no study is given" in refused(capsys, "versions", "--add", "1")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (["versions", "flwers"], "there is no version of flwers. Known: flowers. Did you mean flowers?"),
        (["promote", "flowers", "3"], "there is no version 3 of flowers; its versions: 1, 2"),
        (["promote", "flowers", "1", "--to", "prod"], "'production', 'staging'"),
        (["diff", "flowers", "1", "9"], "there is no version 9 of flowers"),
        (["rollback", "flowers"], "no version of flowers was ever in production"),
    ],
)
def test_unknown_versions_are_refused(capsys: pytest.CaptureFixture[str], call: list[str], words: str) -> None:
    assert words in refused(capsys, *call)


def test_reading_creates_no_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path / 'none.db'}"
    assert "Create one with: tuner retrain" in output_of(capsys, "versions", "--storage", url)
    assert "none.db does not exist" in refused(capsys, "versions", "flowers", "--storage", url)
    assert "none.db does not exist" in refused(capsys, "promote", "flowers", "1", "--storage", url)
    assert not (tmp_path / "none.db").exists()
