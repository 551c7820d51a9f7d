"""Several workers on this machine, where one of them does not do its part."""

import sys
from pathlib import Path

import pytest

from tuner.commands import options, running
from tuner.search import storage as storages
from tuner.search import study as studies
from tuner.spec import StudySpec
from tuner.workers import local
from tuner.workers.events import Event, Happening
from tuner.workers.stopping import Stopping


def test_a_worker_that_closes_its_pipe_and_does_not_leave_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "COMMAND", (sys.executable, "-c", "import os, sys, time; os.close(int(sys.argv[1])); time.sleep(600)"))
    monkeypatch.setattr(local, "_LEAVE_SECONDS", 0.1)
    url = f"sqlite:///{tmp_path / 'tuner.db'}"
    study = studies.join(StudySpec.model_validate({"name": "study", "data": {"source": "digits"}}), storages.open(url))
    folders = options.Folders(cache=tmp_path, artifacts=tmp_path)
    told: list[Event] = []
    codes = local.run(list(running.assign(study, url, folders, options.hands(1, 1, None, None))), stopping=Stopping(), tell=told.append)
    assert codes == [-9]
    assert [event.what for event in told] == [Happening.TROUBLE, Happening.TROUBLE, Happening.GAVE_UP]
    assert "not started again" in told[-1].message
