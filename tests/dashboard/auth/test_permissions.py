"""Every route of the real application, for every role."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna_dashboard
import pytest
from starlette.testclient import TestClient

from tests.dashboard.clients import HERE, new_storage, owner
from tuner.dashboard.auth import permissions
from tuner.dashboard.auth.permissions import READING_METHODS, Role
from tuner.storage import engine as storages

#: an id without a study or trial, so that an allowed request changes nothing
NONE = "999"


@pytest.fixture(scope="module")
def bottle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The installed optuna-dashboard."""
    return optuna_dashboard.wsgi(new_storage(tmp_path_factory.mktemp("bottle")).rdb)


def changing_routes(bottle: Any) -> set[tuple[str, str]]:
    return {(route.method, route.rule) for route in bottle.routes if route.method not in READING_METHODS}


def path_of(rule: str) -> str:
    return re.sub(r"<[^>]*>", NONE, rule)


def test_exactly_the_changing_routes_of_optuna_dashboard_are_listed(bottle: Any) -> None:
    listed = {*permissions.CHANGES, permissions.MIGRATION, *permissions.CLOSED}
    assert changing_routes(bottle) == listed
    assert len(listed) == 20


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(("method", "rule"), [*permissions.CHANGES, permissions.MIGRATION])
def test_a_changing_route_needs_its_role(come_as: Callable[[Role], TestClient], method: str, rule: str, role: Role) -> None:
    needed = permissions.CHANGES.get((method, rule), Role.ADMIN)
    browser = come_as(role)
    for path in (path_of(rule), path_of(rule) + "/"):
        answer = browser.request(method, path, headers={"origin": HERE}, json={}, follow_redirects=False)
        if role.allows(needed):
            assert answer.status_code not in (401, 403)
        else:
            assert answer.status_code == 403
            assert answer.json()["reason"] == f"Refused: this needs the role {needed}; {role} is {role}."


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(("method", "rule"), permissions.CLOSED)
def test_language_model_routes_are_closed(come_as: Callable[[Role], TestClient], method: str, rule: str, role: Role) -> None:
    answer = come_as(role).request(method, rule, headers={"origin": HERE}, json={})
    assert (answer.status_code, answer.json()["reason"]) == (403, "Refused: this is closed to everyone.")


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/studies/1/something-new"),  # of a future optuna-dashboard
        ("PATCH", "/api/studies/1"),
        ("PUT", "/api/studies/1"),
        ("DELETE", "/api/studies/1/notes"),
        ("DELETE", "/api/studies"),
        ("TRACE", "/dashboard"),
        ("PROPFIND", "/api/studies"),
        ("POST", "//api/studies"),
        ("POST", "/api/studies/1%0A/rename"),
        ("POST", "/tuner/anything"),
        ("POST", "/"),
    ],
)
def test_an_unlisted_change_is_closed_to_everyone(come_as: Callable[[Role], TestClient], method: str, path: str, role: Role) -> None:
    assert come_as(role).request(method, f"{HERE}{path}", headers={"origin": HERE}, json={}).status_code == 403


def test_a_schema_migration_needs_the_setting(flowers: storages.Storage, users: Path) -> None:
    browser = owner(flowers, users)
    assert browser.post("/incompatible-rdb-schema", headers={"origin": HERE}).status_code == 403
    assert permissions.needed(*permissions.MIGRATION, allow_migration=True) is Role.ADMIN


def test_a_viewer_can_read_every_route_and_changes_nothing(
    bottle: Any, come_as: Callable[[Role], TestClient], flowers: storages.Storage
) -> None:
    before = dump(flowers)
    rules = {route.rule for route in bottle.routes if route.method == "GET"}
    assert len(rules) > 10
    for rule in rules:
        for number in ("1", NONE):
            path = re.sub(r"<:re:[^>]*>", "", rule)
            path = re.sub(r"<[^>]*>", number, path)
            answer = come_as(Role.VIEWER).get(path, params={"trial_ids": "1"}, follow_redirects=False)
            assert answer.status_code not in (401, 403)
    assert dump(flowers) == before


def dump(opened: storages.Storage) -> list[str]:
    """Return the content of a database without its audit log."""
    with opened.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        return [line for line in driver.iterdump() if "tuner_audit" not in line]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/dashboard",
        "/dashboard/studies/1",
        "/api/meta",
        "/api/studies",
        "/api/studies/1",
        "/csv/1",
        "/static/bundle.js",
        "/tuner/",
        "/metrics",
    ],
)
def test_without_a_sign_in_nothing_is_accessible(stranger: TestClient, method: str, path: str) -> None:
    answer = stranger.request(method, path, headers={"origin": HERE})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "flowers" not in answer.text


def test_a_browser_is_redirected_to_sign_in_and_back(stranger: TestClient) -> None:
    answer = stranger.get("/dashboard/studies/1?tab=a%20b", headers={"accept": "text/html"}, follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/tuner/signin?next=%2Fdashboard%2Fstudies%2F1%3Ftab%3Da%2520b"


def test_a_refusal_is_a_page_in_a_browser(come_as: Callable[[Role], TestClient]) -> None:
    headers = {"origin": HERE, "accept": "text/html"}
    answer = come_as(Role.VIEWER).post("/tuner/actions/studies/1/stop", headers=headers)
    assert answer.status_code == 403
    assert "this needs the role editor; viewer is viewer" in answer.text
    assert 'action="/tuner/signout"' in answer.text
