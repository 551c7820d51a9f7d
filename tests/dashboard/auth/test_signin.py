"""Sign-in and sign-out, sessions, links and tokens."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.dashboard.clients import HERE, PASSWORD, authentication_of, new_storage, sign_in
from tuner.dashboard import app
from tuner.dashboard.auth import accounts, authentication
from tuner.dashboard.auth.authentication import BY_ADDRESS, BY_NAME, Authentication, Throttle
from tuner.dashboard.auth.permissions import Role
from tuner.dashboard.settings import Settings
from tuner.storage import audit
from tuner.storage import engine as storages


@pytest.fixture
def own_users(tmp_path: Path) -> Path:
    """A users file with the editor `eve`, for tests that change it."""
    path = tmp_path / "users.json"
    accounts.add_user(path, "eve", Role.EDITOR, PASSWORD)
    return path


def client_of(opened: storages.Storage, this: Authentication, base_url: str = HERE) -> TestClient:
    return TestClient(app.build(opened, this), base_url=base_url)


def get(client: TestClient, path: str = "/api/studies") -> int:
    return client.get(path, follow_redirects=False).status_code


def test_a_password_signs_in_and_sign_out_ends_the_session(flowers: storages.Storage, own_users: Path) -> None:
    browser = client_of(flowers, authentication_of(own_users))
    assert get(browser) == 401
    assert sign_in(browser, "eve") == 303
    assert get(browser) == 200
    (copied,) = [f"{name}={value}" for name, value in browser.cookies.items()]
    answer = browser.post("/tuner/signout", headers={"origin": HERE}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/tuner/signin")
    assert get(browser) == 401
    # a copy of the cookie is invalid, too
    assert browser.get("/api/studies", headers={"cookie": copied}).status_code == 401


@pytest.mark.parametrize(
    ("name", "password"),
    [("eve", "wrong"), ("eve", ""), ("", ""), ("nobody", PASSWORD), ("EVE", PASSWORD), ("eve\0", PASSWORD), ("eve", "x" * 10_000)],
)
def test_a_wrong_name_and_a_wrong_password_get_the_same_answer(
    flowers: storages.Storage, own_users: Path, name: str, password: str
) -> None:
    browser = client_of(flowers, authentication_of(own_users))
    answer = browser.post("/tuner/signin", data={"name": name, "password": password}, headers={"origin": HERE})
    assert answer.status_code == 401
    assert "Wrong name or password." in answer.text
    assert get(browser) == 401


def test_the_cookie_is_protected_and_expires(flowers: storages.Storage, own_users: Path) -> None:
    for base, flags in ((HERE, ("tuner-8080=",)), ("https://127.0.0.1:8443", ("__Host-tuner-8443=", "Secure"))):
        browser = client_of(flowers, authentication_of(own_users, session_seconds=3600.0), base)
        answer = browser.post("/tuner/signin", data={"name": "eve", "password": PASSWORD}, headers={"origin": base}, follow_redirects=False)
        cookie = answer.headers["set-cookie"]
        for flag in (*flags, "HttpOnly", "SameSite=lax", "Max-Age=3600", "Path=/"):
            assert flag in cookie
        assert ("Secure" in cookie) == base.startswith("https")


def test_a_session_expires(flowers: storages.Storage, own_users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import itsdangerous

    browser = client_of(flowers, authentication_of(own_users, session_seconds=60.0))
    sign_in(browser, "eve")
    assert get(browser) == 200
    real = itsdangerous.TimestampSigner.get_timestamp
    monkeypatch.setattr(itsdangerous.TimestampSigner, "get_timestamp", lambda self: real(self) + 61)
    assert get(browser) == 401


def test_a_forged_cookie_is_invalid(flowers: storages.Storage, own_users: Path) -> None:
    first, second = client_of(flowers, authentication_of(own_users)), client_of(flowers, authentication_of(own_users))
    sign_in(first, "eve")
    ((name, value),) = first.cookies.items()
    for given in (value, value[:-1], value[::-1], "e30.a.b", "x" * 5000):
        assert second.get("/api/studies", headers={"cookie": f"{name}={given}"}).status_code == 401


def test_a_change_of_the_user_ends_the_session_at_once(flowers: storages.Storage, own_users: Path) -> None:
    browser = client_of(flowers, authentication_of(own_users))
    sign_in(browser, "eve")
    accounts.change_user(own_users, "eve", role=Role.VIEWER, password=None)
    assert get(browser) == 401
    sign_in(browser, "eve")
    assert browser.put("/api/studies/1/note", headers={"origin": HERE}).status_code == 403
    accounts.change_user(own_users, "eve", role=None, password=PASSWORD + "!")
    assert get(browser) == 401
    assert sign_in(browser, "eve") == 401
    assert sign_in(browser, "eve", PASSWORD + "!") == 303
    accounts.remove_user(own_users, "eve")
    assert get(browser) == 401
    assert sign_in(browser, "eve", PASSWORD + "!") == 401


def test_the_printed_link_signs_in_and_removes_the_token_from_the_address(flowers: storages.Storage, own_users: Path) -> None:
    this = authentication_of(own_users)
    assert this.start_token is not None
    browser = client_of(flowers, this)
    answer = browser.get("/dashboard/studies/1", params={"a": "b c", "token": this.start_token.value}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/studies/1?a=b+c")
    assert get(browser) == 200
    assert browser.delete("/api/studies/999", headers={"origin": HERE}).status_code == 404  # with all rights


@pytest.mark.parametrize("token", ["", "x", "é", "A" * 22])
def test_an_expired_link_is_explained(flowers: storages.Storage, own_users: Path, token: str) -> None:
    browser = client_of(flowers, authentication_of(own_users))
    answer = browser.get("/dashboard", params={"token": token})
    assert answer.url.path == "/tuner/signin"
    assert "This link has expired because tuner was restarted" in answer.text
    assert get(browser) == 401


def test_the_start_token_can_be_pasted(flowers: storages.Storage, own_users: Path) -> None:
    this = authentication_of(own_users)
    assert this.start_token is not None
    browser = client_of(flowers, this)
    for given, status in (("wrong", 401), (f"http://127.0.0.1:8080/?token={this.start_token.value}", 303)):
        answer = browser.post("/tuner/signin", data={"token": given}, headers={"origin": HERE}, follow_redirects=False)
        assert answer.status_code == status
    assert get(browser) == 200


def test_a_public_dashboard_has_no_link(flowers: storages.Storage, own_users: Path) -> None:
    browser = client_of(flowers, Authentication.of(Settings(users=own_users), None))
    assert "printed" not in browser.get("/tuner/signin").text
    assert browser.post("/tuner/signin", data={"token": ""}, headers={"origin": HERE}).status_code == 401
    assert get(browser, "/api/studies?token=") == 303
    assert get(browser) == 401


def test_a_program_needs_its_token_and_no_origin(flowers: storages.Storage, own_users: Path) -> None:
    token = accounts.add_token(own_users, "grafana", Role.VIEWER, seconds=None)
    deploy = accounts.add_token(own_users, "deploy", Role.EDITOR, seconds=None)
    over = accounts.add_token(own_users, "over", Role.ADMIN, seconds=-1)
    program = client_of(flowers, authentication_of(own_users))
    assert token not in own_users.read_text()
    for given, status in (
        (f"Bearer {token}", 200),
        (f"bearer {token}", 200),
        (f"Basic {token}", 401),
        ("Bearer x", 401),
        (f"Bearer {over}", 401),
    ):
        assert program.get("/api/studies", headers={"authorization": given}).status_code == status
    assert program.put("/api/studies/999/note", headers={"authorization": f"Bearer {token}"}, json={}).status_code == 403
    assert program.put("/api/studies/999/note", headers={"authorization": f"Bearer {deploy}"}, json={}).status_code not in (401, 403)
    accounts.remove_token(own_users, "grafana")
    assert program.get("/api/studies", headers={"authorization": f"Bearer {token}"}).status_code == 401
    # a cookie does not replace an invalid token
    sign_in(program, "eve")
    assert program.get("/api/studies", headers={"authorization": "Bearer x"}).status_code == 401


@pytest.mark.parametrize(
    "goal", ["//evil.example", "https://evil.example", "/\\evil.example", "\\evil", "javascript:alert(1)", "/a\nb", ""]
)
def test_redirects_stay_on_this_server(goal: str) -> None:
    assert authentication.local_path(goal) == "/"


def test_a_sign_in_from_another_site_is_refused(flowers: storages.Storage, own_users: Path) -> None:
    browser = client_of(flowers, authentication_of(own_users))
    for headers in ({}, {"origin": "http://evil.example"}):
        assert browser.post("/tuner/signin", data={"name": "eve", "password": PASSWORD}, headers=headers).status_code == 403


def test_a_huge_form_is_refused(flowers: storages.Storage, own_users: Path) -> None:
    browser = client_of(flowers, authentication_of(own_users))
    for content in (b"name=" + b"x" * 100_000, b"&".join(b"a=1" for _ in range(1000))):
        answer = browser.post(
            "/tuner/signin", content=content, headers={"origin": HERE, "content-type": "application/x-www-form-urlencoded"}
        )
        assert answer.status_code == 413


def test_hostile_text_stays_text(flowers: storages.Storage, own_users: Path) -> None:
    browser = client_of(flowers, authentication_of(own_users))
    hostile = '"><script>alert(1)</script>'
    assert "<script" not in browser.get("/tuner/signin", params={"next": "/" + hostile}).text
    assert "<script" not in browser.post("/tuner/signin", data={"name": hostile}, headers={"origin": HERE}).text


def test_the_wait_grows_with_each_failed_sign_in() -> None:
    now = 0.0
    throttle = Throttle(clock=lambda: now)
    assert [throttle.begin("eve", "1.1.1.1") for _ in range(BY_NAME.free)] == [0.0] * BY_NAME.free
    waits = []
    for _ in range(8):
        waits.append(throttle.begin("eve", "2.2.2.2"))
        now += waits[-1]
        assert throttle.begin("eve", "2.2.2.2") == 0.0
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
    # other users are not affected, and failures expire
    assert throttle.begin("ann", "3.3.3.3") == 0.0
    now += 3601
    assert throttle.begin("eve", "2.2.2.2") == 0.0


def test_an_address_is_throttled_across_names() -> None:
    throttle = Throttle(clock=lambda: 0.0)
    for number in range(BY_ADDRESS.free):
        assert throttle.begin(f"user{number}", "1.1.1.1") == 0.0
    assert throttle.begin("eve", "1.1.1.1") > 0
    assert throttle.begin("eve", "2.2.2.2") == 0.0
    throttle.succeed("eve", "1.1.1.1")
    assert throttle.begin("ann", "1.1.1.1") == 0.0
    assert throttle.begin("ann", "1.1.1.1") > 0


def test_concurrent_attempts_count(flowers: storages.Storage, own_users: Path) -> None:
    browser = client_of(flowers, replace(authentication_of(own_users), throttle=Throttle(clock=lambda: 0.0)))
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(sign_in(browser, "eve", "a wrong one"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [401] * BY_NAME.free + [429] * (8 - BY_NAME.free)
    answer = browser.post("/tuner/signin", data={"name": "eve", "password": PASSWORD}, headers={"origin": HERE})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1


def test_sign_ins_and_changes_are_in_the_audit_log(tmp_path: Path, own_users: Path) -> None:
    opened = new_storage(tmp_path)
    browser = client_of(opened, authentication_of(own_users))
    sign_in(browser, "eve", "wrong")
    sign_in(browser, "eve")
    browser.get("/api/studies")
    browser.put("/api/studies/1/note", headers={"origin": HERE}, json={"body": "mine", "version": 1})
    browser.delete("/api/studies/1", headers={"origin": HERE})
    browser.delete("/api/studies/1", headers={"origin": "http://evil.example"})
    browser.post("/tuner/signout", headers={"origin": HERE})
    browser.delete("/api/studies/1", headers={"origin": HERE})  # without a user
    seen = [(r.event.who, r.event.role, r.event.method, r.event.path, r.event.status, r.event.study) for r in audit.read(opened, limit=100)]
    assert seen[::-1] == [
        ("eve", "", "POST", "/tuner/signin", 401, ""),
        ("eve", "editor", "POST", "/tuner/signin", 303, ""),
        ("eve", "editor", "PUT", "/api/studies/1/note", 204, "flowers"),
        ("eve", "editor", "DELETE", "/api/studies/1", 403, "flowers"),
        ("eve", "editor", "DELETE", "/api/studies/1", 403, "flowers"),
        ("eve", "editor", "POST", "/tuner/signout", 303, ""),
    ]
    assert {record.event.address for record in audit.read(opened, limit=100)} == {"testclient"}
    assert len(audit.read(opened, limit=2)) == 2


def test_an_unreadable_users_file_lets_no_one_in(flowers: storages.Storage, own_users: Path) -> None:
    browser = client_of(flowers, authentication_of(own_users))
    sign_in(browser, "eve")
    own_users.write_text("{")
    assert get(browser) == 503
