"""Sign-in, sign-out, refusals and open pages in a real browser."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import itsdangerous
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.dashboard import idp
from tests.studies import by_hand
from tuner.dashboard import server
from tuner.dashboard.auth import accounts, openid
from tuner.dashboard.auth.permissions import Role
from tuner.dashboard.settings import Settings
from tuner.protocol import messages
from tuner.protocol.messages import PictureKind
from tuner.storage import engine as storages
from tuner.storage import tables
from tuner.storage.attributes import HALTED, PREPARED
from tuner.studies import pictures, trials
from tuner.studies import study as studies
from tuner.studies.study import Study

PASSWORD = "three old wooden boats"
#: page of the study in all tests
STUDY = "/tuner/studies/1"


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("users") / "users.json"
    for name, role in (("eve", Role.VIEWER), ("ed", Role.EDITOR)):
        accounts.add_user(path, name, role, PASSWORD)
    return path


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, artifacts: Path) -> Iterator[Study]:
    """A study with a completed trial with a picture of its mistakes, a failed trial with a log, and a running one."""
    opened = storages.open(f"sqlite:///{tmp_path_factory.mktemp('storage')}/tuner.db")
    joined = studies.join(by_hand.spec(), opened)
    prepared = {PREPARED: by_hand.PREPARED.model_dump(mode="json")}
    opened.write(lambda connection: tables.put(connection, tables.STUDY_USER, joined.id, prepared))
    claimed = by_hand.must_claim(joined)
    trials.report(joined, claimed, by_hand.epochs(claimed, [0.5, 0.6, 0.7]))
    drawn = artifacts / "mistakes.jpg"
    Image.new("RGB", (240, 120), "teal").save(drawn)
    ids = pictures.keep(pictures.store(artifacts), {PictureKind.MISTAKES: str(drawn)})
    wrong = (messages.Misclassified(index=3, true=0, predicted=1, confidence=0.97),)
    finished = by_hand.finished(claimed, 0.7).model_copy(update={"pictures": ids, "mistakes": wrong})
    trials.finish(joined, claimed, finished, [], device="cpu")
    claimed = by_hand.must_claim(joined)
    trials.fail(joined, claimed, by_hand.failed(claimed, log="epoch 1 of 6\nthe last line of its log"))
    trials.report(joined, running := by_hand.must_claim(joined), by_hand.epochs(running, [0.55]))
    yield joined
    opened.close()


@pytest.fixture(scope="module")
def served(study: Study, users: Path, artifacts: Path) -> Iterator[server.Served]:
    with server.beside(study.storage, Settings(users=users, artifacts=artifacts), 0) as served:
        yield served


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a browser that has not signed in."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield context.new_page()
    context.close()


def sign_in(page: Page, address: str, name: str, goal: str = STUDY) -> None:
    page.goto(address + goal)
    page.wait_for_url("**/tuner/signin?next=*")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(address + goal)


def state(page: Page, wanted: str) -> None:
    expect(page.locator("#connection")).to_have_attribute("data-state", wanted, timeout=60_000)


def test_an_expired_session_redirects_to_sign_in_and_back(page: Page, study: Study, users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = itsdangerous.TimestampSigner.get_timestamp
    wanted = Settings(users=users, session_seconds=3600.0, max_stream_seconds=0.5)
    with server.beside(study.storage, wanted, 0) as served:
        sign_in(page, served.address, "eve")
        state(page, "on")
        monkeypatch.setattr(itsdangerous.TimestampSigner, "get_timestamp", lambda self: real(self) + 3601)
        page.wait_for_url("**/tuner/signin?next=*", timeout=60_000)
        page.get_by_label("Name").fill("eve")
        page.get_by_label("Password").fill(PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_url(served.address + STUDY)
        expect(page.get_by_role("heading", name="by-hand")).to_be_visible()


def test_a_viewer_sees_no_forms_and_every_request_is_refused(page: Page, served: server.Served, study: Study) -> None:
    sign_in(page, served.address, "eve")
    expect(page.get_by_text("viewer")).to_be_visible()
    assert page.locator("form").count() == 1  # the sign-out form
    send = """path => { const form = Object.assign(document.createElement('form'), {method: 'post', action: path});
      form.append(Object.assign(document.createElement('input'), {name: 'name', value: 'by-hand'}));
      document.body.append(form); form.submit(); }"""
    page.evaluate(send, "/tuner/actions/studies/1/stop")
    expect(page.get_by_role("heading", name="Permission denied")).to_be_visible()
    expect(page.get_by_text("this needs the role editor; eve is viewer")).to_be_visible()
    assert study.storage.read(lambda connection: tables.get(connection, tables.STUDY_USER, study.id, HALTED)) == {}


def test_an_editor_stops_and_resumes_with_the_keyboard_and_signs_out(page: Page, served: server.Served, study: Study) -> None:
    sign_in(page, served.address, "ed")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Stop after running trials").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("The study stops after its running trials")
    page.get_by_role("button", name="Resume").first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("The study resumes")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/tuner/signin")
    page.goto(served.address + STUDY)
    page.wait_for_url("**/tuner/signin?next=*")
    page.go_back()
    expect(page.get_by_role("heading", name="by-hand")).to_have_count(0)  # nothing was cached


def test_the_picture_of_mistakes_and_the_log_are_shown(page: Page, served: server.Served) -> None:
    sign_in(page, served.address, "eve", f"{STUDY}/trials/0")
    sheet = page.get_by_role("img", name=re.compile("The most confident mistakes"))
    sheet.evaluate("image => image.scrollIntoView()")  # loaded when it scrolls into view
    page.wait_for_function("image => image.complete && image.naturalWidth === 240", arg=sheet.element_handle())
    expect(page.get_by_role("region", name="Most confident mistakes").get_by_role("listitem")).to_have_text(
        "cat predicted as dog97% confident"
    )
    kept = page.request.get(f"{served.address}{STUDY}/trials/0/mistakes.jpg")
    assert Image.open(io.BytesIO(kept.body())).size == (240, 120)
    page.goto(f"{served.address}{STUDY}/trials/1")
    expect(page.get_by_role("region", name="Last lines of the trainer's log")).to_contain_text("the last line of its log")
    page.goto(served.address + STUDY)
    expect(page.locator("#failures")).to_contain_text("MemoryError")
    expect(page.locator("#failures")).to_contain_text("the last line of its log")


def test_a_database_outage_is_shown_on_an_open_page_which_recovers(page: Page, postgresql: Any, users: Path) -> None:
    opened = storages.open(postgresql.get_uri())
    study = studies.join(by_hand.spec(), opened)
    claimed = by_hand.must_claim(study)
    with server.beside(opened, Settings(users=users), 0) as served:
        sign_in(page, served.address, "eve", f"/tuner/studies/{study.id}")
        state(page, "on")
        postgresql.stop()
        state(page, "off")
        expect(page.locator("#connection")).to_contain_text("database unavailable")
        later = page.context.new_page()
        answer = later.goto(f"{served.address}/tuner/studies/{study.id}")
        assert answer is not None
        assert answer.status == 503
        expect(later.get_by_role("heading", name="Database unavailable")).to_be_visible()
        postgresql.start()
        expect(later.get_by_role("heading", name="by-hand")).to_be_visible(timeout=60_000)  # without a user's action
        trials.report(study, claimed, by_hand.epochs(claimed, [0.4321]))
        for each in (page, later):
            state(each, "on")
            expect(each.locator("#running")).to_contain_text("0.4321", timeout=60_000)
    opened.close()


def test_an_openid_sign_in_returns_to_the_requested_page(page: Page, study: Study, users: Path) -> None:
    with idp.beside() as there:
        there.person = {"email": "ada@example.com", "email_verified": True, "groups": ["ml"]}
        named = openid.read_provider(
            {
                "TUNER_OIDC_ISSUER": there.address,
                "TUNER_OIDC_CLIENT_ID": idp.CLIENT_ID,
                "TUNER_OIDC_CLIENT_SECRET": idp.CLIENT_SECRET,
                "TUNER_OIDC_ROLES": "ml=viewer",
            }
        )
        with server.beside(study.storage, Settings(users=users, openid=named), 0) as served:
            page.goto(served.address + STUDY)
            page.get_by_role("link", name="Sign in with 127.0.0.1").click()
            page.wait_for_url(served.address + STUDY)
            expect(page.get_by_text("ada@example.com")).to_be_visible()
            assert page.evaluate("document.cookie") == ""
