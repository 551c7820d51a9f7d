"""`tuner verify` with a real process of Keras, once; what it finds else is tested in tests/results and tests/training."""

import json
from pathlib import Path

import pytest

from tests.results import bundles
from tuner import cli


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TUNER_DATA", raising=False)
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    return bundles.make(tmp_path / "bundle", tmp_path / "data.npz")


def test_a_bundle_is_verified_where_its_data_were_moved_to(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / "data.npz").rename(moved / "data.npz")
    (tmp_path / "robustness.yaml").write_text("clean: 0.95\njpeg: [0.85, null, null]\n")
    call = ["verify", str(bundle), "--data", str(moved), "--require", str(tmp_path / "robustness.yaml"), "--images", "20", "--json"]
    assert cli.main(call) == 1
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


def test_a_bundle_that_was_changed_is_told_in_lines_and_not_loaded(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / "labels.txt").write_text("red\nblue\n")
    assert cli.main(["verify", str(bundle)]) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].startswith("failed       manifest   labels.txt has the SHA-256")
    assert "not checked  model      it is not loaded" in printed.out
    assert printed.err.endswith(f"{bundle} is refused.\n")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (["verify", "nowhere"], "nowhere is no folder"),
        (["verify", "BUNDLE", "--require", "nowhere.yaml"], "nowhere.yaml"),
        (["verify", "BUNDLE", "--images", "0"], "--images"),
        (["verify", "BUNDLE", "--tolerance", "2"], "--tolerance"),
    ],
)
def test_a_wrong_request_is_one_message(bundle: Path, capsys: pytest.CaptureFixture[str], call: list[str], said: str) -> None:
    assert cli.main([str(bundle) if word == "BUNDLE" else word for word in call]) == 2
    assert said in capsys.readouterr().err
