"""`tuner worker STUDY` as processes; their trainers are rehearsed."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.acceptance.conftest import Place
from tuner.spec import study
from tuner.storage import engine as storages
from tuner.studies import study as studies

#: a data source that leaves a mark when it is imported
MODULE = """
import numpy as np
from pathlib import Path
Path(__file__).with_suffix(".imported").touch()
def read():
    return np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8), [0, 1] * 20
"""


def begin(place: Place, **sections: Any) -> None:
    """Create a study in the storage of a place, without importing its code."""
    place.write(**sections)
    file = place.folder / "study.yaml"
    storage = storages.open(f"sqlite:///{place.folder / 'tuner.db'}")
    studies.join(study.StudySpec.model_validate(json.loads(file.read_text())), storage)
    storage.close()
    file.unlink()


def module(place: Place, name: str) -> Path:
    """Write a module into a place; return the file that appears when someone imports it."""
    (place.folder / f"{name}.py").write_text(MODULE)
    return place.folder / f"{name}.imported"


def last_line(place: Place, *arguments: str) -> str:
    """Return the message of a command that is refused before it starts or imports anything."""
    code, out, lines = place.here(*arguments)
    assert (code, out, len(lines)) == (2, "", 1), lines
    return lines[0]


def test_a_study_in_the_storage_needs_no_file_and_one_that_has_ended_no_trainer(place: Place) -> None:
    begin(place, budget={"trials": 3})
    assert place.tuner("worker", "study").end()[0] == 0
    assert place.states() == ["COMPLETE"] * 3
    again = place.tuner("worker", "study", script={"always": "crash"})
    assert again.end()[0] == 0
    assert again.lines == ["study has ended: the budget of 3 trials is spent"]


def test_a_worker_prints_the_warnings_about_the_images_once(place: Place) -> None:
    data = {"source": "digits", "validation": 20}
    begin(place, data=data, budget={"trials": 1})
    first = place.tuner("worker", "study")
    assert first.end()[0] == 0
    place.write(data=data, budget={"trials": 2}, name="other")
    second = place.tuner("worker", "study.yaml", script={"warnings": ["seen by a trainer"], "faults": {"0": ["crash"]}})
    assert second.end()[0] == 0
    for worker in (first, second):
        assert [line for line in worker.lines if "validation has only 20 images" in line] == [
            "warning: validation has only 20 images: accuracy moves in steps of 5 points, too coarse to choose the best trial; "
            "raise data.validation, or add images"
        ]
    assert len([line for line in second.lines if "other warning: seen by a trainer" in line]) == 1


def test_a_worker_waits_for_its_study(place: Place) -> None:
    worker = place.tuner("worker", "study", "--wait", "2m")
    worker.until("waiting, at most 120 s: there is no study study")
    begin(place, budget={"trials": 2})
    assert worker.end()[0] == 0, worker.lines
    assert place.states() == ["COMPLETE"] * 2


def test_a_worker_waits_for_its_database_and_gets_its_password_from_a_file(
    place: Place, postgresql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.folder / "url").write_text(postgresql.get_uri())
    monkeypatch.setenv("TUNER_STORAGE_FILE", str(place.folder / "url"))
    postgresql.stop()
    worker = place.tuner("worker", "study.yaml", "--wait", "2m")
    worker.until("waiting", "cannot be used: no server listens there")
    postgresql.start()
    assert worker.end()[0] == 0, worker.lines
    assert any("the budget of 4 trials is spent" in line for line in worker.lines)


def test_the_end_of_a_wait_names_what_was_missing(place: Place) -> None:
    worker = place.tuner("worker", "study", "--wait", "1s")
    assert worker.end()[0] == 2
    assert "there is no study study: sqlite:///tuner.db does not exist" in worker.lines[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stduy"], "there is no study stduy in this storage. Known: study. Did you mean study?"),
        (["study.yaml"], "the file study.yaml does not exist. To name a study in the storage, drop the suffix: tuner worker study"),
        (["study", "--data", "photos"], "which reads no local files; drop --data"),
    ],
)
def test_a_worker_names_what_it_cannot_find(place: Place, arguments: list[str], said: str) -> None:
    begin(place)
    assert said in last_line(place, "worker", *arguments)


def test_a_file_and_a_study_with_the_same_name_are_distinguished(place: Place) -> None:
    begin(place, name="other", budget={"trials": 1})
    begin(place, budget={"trials": 1})
    place.write(name="other", budget={"trials": 1})
    (place.folder / "study.yaml").rename(place.folder / "study")
    assert "study is both a file and a study in the storage; write ./study for the file" in last_line(place, "worker", "study")
    assert place.tuner("worker", "./study").end()[0] == 0
    assert place.states() == []


def test_images_may_have_another_path_on_the_machine_of_a_worker(place: Place) -> None:
    begin(place, data={"source": "folder", "path": "/there/photos"}, budget={"trials": 1})
    for label in ("roses", "tulips"):
        (place.folder / "photos" / label).mkdir(parents=True)
        for number in range(8):
            pixels = np.random.default_rng(2 * number + (label == "roses")).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(place.folder / "photos" / label / f"{number}.png")
    assert "/there/photos" in last_line(place, "worker", "study")
    worker = place.tuner("worker", "study", "--data", "photos")
    assert worker.end()[0] == 0, worker.lines
    assert place.states() == ["COMPLETE"]


def test_code_named_in_the_storage_is_imported_only_if_allowed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = module(place, "theirs")
    begin(place, data={"source": "python", "function": "theirs:read"}, budget={"trials": 1})
    assert "TUNER_ALLOW_CODE=theirs" in last_line(place, "worker", "study")
    assert "Allowed: ours." in last_line(place, "worker", "study", "--allow-code", "ours")
    assert not mark.exists()
    monkeypatch.setenv("TUNER_ALLOW_CODE", "ours,theirs")
    assert place.tuner("worker", "study").end()[0] == 0
    assert mark.exists()
    assert place.states() == ["COMPLETE"]


@pytest.mark.parametrize("command", ["run", "worker"])
def test_code_named_in_the_users_file_is_allowed_and_other_code_in_the_storage_is_not_imported(place: Place, command: str) -> None:
    theirs, mine = module(place, "theirs"), module(place, "mine")
    begin(place, data={"source": "python", "function": "theirs:read"})
    place.write(data={"source": "python", "function": "mine:read"})
    refused = place.tuner(command, "study.yaml")
    assert refused.end()[0] == 2
    assert any("data.function: 'theirs:read' -> 'mine:read'" in line for line in refused.lines), refused.lines
    assert (theirs.exists(), mine.exists()) == (False, True)


def test_a_worker_waits_for_the_last_trial_of_another_worker_and_resumes_it_if_that_worker_dies(place: Place) -> None:
    begin(place, budget={"trials": 1})
    first = place.tuner("worker", "study", script={"faults": {"0": ["hang"]}})
    first.until("trial 0 started")
    second = place.tuner("worker", "study")
    second.until("other workers train the last trials")
    first.signal(signal.SIGKILL)
    second.until("trial 0 resumed")
    assert second.end()[0] == 0, second.lines
    assert place.states() == ["COMPLETE"]


def test_a_worker_that_waits_for_the_last_trials_ends_on_request(place: Place) -> None:
    begin(place, budget={"trials": 1})
    first = place.tuner("worker", "study", script={"faults": {"0": ["hang"]}})
    first.until("trial 0 started")
    second = place.tuner("worker", "study")
    second.until("other workers train the last trials")
    second.signal(signal.SIGTERM)
    assert second.end()[0] == 0
    assert place.states() == ["RUNNING"]


def test_workers_of_several_containers_have_different_names() -> None:
    from tuner.commands import worker

    names = {worker.new_name() for _ in range(20)}
    assert len(names) == 20
    assert all(name.startswith(f"w{os.getpid()}-") for name in names)
