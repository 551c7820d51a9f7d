"""A worker trains only the study that was checked."""

import json
from pathlib import Path
from typing import Any

import pytest

from tuner.commands import options, run
from tuner.errors import StudyError
from tuner.spec.study import StudySpec
from tuner.storage import engine as storages
from tuner.storage import tables
from tuner.storage.attributes import SPEC
from tuner.studies import study as studies
from tuner.studies.study import Study
from tuner.workers.bucket.transfer import Folders
from tuner.workers.engines import local
from tuner.workers.worker import process
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.stopping import Stopping


def spec(**sections: Any) -> StudySpec:
    return StudySpec.model_validate({"name": "flowers", "data": {"source": "digits"}} | sections)


def change(study: Study, **sections: Any) -> None:
    """Change the stored study, as everyone with the storage's password can."""
    theirs = {SPEC: spec(**sections).model_dump_json()}
    study.storage.write(lambda connection: tables.put(connection, tables.STUDY_USER, study.id, json.loads(json.dumps(theirs))))


def test_a_changed_budget_is_accepted() -> None:
    process.require_unchanged(spec(), spec(budget={"trials": 7}))


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"model": {"backbone": "python:theirs:build"}}, "model.backbone: 'efficientnet_lite0' -> 'python:theirs:build'"),
        ({"data": {"source": "python", "function": "theirs:read"}}, "data.function: not given -> 'theirs:read'"),
    ],
)
def test_a_study_changed_after_its_check_is_refused(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError, match="was changed in the storage since this worker joined it") as raised:
        process.require_unchanged(spec(), spec(**sections))
    assert said in str(raised.value)


def test_a_study_changed_before_its_worker_starts_trains_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'tuner.db'}"
    study = studies.join(spec(), storages.open(url))
    assignments = list(
        run.make_assignments(study, url, Folders(cache=tmp_path, artifacts=tmp_path), options.plan_workers(1, 1, None, None))
    )
    change(study, model={"backbone": "python:theirs:build"})
    told: list[Event] = []
    codes = local.run(assignments, stopping=Stopping(), tell=told.append)
    assert codes == [2]
    assert [event.what for event in told] == [EventKind.REFUSED]
    assert "python:theirs:build" in told[0].message
    study.storage.close()
