"""A report in a real browser without a network: layout, accessibility, printing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Request

from benchmarks import report as big
from tuner.report import page as report_page
from tuner.storage import engine as storages


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    storage = storages.open(f"sqlite:///{folder / 'tuner.db'}")
    report_page.write(big.fill(storage, 1_000), folder / "report.html", "html")
    storage.close()
    return folder / "report.html"


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest, browser: Browser, report: Path) -> Iterator[Page]:
    """The open report without a network. A request or a console message fails the test."""
    context = browser.new_context(offline=True, color_scheme=request.param, viewport={"width": 1180, "height": 900}, bypass_csp=False)
    opened = context.new_page()
    asked: list[str] = []
    complaints: list[str] = []

    def note(asking: Request) -> None:
        asked.append(asking.url)

    opened.on("request", note)
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(report.as_uri())
    opened.wait_for_load_state("networkidle")
    yield opened
    assert asked == [report.as_uri()]
    assert complaints == []
    context.close()


def test_a_report_of_a_thousand_trials_stays_under_three_megabytes(report: Path) -> None:
    assert 300_000 < report.stat().st_size < 3_000_000


def test_a_report_is_drawn_without_a_network(page: Page) -> None:
    assert page.locator("h1").inner_text() == "many"
    for name in ("slices", "parallel", "timelines", "bars"):
        box = page.locator(f".{name} svg").first.bounding_box()
        assert box is not None
        assert box["width"] > 100
        assert box["height"] > 5
    assert page.locator(".slices figure").count() == 12


def test_a_report_passes_axe(page: Page) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_a_report_fits_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 780})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_printed_report_has_its_study_file_on_white(page: Page) -> None:
    page.emulate_media(media="print")
    text = page.locator("details", has_text="Study file")
    text.evaluate("element => element.removeAttribute('open')")
    assert text.locator("pre").evaluate("element => element.getBoundingClientRect().height") > 100
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf(format="A4").startswith(b"%PDF")
