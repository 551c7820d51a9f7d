"""The check of a worker's data and code against those of its study."""

import hashlib
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tests import databases
from tuner.errors import StudyError
from tuner.protocol import messages
from tuner.spec import file as study_file
from tuner.storage import engine as storages
from tuner.storage import tables
from tuner.storage.attributes import PREPARED
from tuner.studies import data_check
from tuner.studies import study as studies
from tuner.studies.study import Study
from tuner.trust.user_code import CodeFile


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A study with a completed trial."""
    return with_result(joined(tmp_path))


def joined(folder: Path, **sections: Any) -> Study:
    given = {"name": "churn", "task": "custom", "objective": "val_auc", "model": {"build": "churn.py:build"}}
    spec = study_file.parse(given | {"data": {"load": "churn.py:load"}} | sections, "study.yaml", folder)
    return studies.join(spec, storages.open(databases.sqlite(folder)))


def prepared(code: str = "units = 64\n", **fields: Any) -> messages.Prepared:
    file = CodeFile(name="churn.py", sha256=hashlib.sha256(code.encode()).hexdigest(), text=code)
    given: dict[str, Any] = {
        "device": "cpu", "classes": (), "num_train": 80, "num_validation": 10, "num_test": 0, "epochs": 5, "fingerprint": "f" * 64,
        "splits": "", "versions": {}, "seconds": 0.0, "code": (file,),
    }  # fmt: skip
    return messages.Prepared(**(given | fields))


def with_result(study: Study, *states: TrialState) -> Study:
    """Add a trial in each state."""
    for state in states or (TrialState.COMPLETE,):
        value = 0.5 if state is TrialState.COMPLETE else None
        study.optuna.add_trial(optuna.create_trial(state=state, value=value, params={}, distributions={}))
    return study


def stored(study: Study) -> dict[str, Any]:
    found = study.storage.read(lambda connection: tables.get(connection, tables.STUDY_USER, study.id, PREPARED))
    return dict(found[PREPARED])


def test_equal_code_is_admitted(study: Study) -> None:
    assert data_check.admit(study, prepared()) == []
    assert data_check.admit(study, prepared()) == []


def test_accepted_code_is_the_code_of_the_study_from_then_on(study: Study) -> None:
    data_check.admit(study, prepared())
    with pytest.raises(StudyError, match="churn.py: 1 line added, 1 removed"):
        data_check.admit(study, prepared("units = 128\n"))
    (told,) = data_check.admit(study, prepared("units = 128\n"), accept_code=True)
    assert told.startswith("the study continues with changed code, accepted by --accept-code: churn.py: 1 line added, 1 removed")
    assert data_check.admit(study, prepared("units = 128\n")) == []
    with pytest.raises(StudyError, match="churn.py: 1 line added, 1 removed"):
        data_check.admit(study, prepared())
    assert stored(study)["code"][0]["text"] == "units = 128\n"


def test_changed_code_that_loads_other_data_is_not_accepted(study: Study) -> None:
    data_check.admit(study, prepared())
    with pytest.raises(StudyError, match="other data:\n  examples to train on: 80 -> 90\n.*which --accept-code does not accept. Restore"):
        data_check.admit(study, prepared("units = 128\n", num_train=90), accept_code=True)
    assert stored(study)["code"][0]["text"] == "units = 64\n"


def test_data_that_differ_although_the_code_is_equal_have_no_fixed_seed(study: Study) -> None:
    data_check.admit(study, prepared())
    with pytest.raises(StudyError, match=r"(?s)  data \(fingerprint\): fff.*give its random generators and its split a fixed seed"):
        data_check.admit(study, prepared(fingerprint="0" * 64))


def test_a_study_of_an_earlier_version_without_recorded_code_is_admitted(study: Study) -> None:
    data_check.admit(study, prepared())
    without = {name: value for name, value in stored(study).items() if name != "code"}
    study.storage.write(lambda connection: tables.put(connection, tables.STUDY_USER, study.id, {PREPARED: without}))
    assert data_check.admit(study, prepared("units = 128\n")) == []


def test_long_code_is_recorded_without_its_text(study: Study) -> None:
    data_check.admit(study, prepared("\n" * 30_000))  # 60,000 characters as JSON, which no attribute of MySQL holds
    assert stored(study)["code"][0]["text"] == ""
    with pytest.raises(StudyError, match="it is too long to show what changed"):
        data_check.admit(study, prepared())


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING])
def test_code_that_is_fixed_before_a_trial_has_a_result_is_recorded(state: TrialState, tmp_path: Path) -> None:
    study = with_result(joined(tmp_path), TrialState.FAIL, TrialState.FAIL)
    data_check.admit(study, prepared())
    (told,) = data_check.admit(study, prepared("units = 128\n", num_train=90))
    assert told.startswith("the study continues with changed code, because none of its trials has a result: churn.py: 1 line added")
    assert stored(study)["num_train"] == 90
    with_result(study, state)
    with pytest.raises(StudyError, match="churn.py: 1 line added, 1 removed"):
        data_check.admit(study, prepared())


def test_a_changed_limit_of_silence_is_no_change_of_the_study(tmp_path: Path) -> None:
    assert joined(tmp_path).spec.stall_seconds is None
    assert joined(tmp_path, training={"stall_timeout": "2m"}).spec.stall_seconds == 120
    assert joined(tmp_path).spec.stall_seconds is None
    with pytest.raises(StudyError, match="training.epochs: 10 -> 3"):
        joined(tmp_path, training={"epochs": 3})
