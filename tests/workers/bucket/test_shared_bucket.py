"""The files of trials in a bucket, and workers on several machines that share them."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests import buckets
from tests.workers.conftest import WorkerRunner
from tuner.workers.bucket import transfer
from tuner.workers.bucket.transfer import Folders
from tuner.workers.worker.events import Event, EventEmitter, EventKind
from tuner.workers.worker.rehearsal import Fault, Script
from tuner.workers.worker.stopping import Stopping

Make = Callable[..., WorkerRunner]
_NUMBERS = itertools.count()


@dataclass
class Shared:
    """A bucket for one test, and workers that share only the bucket and the study."""

    service: buckets.Service
    make: Make
    folder: Path
    name: str = field(default_factory=lambda: f"bucket-{next(_NUMBERS)}")

    def __post_init__(self) -> None:
        self.url = self.service.make(self.name)

    def first(self, **sections: Any) -> WorkerRunner:
        runner = self.make(**sections)
        runner.bucket = self.url
        return runner

    def second(self, first: WorkerRunner, script: Script) -> WorkerRunner:
        """Return a runner on another machine."""
        return WorkerRunner(study=first.study, folder=self.folder / "second", bucket=self.url, script=script)

    def kept(self) -> list[str]:
        return [key.removeprefix("models/team/study/") for key in self.service.keys(self.name)]

    def files(self, runner: WorkerRunner) -> list[str]:
        return sorted(f"{path.parent.name}/{path.name}" for path in (runner.folder / "artifacts").glob("study/trial-*/*"))


@pytest.fixture
def shared(bucket_service: buckets.Service, make: Make, tmp_path: Path) -> Shared:
    return Shared(service=bucket_service, make=make, folder=tmp_path)


def stop_at_epoch(runner: WorkerRunner, step: int) -> None:
    def react(event: Event) -> None:
        if event.what is EventKind.EPOCH and event.step == step:
            runner.stopping.ask()

    runner.react = react


def test_a_suspended_trial_resumes_on_another_machine(shared: Shared) -> None:
    first = shared.first(budget={"trials": 1}, training={"promote": 1.0})
    first.script = Script(fine_tune_epochs=6)
    stop_at_epoch(first, 5)
    first.work()
    assert first.happened(EventKind.SUSPENDED) == [0]
    assert shared.kept() == ["trial-00000/checkpoint"]
    # a trial that starts again would fail at its second epoch
    second = shared.second(first, Script(fine_tune_epochs=6, always=Fault.FAIL))
    second.work("w2")
    assert second.happened(EventKind.RESUMED) == [0]
    assert second.states() == ["COMPLETE"]
    assert second.steps(0) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert shared.kept() == ["trial-00000/weights.weights"]
    assert shared.files(second) == []


def test_the_bucket_holds_the_weights_of_trial_0_and_of_each_best_trial_only(shared: Shared) -> None:
    runner = shared.first(budget={"trials": 6}, training={"promote": 1.0}, seed=0, search={"dropout": [0.0, 0.5]})
    runner.script.keeps_epochs = True
    runner.work()
    values = [trial.value for trial in runner.study.optuna.get_trials(deepcopy=False)]
    best = [0, 5]
    assert values[5] == max(values)  # type: ignore[type-var]
    assert values[0] > max(values[1:5])  # type: ignore[type-var, operator]
    assert shared.kept() == [f"trial-{number:05d}/weights.weights" for number in best]
    assert shared.files(runner) == []
    stored = [trial.user_attrs.get("weights") for trial in runner.study.optuna.get_trials(deepcopy=False)]
    assert [number for number, weights in enumerate(stored) if weights] == best
    assert stored[0] == f"{shared.url}/study/trial-00000/weights.weights"


@pytest.mark.parametrize("is_shared", [True, False], ids=["in a bucket", "in a folder"])
def test_the_checkpoint_of_a_failed_trial_is_deleted(shared: Shared, is_shared: bool) -> None:
    first = shared.first(budget={"trials": 1}, training={"promote": 1.0})
    first.bucket = shared.url if is_shared else None
    first.script = Script(fine_tune_epochs=6)
    stop_at_epoch(first, 5)
    first.work()
    assert shared.files(first) == ["trial-00000/checkpoint"]
    again = first.again()
    again.bucket, again.script = first.bucket, Script(fine_tune_epochs=6, always=Fault.FAIL)
    # an unusable checkpoint and a partly written file
    (first.folder / "artifacts" / "study" / "trial-00000" / "checkpoint").write_text('{"step": 0}')
    (first.folder / "artifacts" / "study" / "trial-00000" / "checkpoint.4711.part").touch()
    if is_shared:
        shared.service.client.put_object(Bucket=shared.name, Key="models/team/study/trial-00000/checkpoint", Body=b'{"step": 0}')
    again.work()
    assert again.states() == ["FAIL"]
    assert (shared.kept(), shared.files(again)) == ([], [])


def test_a_worker_that_lost_its_trial_does_not_overwrite_the_other_workers_files(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    first = shared.first(budget={"trials": 1}, training={"promote": 1.0})
    first.script = Script(fine_tune_epochs=6)
    other: list[WorkerRunner] = []

    def take_away(event: Event) -> None:
        if event.what is EventKind.EPOCH and event.step == 4 and not other:
            second = shared.second(first, Script(fine_tune_epochs=6))
            other.append(second)
            first.study.storage.write(
                lambda connection: connection.exec_driver_sql("UPDATE tuner_leases SET ended_at = 1, ending = 'lost'")
            )
            second.work("w2")

    first.react = take_away
    first.work()
    assert first.happened(EventKind.LOST) == [0]
    assert first.states() == ["COMPLETE"]
    assert shared.kept() == ["trial-00000/weights.weights"]


def test_weights_that_a_worker_could_not_upload_are_uploaded_by_the_next(shared: Shared) -> None:
    runner = shared.first(budget={"trials": 1})
    due = runner.folder / "artifacts" / "study" / "trial-00007" / "weights.npz.due"
    due.parent.mkdir(parents=True)
    due.write_bytes(b"weights")
    runner.work()
    assert "trial-00007/weights.npz" in shared.kept()
    assert not due.exists()


def test_a_checkpoint_that_cannot_be_downloaded_is_reported_and_the_trial_starts(shared: Shared, tmp_path: Path) -> None:
    told: list[Event] = []
    places = Folders(cache=tmp_path, artifacts=tmp_path / "artifacts", bucket=shared.url)
    uploads = transfer.start(places, "study", EventEmitter("study", "w1", told.append), Stopping(), fetch_seconds=0.1)
    assert uploads.fetch(3) is None  # there is none
    assert told == []
    shared.service.stop()
    began = time.monotonic()
    try:
        assert uploads.fetch(3) is None
        assert time.monotonic() - began < 30.0  # it was given 0.1 s, the default is a minute
    finally:
        shared.service.start()
        uploads.close()
    (event,) = told
    assert event.message.startswith("its checkpoint cannot be downloaded: the artifacts s3://")
    assert event.message.endswith(". The trial resumes from this machine's checkpoint, or starts again")
