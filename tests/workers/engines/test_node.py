from pathlib import Path

import pytest

from tuner import errors
from tuner.spec.study import StudySpec
from tuner.studies import leases
from tuner.trust import keys
from tuner.workers.bucket.transfer import Folders
from tuner.workers.engines import node
from tuner.workers.worker.process import Assignment


def order() -> node.RemoteAssignment:
    spec = StudySpec.model_validate({"name": "small", "data": {"source": "digits"}})
    folders = Folders(cache=Path("cache"), artifacts=Path("artifacts"))
    assignment = Assignment(
        study="small", spec=spec, storage="sqlite://", worker="w1", folders=folders, threads=1, hang_limit_seconds=1.0,
    )  # fmt: skip
    return node.RemoteAssignment.here(assignment, node.NodeShare(cpus=1, gpus=0), num_workers=1, command=None)


def test_a_key_in_the_environment_is_not_sent_to_other_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keys.ARTIFACT_KEY, f"{keys.SECRET}SECRET")
    with pytest.raises(errors.RequestError, match="is not sent to other nodes") as refused:
        order()
    assert "1SECRET" not in str(refused.value)


def test_the_path_of_a_key_file_is_sent_to_other_nodes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(keys.ARTIFACT_KEY, str(tmp_path / "key"))
    assert order().environment[keys.ARTIFACT_KEY] == str(tmp_path / "key")


def test_all_workers_of_a_cluster_have_leases_of_one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(leases.VARIABLE, "20")
    assert order().environment[leases.VARIABLE] == "20"
