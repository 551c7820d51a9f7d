"""optuna-dashboard and the sign-in page in a real browser."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tuner.dashboard import server
from tuner.dashboard.auth import accounts
from tuner.dashboard.auth.permissions import Role
from tuner.dashboard.settings import Settings
from tuner.storage import engine as storages

PASSWORD = "three old wooden boats"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[server.Served]:
    """The dashboard of a storage with one study of twelve trials, two of them pruned; `eve` is a viewer."""
    folder = tmp_path_factory.mktemp("storage")
    opened = storages.open(f"sqlite:///{folder}/tuner.db")
    accounts.add_user(folder / "users.json", "eve", Role.VIEWER, PASSWORD)
    study = optuna.create_study(
        storage=opened.rdb, study_name="flowers", direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0)
    )
    study.optimize(trial_like, n_trials=12)
    with server.beside(opened, Settings(users=folder / "users.json"), 0) as served:
        yield served


@pytest.fixture(scope="module")
def address(served: server.Served) -> str:
    return served.address


def trial_like(trial: optuna.Trial) -> float:
    optimizer = trial.suggest_categorical("optimizer", ["adamw", "sgd"])
    rate = trial.suggest_float(f"learning_rate.{optimizer}", 1e-5, 1e-2, log=True)
    dropout = trial.suggest_float("dropout", 0, 0.5)
    trial.set_user_attr("device", "cpu, 2 threads")
    for step in range(1, 5):
        trial.report(0.5 + 0.1 * step - abs(dropout - 0.2), step)
    if trial.number in (4, 9):
        raise optuna.TrialPruned
    return 0.9 - abs(dropout - 0.2) + rate


@pytest.fixture
def page(browser: Browser, served: server.Served) -> Iterator[Page]:
    """A page that has opened the printed link. A console message or a failed request fails the test."""
    with watched(browser) as page:
        page.goto(served.link.replace("/?", "/healthz?"))  # loads nothing else
        yield page


@pytest.fixture
def stranger(browser: Browser) -> Iterator[Page]:
    """The same without the link."""
    with watched(browser) as page:
        yield page


@contextmanager
def watched(browser: Browser, **options: Any) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 2000}, **options)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    yield page
    page.close()
    assert complaints == []


def test_the_list_of_studies_leads_to_the_history_of_one(page: Page, address: str, tmp_path: Path) -> None:
    page.goto(f"{address}/dashboard")
    page.screenshot(path=tmp_path / "studies.png")
    page.get_by_text("flowers").first.click()
    page.wait_for_url("**/dashboard/studies/1")
    for heading in ("History", "Hyperparameter Importance", "Timeline", "Intermediate values"):
        page.get_by_text(heading, exact=True).last.wait_for()
    page.locator(".scatterlayer .point, .scatterlayer path.point").first.wait_for(state="attached")
    page.locator(".barlayer .point").first.wait_for(state="attached")
    page.screenshot(path=tmp_path / "study.png")


def test_every_trial_is_listed_with_its_state_and_its_hyperparameters(page: Page, address: str, tmp_path: Path) -> None:
    page.goto(f"{address}/dashboard/studies/1/trials")
    page.get_by_text("12 Trials").wait_for()
    assert page.get_by_text("Complete", exact=True).count() >= 10
    assert page.get_by_text("Pruned", exact=True).count() >= 2
    page.get_by_text("Trial 3", exact=True).first.click()
    page.get_by_text("cpu, 2 threads").first.wait_for()
    page.screenshot(path=tmp_path / "trials.png")


def test_a_page_of_another_site_cannot_change_a_study(browser: Browser, served: server.Served, address: str) -> None:
    page = browser.new_page()
    page.goto(served.link.replace("/?", "/healthz?"))
    page.goto(served.link.replace("/?", "/healthz?").replace("127.0.0.1", "localhost"))  # for a browser, another name is another site
    sent = "url => fetch(url, {method: 'POST', mode: 'no-cors', body: '{}'}).then(() => 'answered').catch(() => 'refused')"
    assert page.evaluate(sent, f"{address}/api/studies/1/rename") == "refused"  # and the browser does not send the cookie
    assert "flowers" in page.request.get(f"{address}/api/studies").text()
    page.close()


def test_the_printed_link_removes_its_token(stranger: Page, served: server.Served) -> None:
    stranger.goto(served.link)
    stranger.get_by_text("flowers").first.wait_for()
    assert served.token is not None
    assert served.token.value not in stranger.url
    assert stranger.evaluate("document.cookie") == ""


def test_a_viewer_signs_in_reads_and_signs_out(stranger: Page, address: str, tmp_path: Path) -> None:
    stranger.goto(f"{address}/dashboard/studies/1")
    stranger.wait_for_url("**/tuner/signin?next=*")
    # with the keyboard only: the name has the focus
    stranger.locator("#name:focus").wait_for()
    stranger.keyboard.type("eve")
    stranger.keyboard.press("Tab")
    stranger.keyboard.type(PASSWORD)
    stranger.keyboard.press("Enter")
    stranger.wait_for_url("**/dashboard/studies/1")
    stranger.get_by_text("History", exact=True).last.wait_for()
    stranger.locator(".barlayer .point").first.wait_for(state="attached")  # loaded last
    assert stranger.request.delete(f"{address}/api/studies/1", headers={"origin": address}).status == 403
    assert stranger.request.post(f"{address}/tuner/signout", headers={"origin": address}).ok
    stranger.goto(f"{address}/dashboard")
    stranger.wait_for_url("**/tuner/signin?next=*")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_the_sign_in_page_is_accessible(browser: Browser, address: str, scheme: str, width: int, tmp_path: Path) -> None:
    with watched(browser, color_scheme=scheme) as page:
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(f"{address}/tuner/signin?stale=1")
        page.screenshot(path=tmp_path / f"signin-{scheme}-{width}.png")
        found = Axe().run(page)
        assert found.response["violations"] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_an_injected_script_does_not_run(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.goto(f"{address}/tuner/signin")
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = true'}))")
    assert page.evaluate("window.ran === undefined")
    page.close()
