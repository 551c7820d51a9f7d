"""What is checked is what is trained, whoever started the worker."""

import json
from pathlib import Path
from typing import Any

import pytest

from tuner.commands import options, running
from tuner.errors import StudyError
from tuner.search import storage as storages
from tuner.search import study as studies
from tuner.search import tables
from tuner.search.study import Study
from tuner.spec import StudySpec
from tuner.workers import local, process
from tuner.workers.events import Event, Happening
from tuner.workers.stopping import Stopping


def spec(**sections: Any) -> StudySpec:
    return StudySpec.model_validate({"name": "flowers", "data": {"source": "digits"}} | sections)


def change(study: Study, **sections: Any) -> None:
    """Write another spec into the storage, as someone with its password may."""
    theirs = {studies.SPEC: spec(**sections).model_dump_json()}
    study.storage.write(lambda connection: tables.put(connection, tables.STUDY_USER, study.id, json.loads(json.dumps(theirs))))


def test_a_budget_that_has_changed_is_no_other_study() -> None:
    process.require_unchanged(spec(), spec(budget={"trials": 7}))


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"model": {"backbone": "python:theirs:build"}}, "model.backbone: 'efficientnet_lite0' -> 'python:theirs:build'"),
        ({"data": {"source": "python", "function": "theirs:read"}}, "data.function: not given -> 'theirs:read'"),
    ],
)
def test_a_study_that_was_changed_meanwhile_is_refused(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError, match="was changed in the storage since this worker joined it") as raised:
        process.require_unchanged(spec(), spec(**sections))
    assert said in str(raised.value)


def test_a_run_whose_study_is_changed_before_its_worker_looks_trains_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'tuner.db'}"
    study = studies.join(spec(), storages.open(url))
    assignments = list(running.assign(study, url, options.Folders(cache=tmp_path, artifacts=tmp_path), options.hands(1, 1, None, None)))
    change(study, model={"backbone": "python:theirs:build"})
    told: list[Event] = []
    codes = local.run(assignments, stopping=Stopping(), tell=told.append)
    assert codes == [2]
    assert [event.what for event in told] == [Happening.REFUSED]
    assert "python:theirs:build" in told[0].message
    study.storage.close()
