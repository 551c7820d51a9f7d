"""What `tuner retrain` refuses, before anything is written or trained."""

from pathlib import Path

import pytest

from tests import databases
from tests.studies import by_hand
from tuner.cli import main
from tuner.spec import file as study_file
from tuner.storage import engine as storages
from tuner.studies import data_check, retraining
from tuner.studies import study as studies
from tuner.studies.study import Study


def searched(folder: Path, *, num_test: int = 200, value: float | None = 0.9) -> Study:
    study = studies.join(by_hand.spec(sampler="random", budget={"trials": 4}), storages.open(databases.sqlite(folder)))
    data_check.admit(study, by_hand.PREPARED.model_copy(update={"num_test": num_test}))
    if value is not None:
        by_hand.finish(study, by_hand.must_claim(study), value)
    return study


def retrain(folder: Path, *given: str) -> int:
    url = f"sqlite:///{folder / 'tuner.db'}"
    return main.main(["retrain", *given, "--storage", url, "--cache", str(folder / "cache"), "--artifacts", str(folder / "artifacts")])


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *given: str) -> str:
    assert retrain(folder, *given) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def test_a_retraining_cannot_be_retrained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = searched(tmp_path)
    retraining.begin(study, retraining.configs(study, 1), (1,), top=1)
    assert "retrain that study: tuner retrain by-hand" in refused(tmp_path, capsys, "by-hand-retrain-1")


def test_a_study_without_test_images_cannot_be_retrained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = searched(tmp_path, num_test=0)
    assert "has no test images (data.test is 0)" in refused(tmp_path, capsys, "by-hand")
    assert studies.names(study.storage) == ["by-hand"]


def test_a_study_without_a_completed_trial_cannot_be_retrained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = searched(tmp_path, value=None)
    assert "has no completed trial yet" in refused(tmp_path, capsys, "by-hand")
    assert studies.names(study.storage) == ["by-hand"]


def test_a_study_of_code_is_refused_with_what_it_offers_instead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = {"model": {"build": "my.py:build"}, "data": {"load": "my.py:load"}}
    spec = study_file.parse({"name": "churn", "task": "custom", "objective": "val_auc", **code}, "churn.yaml")
    studies.join(spec, storages.open(databases.sqlite(tmp_path)))
    said = refused(tmp_path, capsys, "churn")
    assert "only for studies of images, but churn has the task custom" in said
    assert "tuner versions churn --add TRIAL" in said and "training.executions" in said


def test_an_unknown_study_is_refused_and_no_database_is_created(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no study elsewhere" in refused(tmp_path, capsys, "elsewhere")
    assert not (tmp_path / "tuner.db").exists()


def test_a_number_of_seeds_below_one_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--seeds" in refused(tmp_path, capsys, "by-hand", "--seeds", "0")
