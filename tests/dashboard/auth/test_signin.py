"""Signing in and out, and what a session, a link and a token are good for."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.dashboard.doors import HERE, PASSWORD, lock, new_storage, sign_in
from tuner.dashboard import app
from tuner.dashboard.auth import accounts, authentication
from tuner.dashboard.auth.authentication import BY_ADDRESS, BY_NAME, Attempts, Authentication
from tuner.dashboard.auth.permissions import Role
from tuner.dashboard.settings import Settings
from tuner.storage import audit
from tuner.storage import engine as storages


@pytest.fixture
def own_users(tmp_path: Path) -> Path:
    """A file with the editor `eve`, for tests that change it."""
    path = tmp_path / "users.json"
    accounts.add_user(path, "eve", Role.EDITOR, PASSWORD)
    return path


def come(opened: storages.Storage, this: Authentication, base_url: str = HERE) -> TestClient:
    return TestClient(app.build(opened, this), base_url=base_url)


def get(client: TestClient, path: str = "/api/studies") -> int:
    return client.get(path, follow_redirects=False).status_code


def test_a_password_opens_the_door_and_signing_out_closes_it(flowers: storages.Storage, own_users: Path) -> None:
    browser = come(flowers, lock(own_users))
    assert get(browser) == 401
    assert sign_in(browser, "eve") == 303
    assert get(browser) == 200
    (copied,) = [f"{name}={value}" for name, value in browser.cookies.items()]
    answer = browser.post("/tuner/signout", headers={"origin": HERE}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/tuner/signin")
    assert get(browser) == 401
    # a copy of the cookie that was kept is worth nothing either
    assert browser.get("/api/studies", headers={"cookie": copied}).status_code == 401


@pytest.mark.parametrize(
    ("name", "password"),
    [("eve", "wrong"), ("eve", ""), ("", ""), ("nobody", PASSWORD), ("EVE", PASSWORD), ("eve\0", PASSWORD), ("eve", "x" * 10_000)],
)
def test_a_wrong_name_or_password_is_refused_in_the_same_words(
    flowers: storages.Storage, own_users: Path, name: str, password: str
) -> None:
    browser = come(flowers, lock(own_users))
    answer = browser.post("/tuner/signin", data={"name": name, "password": password}, headers={"origin": HERE})
    assert answer.status_code == 401
    assert "That name and password are not known together." in answer.text
    assert get(browser) == 401


def test_the_cookie_is_kept_from_scripts_and_other_sites_and_ages(flowers: storages.Storage, own_users: Path) -> None:
    for base, flags in ((HERE, ("tuner-8080=",)), ("https://127.0.0.1:8443", ("__Host-tuner-8443=", "Secure"))):
        browser = come(flowers, lock(own_users, session_seconds=3600.0), base)
        answer = browser.post("/tuner/signin", data={"name": "eve", "password": PASSWORD}, headers={"origin": base}, follow_redirects=False)
        cookie = answer.headers["set-cookie"]
        for flag in (*flags, "HttpOnly", "SameSite=lax", "Max-Age=3600", "Path=/"):
            assert flag in cookie
        assert ("Secure" in cookie) == base.startswith("https")


def test_a_session_ends_by_itself(flowers: storages.Storage, own_users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import itsdangerous

    browser = come(flowers, lock(own_users, session_seconds=60.0))
    sign_in(browser, "eve")
    assert get(browser) == 200
    real = itsdangerous.TimestampSigner.get_timestamp
    monkeypatch.setattr(itsdangerous.TimestampSigner, "get_timestamp", lambda self: real(self) + 61)
    assert get(browser) == 401


def test_a_cookie_that_another_server_signed_or_someone_made_is_worth_nothing(flowers: storages.Storage, own_users: Path) -> None:
    first, second = come(flowers, lock(own_users)), come(flowers, lock(own_users))
    sign_in(first, "eve")
    ((name, value),) = first.cookies.items()
    for given in (value, value[:-1], value[::-1], "e30.a.b", "x" * 5000):
        assert second.get("/api/studies", headers={"cookie": f"{name}={given}"}).status_code == 401


def test_another_role_password_or_no_user_any_more_ends_the_session_at_once(flowers: storages.Storage, own_users: Path) -> None:
    browser = come(flowers, lock(own_users))
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


def test_the_printed_link_lets_in_and_takes_the_token_out_of_the_address(flowers: storages.Storage, own_users: Path) -> None:
    this = lock(own_users)
    assert this.start_token is not None
    browser = come(flowers, this)
    answer = browser.get("/dashboard/studies/1", params={"a": "b c", "token": this.start_token.value}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/studies/1?a=b+c")
    assert get(browser) == 200
    assert browser.delete("/api/studies/999", headers={"origin": HERE}).status_code == 404  # he may do everything


@pytest.mark.parametrize("token", ["", "x", "é", "A" * 22])
def test_an_old_link_leads_to_the_page_that_says_so(flowers: storages.Storage, own_users: Path, token: str) -> None:
    browser = come(flowers, lock(own_users))
    answer = browser.get("/dashboard", params={"token": token})
    assert answer.url.path == "/tuner/signin"
    assert "This link is no longer good" in answer.text
    assert get(browser) == 401


def test_the_token_of_the_start_can_be_put_in_by_hand(flowers: storages.Storage, own_users: Path) -> None:
    this = lock(own_users)
    assert this.start_token is not None
    browser = come(flowers, this)
    for given, status in (("wrong", 401), (f"http://127.0.0.1:8080/?token={this.start_token.value}", 303)):
        answer = browser.post("/tuner/signin", data={"token": given}, headers={"origin": HERE}, follow_redirects=False)
        assert answer.status_code == status
    assert get(browser) == 200


def test_where_others_come_in_there_is_no_link(flowers: storages.Storage, own_users: Path) -> None:
    browser = come(flowers, Authentication.of(Settings(users=own_users), None))
    assert "printed" not in browser.get("/tuner/signin").text
    assert browser.post("/tuner/signin", data={"token": ""}, headers={"origin": HERE}).status_code == 401
    assert get(browser, "/api/studies?token=") == 303
    assert get(browser) == 401


def test_a_program_comes_in_with_its_token_and_needs_no_origin(flowers: storages.Storage, own_users: Path) -> None:
    token = accounts.add_token(own_users, "grafana", Role.VIEWER, seconds=None)
    deploy = accounts.add_token(own_users, "deploy", Role.EDITOR, seconds=None)
    over = accounts.add_token(own_users, "over", Role.ADMIN, seconds=-1)
    program = come(flowers, lock(own_users))
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
    # a token that is good for nothing is not helped by a cookie
    sign_in(program, "eve")
    assert program.get("/api/studies", headers={"authorization": "Bearer x"}).status_code == 401


@pytest.mark.parametrize(
    "goal", ["//evil.example", "https://evil.example", "/\\evil.example", "\\evil", "javascript:alert(1)", "/a\nb", ""]
)
def test_no_one_is_sent_elsewhere(goal: str) -> None:
    assert authentication.local(goal) == "/"


def test_a_sign_in_that_another_site_sends_is_refused(flowers: storages.Storage, own_users: Path) -> None:
    browser = come(flowers, lock(own_users))
    for headers in ({}, {"origin": "http://evil.example"}):
        assert browser.post("/tuner/signin", data={"name": "eve", "password": PASSWORD}, headers=headers).status_code == 403


def test_a_form_without_end_is_refused(flowers: storages.Storage, own_users: Path) -> None:
    browser = come(flowers, lock(own_users))
    for content in (b"name=" + b"x" * 100_000, b"&".join(b"a=1" for _ in range(1000))):
        answer = browser.post(
            "/tuner/signin", content=content, headers={"origin": HERE, "content-type": "application/x-www-form-urlencoded"}
        )
        assert answer.status_code == 413


def test_hostile_words_stay_words(flowers: storages.Storage, own_users: Path) -> None:
    browser = come(flowers, lock(own_users))
    hostile = '"><script>alert(1)</script>'
    assert "<script" not in browser.get("/tuner/signin", params={"next": "/" + hostile}).text
    assert "<script" not in browser.post("/tuner/signin", data={"name": hostile}, headers={"origin": HERE}).text


def test_after_some_failures_the_next_attempt_must_wait_and_the_wait_grows() -> None:
    now = 0.0
    attempts = Attempts(clock=lambda: now)
    assert [attempts.begin("eve", "1.1.1.1") for _ in range(BY_NAME.free)] == [0.0] * BY_NAME.free
    waits = []
    for _ in range(8):
        waits.append(attempts.begin("eve", "2.2.2.2"))
        now += waits[-1]
        assert attempts.begin("eve", "2.2.2.2") == 0.0
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
    # others are let in meanwhile, and time heals
    assert attempts.begin("ann", "3.3.3.3") == 0.0
    now += 3601
    assert attempts.begin("eve", "2.2.2.2") == 0.0


def test_one_address_cannot_try_all_names_and_success_does_not_free_it() -> None:
    attempts = Attempts(clock=lambda: 0.0)
    for number in range(BY_ADDRESS.free):
        assert attempts.begin(f"user{number}", "1.1.1.1") == 0.0
    assert attempts.begin("eve", "1.1.1.1") > 0
    assert attempts.begin("eve", "2.2.2.2") == 0.0
    attempts.succeed("eve", "1.1.1.1")
    assert attempts.begin("ann", "1.1.1.1") == 0.0
    assert attempts.begin("ann", "1.1.1.1") > 0


def test_attempts_at_the_same_time_count_too(flowers: storages.Storage, own_users: Path) -> None:
    browser = come(flowers, replace(lock(own_users), attempts=Attempts(clock=lambda: 0.0)))
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


def test_sign_ins_and_changes_are_recorded_with_who_what_and_whence(tmp_path: Path, own_users: Path) -> None:
    opened = new_storage(tmp_path)
    browser = come(opened, lock(own_users))
    sign_in(browser, "eve", "wrong")
    sign_in(browser, "eve")
    browser.get("/api/studies")
    browser.put("/api/studies/1/note", headers={"origin": HERE}, json={"body": "mine", "version": 1})
    browser.delete("/api/studies/1", headers={"origin": HERE})
    browser.delete("/api/studies/1", headers={"origin": "http://evil.example"})
    browser.post("/tuner/signout", headers={"origin": HERE})
    browser.delete("/api/studies/1", headers={"origin": HERE})  # by no one
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


def test_a_users_file_that_cannot_be_read_lets_no_one_in(flowers: storages.Storage, own_users: Path) -> None:
    browser = come(flowers, lock(own_users))
    sign_in(browser, "eve")
    own_users.write_text("{")
    assert get(browser) == 503
