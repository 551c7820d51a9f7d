"""The queue, the pool and the page of a new study in a real browser: with the mouse, by keyboard, on a phone, in light and dark."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tuner.dashboard import server
from tuner.dashboard.settings import Settings
from tuner.dashboard.submission import SubmissionRules
from tuner.queue import entries, pool
from tuner.queue.entries import Submission
from tuner.spec import file as study_file
from tuner.storage import engine as storages
from tuner.storage.engine import Storage
from tuner.studies.leases import WorkerId
from tuner.trust.roots import Roots

PAGES = ("/tuner/queue", "/tuner/pool", "/tuner/new")
HOSTILE = "<img src=x onerror=document.title='owned'>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("service")
    chance = np.random.default_rng(0)
    for name in ("lily", "rose"):
        (folder / "data" / "flowers" / name).mkdir(parents=True)
        for number in range(20):
            image = Image.fromarray(chance.integers(0, 255, (64, 64, 3), dtype=np.uint8))
            image.save(folder / "data" / "flowers" / name / f"{number}.jpg")
    return folder


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    """A queue of six studies of two owners, one of which no worker can serve, and a pool of two workers."""
    opened = storages.open(f"sqlite:///{tmp_path / 'tuner.db'}")
    for name, priority, needs in (("one", 5, ()), ("two", 5, ()), ("three", 5, ()), ("stuck", 0, ("tpu",)), ("over", 0, ())):
        submit(opened, name, "ada", priority, needs)
    submit(opened, "other", "ben", 1)
    entries.cancel(opened, "over", by="ada")
    for name in ("w1", "w2"):
        worker = WorkerId.here(name)
        pool.register(opened, worker, pool.Abilities(labels=("gpu",), gpu_memory_bytes=24 << 30, data_root="/srv/data"))
        pool.beat(opened, worker, refusals={"other": f"no folder /srv/data/{HOSTILE}"})
    yield opened
    opened.close()


def submit(storage: Storage, name: str, owner: str, priority: int = 0, needs: tuple[str, ...] = ()) -> None:
    spec = study_file.parse({"name": name, "data": {"source": "digits"}}, name)
    entries.submit(storage, spec, Submission(owner=owner, priority=priority, num_wanted=2, needs=needs))


@pytest.fixture
def served(storage: Storage, folder: Path) -> Iterator[server.Served]:
    (folder / "uploads").mkdir(exist_ok=True)
    rules = SubmissionRules(roots=Roots.of([folder / "data", folder / "uploads"]), uploads=folder / "uploads")
    with server.beside(storage, Settings(users=folder / "nobody.json", submission=rules), 0) as served:
        yield served


@pytest.fixture
def page(browser: Browser, served: server.Served) -> Iterator[Page]:
    """A page that fails the test if its console has a message, as a breach of the policy would write."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(served.link.replace("/?", "/healthz?"))
    yield page
    context.close()
    assert complaints == []


def order(page: Page) -> list[str]:
    return page.locator(".queue > li h2").all_inner_texts()


def names(storage: Storage) -> list[str]:
    return [entry.name for entry in entries.entries(storage) if entry.ended_at is None]


def test_mistakes_are_shown_as_one_types_and_a_good_file_is_submitted(page: Page, served: server.Served, storage: Storage) -> None:
    page.goto(f"{served.address}/tuner/new")
    editor = page.get_by_role("textbox", name="Study file in YAML")
    editor.click()
    page.keyboard.press("Control+a")
    page.keyboard.type("name: typed\nsampler: randm\ndata: {source: digits}\n")
    expect(page.locator("#checked")).to_contain_text("Did you mean random?")
    expect(page.locator("#checked button")).to_have_text("line 2")
    expect(page.locator(".cm-lintRange-error")).to_have_count(1)
    page.get_by_role("button", name="line 2").click()
    page.keyboard.press("End")
    for _ in "randm":
        page.keyboard.press("Backspace")
    page.keyboard.type("random")
    expect(page.locator("#checked")).to_contain_text("No mistakes.")
    expect(page.locator("#checked")).to_contain_text("40 trials")
    page.get_by_label("Priority, higher is first").fill("7")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("status").first).to_have_text("The study is queued.")
    assert (entries.entry(storage, "typed").priority, order(page)[0]) == (7, "typed")


def test_keys_and_values_are_completed_from_the_schema(page: Page, served: server.Served) -> None:
    with page.expect_response("**/schema"):
        page.goto(f"{served.address}/tuner/new")
    page.get_by_role("textbox", name="Study file in YAML").click()
    page.keyboard.press("Control+End")
    page.keyboard.type("\npru")
    expect(page.locator(".cm-tooltip-autocomplete")).to_contain_text("pruner")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+a")
    page.keyboard.type("data:")
    expect(page.locator(".cm-tooltip-autocomplete")).to_have_count(0)
    page.keyboard.type("\n  sou")
    page.locator(".cm-tooltip-autocomplete").get_by_role("option", name="source").click()  # a list just opened ignores Enter
    page.keyboard.press("Control+Space")
    expect(page.locator(".cm-tooltip-autocomplete")).to_contain_text("manifest")


def test_a_folder_is_chosen_by_its_pictures(page: Page, served: server.Served, folder: Path) -> None:
    page.goto(f"{served.address}/tuner/new")
    page.get_by_text("Choose a folder of data").click()
    page.get_by_role("button", name=str(folder / "data")).click()
    page.get_by_role("button", name="flowers").click()
    expect(page.locator(".samples img")).to_have_count(8)
    expect(page.locator(".samples img").first).to_have_js_property("naturalWidth", 96)
    page.get_by_role("button", name="Use this folder").click()
    expect(page.locator("#checked")).to_contain_text("40 files, about 28 to train on")


def test_a_study_is_cloned_with_another_name(page: Page, served: server.Served) -> None:
    page.goto(f"{served.address}/tuner/queue")
    page.get_by_role("link", name="Clone").first.click()
    expect(page.get_by_role("textbox", name="Study file in YAML")).to_contain_text("name: one-2")
    expect(page.locator("#checked")).to_contain_text("No mistakes.")


def test_the_queue_is_reordered_by_keyboard(page: Page, served: server.Served, storage: Storage) -> None:
    page.goto(f"{served.address}/tuner/queue")
    assert order(page) == ["one", "two", "three", "other", "stuck"]
    page.get_by_role("button", name="Move two up").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").first).to_have_text("The study has a new place.")
    assert order(page) == names(storage) == ["two", "one", "three", "other", "stuck"]


def test_the_queue_is_reordered_by_dragging(page: Page, served: server.Served, storage: Storage) -> None:
    page.goto(f"{served.address}/tuner/queue")
    item = "li[data-name='{}'] h2"
    page.drag_and_drop(item.format("three"), item.format("one"))
    expect(page.locator(".queue > li h2").first).to_have_text("three")
    assert names(storage)[:3] == ["three", "one", "two"]
    page.drag_and_drop(item.format("other"), item.format("two"))  # of another owner: it takes the priority
    expect(page.locator("li[data-name='other']")).to_contain_text("priority 5")


def test_a_study_that_waits_says_why_and_an_ended_one_is_queued_again(page: Page, served: server.Served, storage: Storage) -> None:
    page.goto(f"{served.address}/tuner/queue")
    expect(page.locator("li[data-name='stuck']")).to_contain_text("No active worker can serve it")
    page.locator("li[data-name='stuck'] summary").click()
    expect(page.locator("li[data-name='stuck']")).to_contain_text("has no tpu")
    page.on("dialog", lambda dialog: dialog.accept())
    page.locator("li[data-name='two']").get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("table")).to_contain_text("two")
    page.get_by_role("button", name="Queue two again").click()
    expect(page.locator("li[data-name='two']")).to_be_visible()
    page.locator("li[data-name='two']").get_by_role("button", name="Pause").click()
    expect(page.locator("li[data-name='two']")).to_contain_text("paused")


def test_an_admin_stops_and_drains_the_pool(page: Page, served: server.Served, storage: Storage) -> None:
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(f"{served.address}/tuner/pool")
    expect(page.locator("#pool")).to_contain_text("24.0 GiB")
    page.get_by_role("button", name="Stop everything").click()
    expect(page.locator(".note")).to_contain_text("stopped the whole pool")
    page.get_by_role("button", name="Start the pool").click()
    page.get_by_role("button", name=re.compile("^Drain")).click()
    expect(page.locator(".worker").first).to_contain_text("Leaves, requested by")
    assert page.evaluate("document.title") == "Pool · tuner"


def test_a_new_study_is_on_an_open_queue(page: Page, served: server.Served, storage: Storage) -> None:
    page.goto(f"{served.address}/tuner/queue")
    expect(page.locator("#connection")).to_have_attribute("data-state", "on")
    submit(storage, "fresh", "ada", 9)
    expect(page.locator(".queue > li h2").first).to_have_text("fresh")


def test_a_file_with_mistakes_that_is_submitted_without_scripts_comes_back(browser: Browser, served: server.Served) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(served.link.replace("/?", "/healthz?"))
    page.goto(f"{served.address}/tuner/new")
    page.get_by_label("Study file in YAML").fill("name: plain\nsampler: randm\ndata: {source: digits}\n")
    page.get_by_role("button", name="Submit").click()
    expect(page.locator("#checked")).to_contain_text("line 2")
    page.get_by_label("Study file in YAML").fill("name: plain\ndata: {source: digits}\n")
    page.get_by_role("button", name="Submit").click()
    expect(page.locator(".queue")).to_contain_text("plain")
    context.close()


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_pages_of_the_service_are_accessible_and_fit_the_screen(
    browser: Browser, served: server.Served, colours: str, width: int, tmp_path: Path
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=colours)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(served.link.replace("/?", "/healthz?"))
    shots = Path(os.environ.get("SCREENSHOTS", tmp_path))
    for path in PAGES:
        page.goto(served.address + path)
        if path == "/tuner/new":
            expect(page.locator("#checked li")).to_contain_text("line 5")
        page.screenshot(path=shots / f"{path.rpartition('/')[2]}-{colours}-{width}.png", full_page=True)
        found = Axe().run(page)
        assert found.violations_count == 0, f"{path}: {found.generate_report()}"
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
    context.close()
