"""Dashboard application: addresses, hosts, origins, outages and server settings."""

import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests import databases
from tests.dashboard.clients import HERE, add_study, new_storage, owner
from tests.studies import odd_ones
from tuner import errors
from tuner.dashboard import server, settings
from tuner.dashboard.settings import Settings
from tuner.storage import engine as storages

NO_USERS = Path("/nowhere/users.json")


def test_the_first_page_is_tuners_and_optuna_dashboard_keeps_its_address(browser: TestClient) -> None:
    assert "<title>Studies · tuner</title>" in browser.get("/").text
    assert "<title>Optuna Dashboard</title>" in browser.get("/dashboard").text


def test_a_study_shows_its_trials(browser: TestClient) -> None:
    assert [study["study_name"] for study in browser.get("/api/studies").json()["study_summaries"]] == ["flowers"]
    assert len(browser.get("/api/studies/1").json()["trials"]) == 3


def test_odd_studies_break_no_page_no_metric_and_no_answer_for_programs(tmp_path: Path, users: Path) -> None:
    opened = storages.open(databases.sqlite(tmp_path))
    good = odd_ones.add(opened)
    browser = owner(opened, users)
    assert browser.get("/").status_code == 200
    assert 'tuner_best_value{study="good"} 0.5' in browser.get("/metrics").text
    assert {"good", "null", "cut", "raw"} <= {study["name"] for study in browser.get("/tuner/api/v1/studies").json()["studies"]}
    for study_id in range(1, good.id + 1):
        assert browser.get(f"/tuner/studies/{study_id}").status_code == 200
        assert browser.get(f"/tuner/studies/{study_id}/trials/0").status_code == 200
        assert browser.get(f"/tuner/studies/{study_id}/best.yaml").status_code < 500
        assert browser.get(f"/tuner/api/v1/studies/{study_id}/best").status_code < 500


@pytest.mark.parametrize("path", ["/api/studies", "/api/studies/1"])
def test_optuna_dashboard_does_not_wait_for_a_writing_worker(tmp_path: Path, users: Path, path: str) -> None:
    opened = new_storage(tmp_path, sqlite_seconds=0.2)
    browser = owner(opened, users)
    with opened.engine.connect() as writing, writing.begin():
        assert browser.get(path).status_code == 200


def test_scripts_are_served(browser: TestClient) -> None:
    scripts = re.findall(r'src="(/static/[^"]+)"', browser.get("/dashboard").text)
    assert scripts
    assert all(browser.get(script).status_code == 200 for script in scripts)


@pytest.mark.parametrize("path", ["/dashboard", "/api/studies", "/favicon.ico", "/nowhere"])
def test_every_response_forbids_framing_and_content_sniffing(browser: TestClient, path: str) -> None:
    answer = browser.get(path)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_optuna_dashboards_own_content_policy_is_kept(browser: TestClient) -> None:
    assert "script-src 'self'" in browser.get("/dashboard").headers["content-security-policy"]


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:9000", "[::1]:8080", "127.0.0.1"])
def test_each_loopback_name_is_allowed(browser: TestClient, host: str) -> None:
    assert browser.get("/favicon.ico", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.168.0.1:8080", ""])
def test_other_host_names_are_refused(browser: TestClient, host: str) -> None:
    assert browser.get("/api/studies", headers={"host": host}).status_code == 400


@pytest.mark.parametrize(
    "headers",
    [
        {},  # neither header: not a current browser
        {"origin": "http://evil.example"},
        {"origin": "null"},  # a local file, or a sandboxed frame
        {"origin": "http://127.0.0.1:9999"},  # another server on this machine
        {"origin": "https://127.0.0.1:8080"},
        {"origin": "http://evil.example", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/api/studies/1"),
        ("POST", "/api/studies/1/rename"),
        ("PUT", "/api/studies/1/note"),
        ("POST", "/incompatible-rdb-schema"),  # would migrate the database
    ],
)
def test_a_page_of_another_site_cannot_change_a_study(browser: TestClient, method: str, path: str, headers: dict[str, str]) -> None:
    assert browser.request(method, path, headers=headers).status_code == 403
    assert len(browser.get("/api/studies").json()["study_summaries"]) == 1


@pytest.mark.parametrize("headers", [{"origin": HERE}, {"sec-fetch-site": "same-origin"}])
def test_the_dashboards_own_pages_can_delete_a_study(tmp_path: Path, users: Path, headers: dict[str, str]) -> None:
    browser = owner(new_storage(tmp_path), users)
    assert browser.delete("/api/studies/1", headers=headers).status_code == 204
    assert browser.get("/api/studies").json()["study_summaries"] == []


def test_a_database_outage_has_a_page_and_ends_by_itself(postgresql: Any, users: Path) -> None:
    opened = storages.open(postgresql.get_uri())
    add_study(opened)
    browser = owner(opened, users)
    assert (browser.get("/readyz").status_code, browser.get("/healthz").status_code) == (200, 200)
    assert browser.get("/api/studies").status_code == 200

    postgresql.stop()
    page = browser.get("/dashboard")
    assert (page.status_code, page.headers["refresh"]) == (503, "5")
    assert "Database unavailable" in page.text
    assert "postgres" not in page.text
    assert browser.get("/api/studies").json()["reason"] == "The database cannot be reached."
    assert browser.get("/favicon.ico").status_code == 200
    assert (browser.get("/readyz").status_code, browser.get("/healthz").status_code) == (503, 200)

    postgresql.start()
    assert browser.get("/dashboard").status_code == 200
    assert len(browser.get("/api/studies").json()["study_summaries"]) == 1


def studies_at(served: server.Served) -> bytes:
    """Return the studies that a program with the start token reads."""
    assert served.token is not None
    asked = urllib.request.Request(f"{served.address}/api/studies", headers={"Authorization": f"Bearer {served.token.value}"})
    with urllib.request.urlopen(asked) as answer:
        body: bytes = answer.read()
    return body


def test_a_dashboard_beside_other_work_ends_with_the_block(flowers: storages.Storage) -> None:
    with server.beside(flowers, Settings(host="localhost", users=NO_USERS), 0) as served:
        assert b"flowers" in studies_at(served)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{served.address}/api/studies")
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(served.address)


def test_without_a_port_the_default_or_any_free_port_is_used(flowers: storages.Storage) -> None:
    with server.beside(flowers, Settings(users=NO_USERS), None) as first, server.beside(flowers, Settings(users=NO_USERS), None) as second:
        assert first.address != second.address
        for served in (first, second):
            assert b"flowers" in studies_at(served)


def test_a_taken_port_is_refused_with_advice(flowers: storages.Storage) -> None:
    with server.beside(flowers, Settings(users=NO_USERS), 0) as served:
        port = int(served.address.rsplit(":", 1)[1])
        with pytest.raises(errors.RequestError, match=f"cannot listen on 127.0.0.1, port {port}: Address already in use.*--port 0"):
            server.serve(flowers, Settings(users=NO_USERS), port, ready=lambda served: pytest.fail(served.address))


@pytest.mark.parametrize(
    "wanted",
    [
        *(Settings(host=host, users=NO_USERS) for host in ("0.0.0.0", "::", "192.168.0.1", "example.com", "")),
        Settings(users=NO_USERS, allowed_hosts=("tuner.example",)),
        Settings(users=NO_USERS, proxies=("127.0.0.1",)),
    ],
)
def test_other_machines_need_users(flowers: storages.Storage, wanted: Settings) -> None:
    with pytest.raises(errors.RequestError, match="needs users, and /nowhere/users.json has none.*users add NAME --role admin"):
        server.serve(flowers, wanted, 0, ready=lambda served: pytest.fail(served.address))


def test_with_users_other_machines_are_served_by_allowed_names(users: Path) -> None:
    with pytest.raises(errors.RequestError, match="--allowed-host"):
        settings.check(Settings(host="0.0.0.0", users=users))
    public = Settings(host="0.0.0.0", users=users, allowed_hosts=("tuner.example",))
    settings.check(public)
    assert settings.start_token(public) is None
    assert settings.start_token(Settings(users=users)) is not None


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in tuner's image, whose Dockerfile creates the mark."""
    (tmp_path / "is-image").touch()
    monkeypatch.setattr(settings, "IMAGE_MARK", tmp_path / "is-image")


@pytest.mark.usefixtures("image")
def test_a_container_with_a_port_published_on_loopback_is_local(flowers: storages.Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.PUBLISHED_AT, "127.0.0.1:9000")
    with server.beside(flowers, Settings(host="0.0.0.0", users=NO_USERS), 0) as served:
        assert served.address == "http://127.0.0.1:9000"
        assert served.token is not None
        assert served.link == f"http://127.0.0.1:9000/?token={served.token.value}"
    with pytest.raises(errors.RequestError, match="needs users"):
        settings.check(Settings(host="192.168.0.1", users=NO_USERS))


@pytest.mark.usefixtures("image")
@pytest.mark.parametrize("published", ["0.0.0.0:8080", "192.168.0.1:8080", "127.0.0.1", "127.0.0.1:", "8080", ":8080"])
def test_a_container_with_a_port_published_to_others_is_refused(published: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.PUBLISHED_AT, published)
    with pytest.raises(errors.RequestError, match="published to this machine only"):
        settings.check(Settings(host="0.0.0.0", users=NO_USERS))


def test_outside_the_image_the_published_address_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.PUBLISHED_AT, "127.0.0.1:8080")
    with pytest.raises(errors.RequestError, match="needs users"):
        settings.check(Settings(host="0.0.0.0", users=NO_USERS))
