"""The worker process."""

from pathlib import Path

import pytest

from tests import databases
from tuner.commands import options, run
from tuner.errors import RequestError, StorageError, TunerError
from tuner.spec.study import StudySpec
from tuner.storage import engine as storages
from tuner.studies import study as studies
from tuner.studies import trials
from tuner.workers.bucket.transfer import Folders
from tuner.workers.worker import process
from tuner.workers.worker.rehearsal import Rehearsal, Script
from tuner.workers.worker.stopping import Stopping
from tuner.workers.worker.worker import WorkerTiming


def test_an_unreachable_storage_is_not_a_request_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*given: object, **named: object) -> object:
        raise StorageError("the storage is away")

    url = databases.sqlite(tmp_path)
    spec = StudySpec.model_validate({"name": "study", "data": {"source": "digits"}})
    study = studies.join(spec, storages.open(url))
    folders, workers = Folders(cache=tmp_path, artifacts=tmp_path), options.plan_workers(1, 1, None, None)
    (assignment,) = run.make_assignments(study, url, folders, workers)
    monkeypatch.setattr(trials, "claim", away)
    with pytest.raises(TunerError, match="the storage is away") as caught:
        process.run_worker(
            assignment,
            stopping=Stopping(),
            tell=lambda event: None,
            start=lambda given: Rehearsal(Script()),
            timing=WorkerTiming(storage_patience_seconds=0.0),
        )
    assert not isinstance(caught.value, RequestError)
