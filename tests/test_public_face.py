"""The public interface of the package `tuner`."""

import subprocess
import sys
from pathlib import Path

import pytest

import tuner
from tests.studies import of_code

ANIMALS = Path(__file__).resolve().parents[1] / "studies" / "animals.yaml"


def test_importing_the_package_imports_no_heavy_package() -> None:
    program = (
        "import sys, tuner; print([name for name in ('numpy', 'optuna', 'pydantic', 'sqlalchemy', 'tensorflow') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("name", tuner.__all__)
def test_every_public_name_exists_and_is_listed(name: str) -> None:
    assert getattr(tuner, name) is not None
    assert name in dir(tuner)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'tuner' has no attribute 'rum'"):
        _ = tuner.rum


def test_a_missing_study_is_reported_by_load(tmp_path: Path) -> None:
    spec = tuner.read(ANIMALS)
    storage = tuner.open_storage(f"sqlite:///{tmp_path}/tuner.db")
    with pytest.raises(tuner.TunerError, match=f"there is no study {spec.name}"):
        tuner.load(spec.name, storage)


def test_code_whose_folder_is_missing_is_read_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = tuner.open_storage(f"sqlite:///{tmp_path}/tuner.db")
    of_code.custom(storage, folder=str(tmp_path / "elsewhere"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert getattr(tuner.load("churn", storage).spec, "folder", None) == tmp_path / "here"
    (tmp_path / "elsewhere").mkdir()
    assert getattr(tuner.load("churn", storage).spec, "folder", None) == tmp_path / "elsewhere"
