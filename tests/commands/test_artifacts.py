"""Artifacts in a folder or a bucket, and what is refused before anything is written."""

import importlib.util
import json
from pathlib import Path

import pytest

from tests import buckets
from tuner.cli import main
from tuner.commands import artifacts
from tuner.commands.waiting import Deadline
from tuner.errors import ArtifactsError, MissingPackage, RequestError, TunerError


def test_artifacts_are_in_a_folder_or_in_a_bucket_with_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TUNER_ARTIFACTS", raising=False)
    assert artifacts.locate(None) == (tmp_path / "tuner-artifacts", None)
    assert artifacts.locate("here") == (tmp_path / "here", None)
    assert artifacts.locate("s3://models/team/") == (tmp_path / "tuner-artifacts", "s3://models/team")
    monkeypatch.setenv("TUNER_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("TUNER_ARTIFACTS", "s3://models")
    assert artifacts.locate(None) == (tmp_path / "scratch", "s3://models")


@pytest.mark.parametrize("given", ["s3://", "s3://Models", "s3://models/../other", "gs://models", "s3://models//x", "s3://me:key@models"])
def test_an_invalid_bucket_url_is_refused(given: str) -> None:
    with pytest.raises(RequestError, match=r"--artifacts is .*; expected a folder, or s3://BUCKET/PREFIX"):
        artifacts.locate(given)


@pytest.mark.parametrize(
    ("given", "spelling"),
    [
        ("s3:models", "s3://models"),
        ("s3:/models/team", "s3://models/team"),
        ("S3://models/Team/", "s3://models/Team"),
        ("s3a://models/team", "s3://models/team"),
        ("arn:aws:s3:::models/team", "s3://models/team"),
        ("https://models.s3.eu-central-1.amazonaws.com/team", "s3://models/team"),
        ("https://s3.amazonaws.com/models/team", "s3://models/team"),
        ("file:///srv/tuner", "/srv/tuner"),
        (r"C:\tuner", "/mnt/c/tuner"),
    ],
)
def test_a_place_that_is_written_otherwise_is_refused_with_the_right_spelling(
    given: str, spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError) as raised:
        artifacts.locate(given)
    assert str(raised.value) == f"--artifacts is {given}; write {spelling}, or name a folder."


def test_a_missing_package_is_named_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage) as refused:
        artifacts.require_bucket("s3://models")
    assert str(refused.value) == "--artifacts s3://models needs the package boto3. Install it with: pip install 'tuner[s3]'"


@pytest.mark.parametrize("command", ["run", "worker"])
def test_a_missing_bucket_is_refused_before_anything_is_written(
    bucket_service: buckets.Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TUNER_SCRATCH", str(tmp_path / "scratch"))
    Path("study.yaml").write_text(json.dumps({"name": "study", "data": {"source": "digits"}}))
    assert main.main([command, "study.yaml", "--artifacts", "s3://nowhere/at-all"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("the artifacts s3://nowhere/at-all cannot be used: there is no bucket nowhere at 127.0.0.1:")
    assert not (tmp_path / "scratch").exists()


def test_a_bucket_that_does_not_exist_yet_is_waited_for(bucket_service: buckets.Service, capsys: pytest.CaptureFixture[str]) -> None:
    tries = []

    def require() -> None:
        tries.append(1)
        if len(tries) == 2:
            bucket_service.make("coming")
        artifacts.require_bucket("s3://coming/soon")

    Deadline(60.0).retry(require)
    assert len(tries) == 2
    said = capsys.readouterr().err
    assert said.startswith("waiting, at most ")
    assert " s: the artifacts s3://coming/soon cannot be used: there is no bucket coming at " in said
    with pytest.raises(ArtifactsError):
        Deadline(0.0).retry(lambda: artifacts.require_bucket("s3://never"))


def test_weights_are_read_from_a_folder_or_downloaded_from_a_bucket(bucket_service: buckets.Service, tmp_path: Path) -> None:
    bucket_service.make("winners")
    bucket_service.client.put_object(Bucket="winners", Key="models/study/trial-00000/weights.npz", Body=b"weights")
    here = tmp_path / "weights.npz"
    with artifacts.local_copy(str(here), tmp_path) as path:
        assert path == here
    with artifacts.local_copy("s3://winners/models/study/trial-00000/weights.npz", tmp_path / "study") as path:
        assert path.read_bytes() == b"weights"
    assert not path.exists()
    missing = artifacts.local_copy("s3://winners/models/study/trial-00001/weights.npz", tmp_path / "study")
    with (
        pytest.raises(TunerError, match=r"weights.npz do not exist. The worker that trained them may not have uploaded them yet"),
        missing,
    ):
        raise AssertionError("there is nothing to read")
