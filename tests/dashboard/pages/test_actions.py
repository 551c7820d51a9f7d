"""Actions of editors on the pages, and their refusal for viewers."""

import re
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from tests.dashboard.pages import serving
from tests.studies import by_hand
from tuner.dashboard.auth.permissions import Role
from tuner.storage import tables
from tuner.storage.attributes import HALTED, STOPPED
from tuner.storage.engine import Storage
from tuner.studies import leases, workers
from tuner.studies.study import Study
from tuner.studies.workers import WorkerStatus

FORMS = ("stop", "suspend", "resume", "budget", "enqueue", "trials/4/stop", "workers/stop")

#: for tests that do not depend on the kind of database
on_one = pytest.mark.parametrize("shared_storage", ["sqlite"], indirect=True)


def forms(text: str) -> list[str]:
    """Return the addresses of the forms of a page."""
    return re.findall(r'<form[^>]* action="([^"]*)"', text)


@pytest.fixture
def client_as(storage: Storage) -> Callable[[Role], TestClient]:
    return lambda role: TestClient(serving.build(storage, role), follow_redirects=False)


def post(client: TestClient, study: Study, action: str, **fields: str) -> str:
    """Send a form, and return the page after the redirect."""
    answer = client.post(f"/tuner/actions/studies/{study.id}/{action}", data={"name": study.name} | fields)
    assert answer.status_code == 303, answer.text
    following = client.get(answer.headers["location"])
    assert following.status_code == 200
    return following.text


def attributes(study: Study) -> dict[str, object]:
    return study.storage.read(lambda connection: tables.get(connection, tables.STUDY_USER, study.id, HALTED, STOPPED))


def test_an_editor_stops_a_study_and_resumes_it(client_as: Callable[[Role], TestClient], worked: Study) -> None:
    editor = client_as(Role.EDITOR)
    text = post(editor, worked, "stop")
    assert "it was stopped by ada" in text
    assert 'class="chip ending"' in text
    assert by_hand.claim(worked) is None
    assert "Resume" in text
    assert "it was stopped" not in post(editor, worked, "resume")
    assert attributes(worked) == {}


def test_an_editor_changes_the_budget(client_as: Callable[[Role], TestClient], worked: Study) -> None:
    text = post(client_as(Role.EDITOR), worked, "budget", trials="50", timeout="", target="0.99")
    assert "50 trials, or an accuracy of 0.99" in text


def test_an_editor_stops_one_trial(client_as: Callable[[Role], TestClient], worked: Study) -> None:
    text = post(client_as(Role.EDITOR), worked, "trials/4/stop")
    assert "No trial is running" in text
    assert "stopped by ada" in client_as(Role.VIEWER).get(f"/tuner/studies/{worked.id}/trials/4").text


def test_an_editor_enqueues_a_config(client_as: Callable[[Role], TestClient], worked: Study) -> None:
    text = post(client_as(Role.EDITOR), worked, "enqueue", config="dropout: 0.25\n")
    assert 'class="chip waiting"' in text
    claimed = by_hand.must_claim(worked)
    assert (claimed.number, claimed.of_images.dropout) == (5, 0.25)


def test_an_editor_stops_a_worker(client_as: Callable[[Role], TestClient], worked: Study) -> None:
    worker = leases.WorkerId.here("hand")
    pulse = WorkerStatus(device="cpu, 2 threads", memory_bytes=2**28, trainer_memory_bytes=2**31, trial=4, versions={"tuner": "0.1.0"})
    worked.storage.write(lambda connection: workers.register(connection, worked, worker, pulse, threads=2))
    shown = client_as(Role.VIEWER).get("/tuner/workers").text
    assert [word for word in ("cpu, 2 threads", "2.0 GiB trainer, 256 MiB worker", "tuner 0.1.0", "trial 4") if word not in shown] == []
    assert forms(shown) == ["/tuner/signout"]
    text = post(client_as(Role.EDITOR), worked, "workers/stop", worker=worker.key, back="workers")
    assert "Stops after its trial, requested by <bdi>ada</bdi>" in text


@on_one
@pytest.mark.parametrize("action", FORMS)
def test_a_viewer_is_refused_and_nothing_changes(client_as: Callable[[Role], TestClient], worked: Study, action: str) -> None:
    viewer = client_as(Role.VIEWER)
    before = viewer.get(f"/tuner/studies/{worked.id}").text
    assert forms(before) == ["/tuner/signout"]
    answer = viewer.post(f"/tuner/actions/studies/{worked.id}/{action}", data={"name": worked.name})
    assert answer.status_code == 403
    assert "needs the role editor; ada is viewer" in answer.text
    assert attributes(worked) == {}


@on_one
@pytest.mark.parametrize(
    ("action", "fields", "said"),
    [
        ("budget", {"trials": "-1"}, "budget.trials"),
        ("budget", {"trials": "many"}, "budget.trials"),
        ("budget", {"trials": "", "timeout": "", "target": ""}, "budget"),
        ("enqueue", {"config": "dropout: 7"}, "dropout"),
        ("enqueue", {"config": "<script>: [1"}, "never closed"),
        ("enqueue", {"config": "just words"}, "has no hyperparameters"),
        ("enqueue", {"config": ""}, "empty"),
        ("trials/99/stop", {}, "no trial 99"),
        ("trials/0/stop", {}, "has ended already"),
        ("resume", {}, "was not stopped"),
        ("workers/stop", {"worker": "nobody"}, "no active worker nobody"),
        ("stop", {"name": "another"}, "The study of your page was deleted"),
    ],
)
def test_an_impossible_action_is_explained(
    client_as: Callable[[Role], TestClient], worked: Study, action: str, fields: dict[str, str], said: str
) -> None:
    answer = client_as(Role.EDITOR).post(f"/tuner/actions/studies/{worked.id}/{action}", data={"name": worked.name} | fields)
    assert answer.status_code in (400, 409)
    assert said in answer.text
    assert "<script>:" not in answer.text


def test_a_study_of_plain_optuna_has_no_actions(client_as: Callable[[Role], TestClient], storage: Storage) -> None:
    import optuna

    study = optuna.create_study(storage=storage.rdb, study_name="plain")
    assert forms(client_as(Role.ADMIN).get(f"/tuner/studies/{study._study_id}").text) == ["/tuner/signout"]
    answer = client_as(Role.ADMIN).post(f"/tuner/actions/studies/{study._study_id}/stop", data={"name": "plain"})
    assert answer.status_code == 409
    assert "was not created by tuner" in answer.text
