"""What a user sees of a study in a real browser."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tuner.dashboard import app
from tuner.search import storage

SWITCHES = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert chromium is not None, "Chromium is missing: sudo apt-get install chromium, or name it with CHROMIUM=/path/to/chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard of a storage with one study of twelve trials, two of them pruned."""
    opened = storage.open(f"sqlite:///{tmp_path_factory.mktemp('storage')}/tuner.db")
    study = optuna.create_study(
        storage=opened.rdb, study_name="flowers", direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0)
    )
    study.optimize(trial_like, n_trials=12)
    with app.beside(opened, app.DEFAULT_HOST, 0) as address:
        yield address


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
def page(browser: Browser) -> Iterator[Page]:
    """A page that may end a test only if nothing was said on its console and nothing failed to load."""
    page = browser.new_page(viewport={"width": 1280, "height": 2000})
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


def test_a_page_of_another_site_cannot_change_a_study(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.goto(address.replace("127.0.0.1", "localhost") + "/api/meta")  # to a browser, another name is another site
    with page.expect_response("**/rename") as answered:
        page.evaluate(
            "url => fetch(url, {method: 'POST', mode: 'no-cors', body: '{}'}).then(() => true)", f"{address}/api/studies/1/rename"
        )
    assert answered.value.status == 403
    assert "flowers" in page.request.get(f"{address}/api/studies").text()
    page.close()
