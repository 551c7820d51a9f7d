"""/metrics and the JSON API."""

import json
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.core.result import Ok
from starlette.testclient import TestClient

from tests import databases
from tests.dashboard.clients import HERE, authentication_of, owner
from tests.studies import by_hand
from tuner.dashboard import api, app
from tuner.dashboard.auth import accounts
from tuner.dashboard.auth.permissions import Role
from tuner.dashboard.submission import SubmissionRules
from tuner.storage import engine as storages
from tuner.storage.attributes import PREPARED, SPEC
from tuner.studies import study as studies
from tuner.studies import trials
from tuner.studies.trials import WorkerId
from tuner.trust.roots import Roots
from tuner.views import figures

HOSTILE = [
    "<script>alert(1)</script>",
    "x" * 500,
    "\u202eevil\u202c",
    "\N{PARTY POPPER}",
    "a/b/../c",
    "trials/best",
    "q\"uo'te\\",
    "new\nline",
    "%2e%2e%2f",
]

NUM_OPERATIONS = 27


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> storages.Storage:
    """A study with a completed and a running trial, and studies with hostile names."""
    opened = storages.open(databases.sqlite(tmp_path_factory.mktemp("programs")))
    study = studies.join(by_hand.spec(), opened)
    study.optuna.set_user_attr(PREPARED, by_hand.PREPARED.model_dump(mode="json"))
    claimed = by_hand.must_claim(study)
    trials.report(study, claimed, by_hand.epochs(claimed, [0.5, 0.6]))
    by_hand.finish(study, claimed, 0.75)
    by_hand.must_claim(study, WorkerId.here("second"))
    for name in HOSTILE:
        made = optuna.create_study(storage=opened.rdb, study_name=name, direction="maximize")
        made.set_user_attr(SPEC, study.spec.model_dump_json())
    return opened


@pytest.fixture(scope="module")
def program(opened: storages.Storage, users: Path, tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    """A program with a viewer's token, at a server with a folder of artifacts."""
    own_users = tmp_path_factory.mktemp("programs") / "users.json"
    token = accounts.add_token(own_users, "grafana", Role.VIEWER, seconds=None)
    spool = own_users.parent / "artifacts" / "by-hand" / "spool"
    spool.mkdir(parents=True)
    (spool / "trial-00001.jsonl").write_text('{"kind": "origin"}\n{"kind": "epoch"}\n{"kind": "epoch"}\n')
    served = app.build(opened, authentication_of(own_users, artifacts=own_users.parent / "artifacts"))
    return TestClient(served, base_url=HERE, headers={"Authorization": f"Bearer {token}"})


def get(program: TestClient, path: str, **params: Any) -> Any:
    answer = program.get(f"{api.ROOT}{path}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_api_lists_studies_best_trials_and_workers(program: TestClient) -> None:
    first = get(program, "/studies")["studies"][0]
    assert (first["name"], first["best_value"], first["best_trial"], first["num_workers"]) == ("by-hand", 0.75, 0, 1)
    assert first["trials"] == {"running": 1, "complete": 1, "pruned": 0, "fail": 0, "waiting": 0}
    assert 0 <= first["silent_seconds"] < 60
    assert get(program, "/studies/1")["name"] == "by-hand"
    best = get(program, "/studies/1/best")
    assert best["name"] == "by-hand-trial-0"
    workers = get(program, "/workers")["workers"]
    assert [(worker["study"], worker["trial"], worker["attempt"]) for worker in workers] == [("by-hand", 1, 1)]


def test_pages_of_trials_have_each_trial_once(program: TestClient) -> None:
    first = get(program, "/studies/1/trials", limit=1)
    assert [(trial["number"], trial["state"], trial["value"]) for trial in first["trials"]] == [(0, "complete", 0.75)]
    assert abs(first["trials"][0]["ended_at"] - time.time()) < 120
    second = get(program, "/studies/1/trials", limit=1, cursor=first["next_cursor"])
    assert [(trial["number"], trial["state"], trial["ended_at"]) for trial in second["trials"]] == [(1, "running", None)]
    assert get(program, "/studies/1/trials", cursor=second["next_cursor"]) == {"trials": [], "next_cursor": None}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_returned_unchanged(program: TestClient, name: str) -> None:
    (found,) = get(program, "/studies", name=name)["studies"]
    assert found["name"] == name
    assert get(program, f"/studies/{found['id']}")["name"] == name
    assert get(program, f"/studies/{found['id']}/trials") == {"trials": [], "next_cursor": None}
    assert program.get(f"{api.ROOT}/studies/{found['id']}/best").status_code == 404


@pytest.mark.parametrize("study", ["999", "9" * 100, "x", "%00"])
def test_a_missing_study_is_not_found(program: TestClient, study: str) -> None:
    assert get(program, "/studies", name=study) == {"studies": []}
    for path in ("", "/trials", "/best"):
        answer = program.get(f"{api.ROOT}/studies/{study}{path}")
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
        assert answer.json()["reason"] == answer.json()["detail"]


@pytest.mark.parametrize(
    "params", [{"limit": "0"}, {"limit": "1001"}, {"limit": "x"}, {"cursor": "-1"}, {"cursor": "9" * 20}, {"cursor": "²"}]
)
def test_invalid_page_parameters_are_refused(program: TestClient, params: dict[str, str]) -> None:
    answer = program.get(f"{api.ROOT}/studies/1/trials", params=params)
    assert answer.status_code == 400
    assert "expected a whole number" in answer.json()["reason"]


def test_only_an_admin_reads_the_audit_log(program: TestClient, opened: storages.Storage, users: Path) -> None:
    assert program.get(f"{api.ROOT}/audit").status_code == 403
    browser = owner(opened, users)
    browser.put("/api/studies/999/note", headers={"origin": HERE}, json={})
    deeds = browser.get(f"{api.ROOT}/audit").json()["deeds"]
    assert deeds[0]["path"] == "/api/studies/999/note"


def test_generated_requests_get_documented_responses(opened: storages.Storage, tmp_path: Path) -> None:
    """At a server that takes submissions, for an admin, with bodies that are generated too."""
    token = accounts.add_token(tmp_path / "users.json", "robot", Role.ADMIN, seconds=None)
    rules = SubmissionRules(roots=Roots.of([tmp_path]), uploads=tmp_path)
    served = app.build(opened, authentication_of(tmp_path / "users.json", submission=rules, max_stream_seconds=0.1))
    program = TestClient(served, base_url=HERE, headers={"Authorization": f"Bearer {token}"})
    schemathesis.serializer.alias("application/zip", "application/octet-stream")
    schema = schemathesis.openapi.from_dict(program.get(f"{api.ROOT}/openapi.json").json())
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) == NUM_OPERATIONS
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=8, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def ask(case: Any) -> None:
            asked = case.as_transport_kwargs(base_url=HERE)
            given = {name: asked[name] for name in ("params", "json", "headers") if asked.get(name) is not None}
            given |= {"content": asked["data"]} if asked.get("data") is not None else {}
            given["headers"] = {name: value for name, value in dict(given.get("headers", {})).items() if value.isascii()}
            answer = program.request(asked["method"], asked["url"], **given)
            assert answer.status_code < 500 or answer.status_code == 503
            assert str(answer.status_code) in case.operation.definition.raw["responses"]

        ask()


def test_the_openapi_document_is_that_of_version_1() -> None:
    first = json.loads((Path(__file__).parent / "openapi.json").read_text())
    assert without_texts(api.openapi()) == first


def without_texts(document: Any) -> Any:
    """The same without summaries and descriptions, which may be reworded."""
    if isinstance(document, list):
        return [without_texts(part) for part in document]
    if not isinstance(document, dict):
        return document
    texts = {name for name in ("summary", "description") if isinstance(document.get(name), str)}
    return {name: without_texts(part) for name, part in document.items() if name not in texts}


def test_prometheus_reads_the_metrics(program: TestClient) -> None:
    answer = program.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    for line in (
        'tuner_trials{state="complete",study="by-hand"} 1.0',
        'tuner_trials{state="running",study="by-hand"} 1.0',
        'tuner_best_value{study="by-hand"} 0.75',
        'tuner_study_info{direction="maximize",metric="accuracy",study="by-hand",task="image_classification"} 1.0',
        'tuner_running_workers{study="by-hand"} 1.0',
        'tuner_spooled_reports{study="by-hand"} 2.0',
    ):
        assert line in answer.text.splitlines()
    assert 'tuner_last_report_seconds{study="by-hand"}' in answer.text
    assert "tuner_storage_seconds" in answer.text
    # hostile names break no line
    from prometheus_client.parser import text_string_to_metric_families

    names = {sample.labels.get("study") for family in text_string_to_metric_families(answer.text) for sample in family.samples}
    assert set(HOSTILE) <= names


def test_metrics_need_a_token_unless_they_are_open(opened: storages.Storage, users: Path) -> None:
    for is_open, status in ((False, 401), (True, 200)):
        browser = TestClient(app.build(opened, authentication_of(users, open_metrics=is_open)), base_url=HERE)
        assert browser.get("/metrics").status_code == status
        assert browser.get(f"{api.ROOT}/studies").status_code == 401


def test_reading_many_trials_takes_no_more_statements_than_reading_one(tmp_path: Path) -> None:
    opened = storages.open(databases.sqlite(tmp_path))
    study = studies.join(by_hand.spec(), opened)
    counts = []
    for _ in range(2):
        with by_hand.statements(opened) as seen:
            figures.of_all(opened)
        counts.append(len(seen))
        for _ in range(20):
            by_hand.must_claim(study)
    assert counts[0] == counts[1] <= 7
