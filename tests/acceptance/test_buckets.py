"""Worker processes that share no folder: one resumes from the files that another uploaded to a bucket. Their trainers are rehearsed."""

import itertools
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests import buckets
from tests.acceptance.conftest import Command, Place
from tests.waiting import until
from tuner.results.versions import versions
from tuner.storage import engine as storages
from tuner.studies import study as studies

LONG = {"fine_tune_epochs": 12, "keeps_epochs": True}
#: of buckets
NUMBERS = itertools.count()


class Machines:
    """Workers of one study, each with its own folder, and their shared bucket."""

    def __init__(self, place: Place, service: buckets.Service, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._place, self._service, self._bucket, self._monkeypatch = place, service, bucket, monkeypatch
        self.url = service.make(bucket)

    def worker(self, machine: str, **script: Any) -> Command:
        return self.tuner(machine, "worker", "study.yaml", "--artifacts", self.url, **script)

    def tuner(self, machine: str, *arguments: str, **script: Any) -> Command:
        self._monkeypatch.setenv("TUNER_SCRATCH", str(self._place.folder / machine))
        return self._place.tuner(*arguments, script=script or {"epoch_seconds": 0.02})

    def files(self, machine: str) -> list[str]:
        """What is in the folders of trials on a machine."""
        return sorted(f"{path.parent.name}/{path.name}" for path in (self._place.folder / machine).glob("study/trial-*/*"))

    @property
    def folder(self) -> Path:
        """Where the storage is, and beneath it a folder for each machine."""
        return self._place.folder

    def objects(self) -> list[str]:
        """Everything that is in the bucket."""
        return self._service.keys(self._bucket)

    def kept(self) -> list[str]:
        """What is in the bucket."""
        return [key.removeprefix("models/team/study/") for key in self._service.keys(self._bucket)]

    def checkpoint(self) -> int:
        """The epoch that is in the bucket; 0: none."""
        if "trial-00000/checkpoint" not in self.kept():
            return 0
        found = self._service.client.get_object(Bucket=self._bucket, Key="models/team/study/trial-00000/checkpoint")
        return int(json.loads(found["Body"].read())["step"])

    def attribute(self, trial: int, name: str) -> Any:
        storage = storages.open(f"sqlite:///{self._place.folder / 'tuner.db'}")
        found = studies.load("study", storage).optuna.get_trials(deepcopy=False)[trial].user_attrs[name]
        storage.close()
        return found


@pytest.fixture
def machines(place: Place, bucket_service: buckets.Service, monkeypatch: pytest.MonkeyPatch) -> Machines:
    place.write(budget={"trials": 1})
    return Machines(place, bucket_service, f"bucket-{next(NUMBERS)}", monkeypatch)


def test_another_machine_resumes_from_the_checkpoint_in_the_bucket(place: Place, machines: Machines) -> None:
    first = machines.worker("one", **LONG, **place.wait_point("trial 0 epoch 6").script)
    until(lambda: machines.checkpoint() == 6)
    first.signal(signal.SIGKILL)
    first.end()
    assert machines.files("one") == ["trial-00000/checkpoint"]

    # one that begins the trial anew fails at its second epoch
    second = machines.worker("two", **LONG, always="fail")
    assert second.end()[0] == 0, second.lines
    assert any("trial 0 resumed" in line for line in second.lines)
    assert place.states() == ["COMPLETE"]
    assert machines.attribute(0, "attempts") == 2
    assert machines.attribute(0, "weights") == f"{machines.url}/study/trial-00000/weights.weights"
    assert machines.kept() == ["trial-00000/weights.weights"]
    assert machines.files("two") == []


def test_training_continues_without_the_bucket_and_the_next_worker_of_the_machine_uploads_the_rest(
    place: Place, machines: Machines, bucket_service: buckets.Service
) -> None:
    place.write(budget={"trials": 2})
    fine_tuning = place.wait_point("trial 0 epoch 3")
    first = machines.worker("one", **LONG, **fine_tuning.script)
    fine_tuning.until_reached()
    bucket_service.stop()
    try:
        fine_tuning.go_on()
        first.until("training continues", "does not answer")
        assert first.end()[0] == 0, first.lines
    finally:
        bucket_service.start()
    assert place.states() == ["COMPLETE"] * 2
    away = [line for line in first.lines if "does not answer" in line]
    assert len(away) == 1, away
    assert "weights.weights.due is not in s3://" in " ".join(first.lines)
    assert "trial-00000/weights.weights" not in machines.kept()

    assert machines.worker("one").end()[0] == 0
    assert machines.files("one") == []
    assert "trial-00000/weights.weights" in machines.kept()


@pytest.mark.parametrize(("script", "form"), [({"epoch_seconds": 0.02}, "soup"), ({"mistakes_differ": True}, "ensemble")])
def test_weights_from_several_machines_become_a_version_with_its_soup_or_its_ensemble_in_the_bucket(
    machines: Machines, script: dict[str, Any], form: str
) -> None:
    assert machines.tuner("one", "run", "study.yaml", "--no-export", "--artifacts", machines.url).end()[0] == 0
    told = machines.tuner("two", "retrain", "study", "--top", "1", "--seeds", "2", "--json", "--artifacts", machines.url, **script)
    code, out = told.end()
    assert code == 0, told.lines
    assert len(json.loads(out)["networks"][0]["chosen_seeds"]) == 2
    storage = storages.open(f"sqlite:///{machines.folder / 'tuner.db'}")
    (version,) = versions.all(storage, "study")
    storage.close()
    key = version.model.artifact.removeprefix(f"{machines.url}/")
    assert key.startswith(f"study-retrain-1/{form}-")
    assert f"models/team/{key}" in machines.objects()
    assert not list((machines.folder / "two" / "study-retrain-1").glob(f"{form}-*"))
    assert not (machines.folder / "two" / "study-retrain-1" / "answers").exists()
