from pathlib import Path

import pytest

from tuner.results.bundle import manifest


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("extra.py", b"print()", "no export writes"),
        ("weights.pkl", b"", "no export writes"),
        ("model.pt", b"", "no export writes"),
        ("run", b"", "no export writes"),
        ("library.so", b"\x7fELF", "no export writes"),
        ("labels.txt", b"\x80\x04\x95", "is a pickle"),
        ("probes.json", b"\x80\x02}", "is a pickle"),
        ("README.md", b"#!/bin/sh", "is a program"),
        ("plot.png", b"\x7fELF", "is a program"),
    ],
)
def test_a_file_that_could_run_code_is_reported(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    (problem,) = manifest.problems(tmp_path, [name])
    assert problem.field == name and said in problem.message


@pytest.mark.parametrize(
    "name",
    [
        *("model.keras", "model.onnx", "model.int8.tflite", "labels.txt", "config.yaml", "metrics.json", "environment.lock", "README.md"),
        *("saved_model.pb", "fingerprint.pb", "variables.index", "variables.data-00000-of-00001", "curve.png"),
    ],
)
def test_files_that_an_export_writes_are_allowed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK")
    assert manifest.problems(tmp_path, [name]) == []
