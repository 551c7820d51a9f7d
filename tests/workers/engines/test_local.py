"""The local engine, and a worker that does not end."""

import sys
from pathlib import Path

import pytest

from tests import databases
from tuner.commands import options, run
from tuner.errors import RequestError
from tuner.spec.study import StudySpec
from tuner.storage import engine as storages
from tuner.studies import study as studies
from tuner.workers.bucket.transfer import Folders
from tuner.workers.engines import gpus, local
from tuner.workers.engines.gpus import Gpu, GpuShare
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.process import Assignment
from tuner.workers.worker.stopping import Stopping


def test_each_worker_of_a_run_gets_its_gpu_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "find", lambda: (Gpu(name="GPU-aaaa", memory_mb=10000), Gpu(name="GPU-bbbb", memory_mb=20000)))
    url = databases.sqlite(tmp_path)
    study = studies.join(StudySpec.model_validate({"name": "study", "data": {"source": "digits"}}), storages.open(url))
    workers = options.plan_workers(None, 1, None, None, 2)
    assignments = list(run.make_assignments(study, url, Folders(cache=tmp_path, artifacts=tmp_path), workers))
    places = [Assignment.model_validate_json(assignment.model_dump_json()).gpu for assignment in assignments]
    first, second = GpuShare(gpu="GPU-aaaa", memory_mb=4500), GpuShare(gpu="GPU-bbbb", memory_mb=9000)
    assert places == [first, second, first, second]


@pytest.mark.parametrize("given", ["0", "two", "-1"])
def test_an_invalid_number_of_slots_in_the_environment_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNER_SLOTS_PER_GPU", given)
    with pytest.raises(RequestError, match="expected a whole number of at least 1"):
        options.read_slots_per_gpu()


@pytest.mark.parametrize(("given", "slots"), [("", None), ("3", 3)])
def test_the_environment_can_set_the_slots(given: str, slots: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNER_SLOTS_PER_GPU", given)
    assert options.read_slots_per_gpu() == slots


def test_a_worker_that_closes_its_pipe_and_does_not_end_is_killed(tmp_path: Path) -> None:
    lasting = (sys.executable, "-c", "import os, sys, time; os.close(int(sys.argv[1])); time.sleep(600)")
    url = databases.sqlite(tmp_path)
    study = studies.join(StudySpec.model_validate({"name": "study", "data": {"source": "digits"}}), storages.open(url))
    folders = Folders(cache=tmp_path, artifacts=tmp_path)
    told: list[Event] = []
    assignments = list(run.make_assignments(study, url, folders, options.plan_workers(1, 1, None, None)))
    codes = local.run(assignments, stopping=Stopping(), tell=told.append, command=lasting, leave_seconds=0.1)
    assert codes == [-9]
    assert [event.what for event in told] == [EventKind.TROUBLE, EventKind.TROUBLE, EventKind.GAVE_UP]
    assert "tuner does not restart it" in told[-1].message
