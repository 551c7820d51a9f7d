"""The check of the key that encrypts the artifacts."""

import importlib
from pathlib import Path
from typing import BinaryIO

import pytest

from tuner.doctor import artifacts as doctor_artifacts
from tuner.doctor.findings import Finding, Level
from tuner.trust import at_rest, keys

pyrage = importlib.import_module("pyrage")
MINE, OTHERS = (pyrage.x25519.Identity.generate() for _ in range(2))


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(keys.ARTIFACT_KEY, raising=False)


def save(file: BinaryIO) -> None:
    file.write(b"weights")


def keep(artifacts: Path, name: str) -> None:
    path = artifacts / "flowers" / "trial-00001" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        at_rest.write(file, save)


def check(artifacts: Path) -> list[Finding]:
    return list(doctor_artifacts.encryption(artifacts))


def test_without_a_key_and_encrypted_files_there_is_no_finding(tmp_path: Path) -> None:
    keep(tmp_path, "weights.npz")
    assert check(tmp_path) == []


def test_a_missing_key_is_reported_with_the_number_of_encrypted_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keys.ARTIFACT_KEY, str(MINE))
    keep(tmp_path, "weights.npz")
    keep(tmp_path, "checkpoint")
    (found,) = check(tmp_path)
    assert found.level is Level.OK and str(MINE.to_public()) in found.found and str(MINE) not in found.found
    monkeypatch.delenv(keys.ARTIFACT_KEY)
    (found,) = check(tmp_path)
    assert found.level is Level.PROBLEM and found.found.startswith("2 files") and "TUNER_ARTIFACT_KEY is not set" in found.found


def test_a_key_that_does_not_open_the_files_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keys.ARTIFACT_KEY, str(OTHERS))
    keep(tmp_path, "weights.npz")
    monkeypatch.setenv(keys.ARTIFACT_KEY, str(MINE))
    (found,) = check(tmp_path)
    assert found.level is Level.PROBLEM and "another key" in found.found


def test_plain_files_are_reported_if_a_key_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(tmp_path, "weights.npz")
    monkeypatch.setenv(keys.ARTIFACT_KEY, str(MINE))
    (found,) = check(tmp_path)
    assert found.level is Level.NOTE and "1 file of weights" in found.found and "not encrypted" in found.found


def test_an_invalid_key_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keys.ARTIFACT_KEY, str(tmp_path / "nowhere"))
    (found,) = check(tmp_path)
    assert found.level is Level.PROBLEM and "nowhere cannot be read" in found.found
