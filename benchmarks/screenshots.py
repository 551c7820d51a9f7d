"""Take screenshots of our pages for a desktop, in dark mode and for a phone, while a real study runs."""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks import runs
from tests.browser.conftest import SWITCHES
from tests.dashboard.pages import serving
from tuner.storage import engine as storages
from tuner.storage.engine import Storage
from tuner.views import studies

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
#: width, height, colours
SCREENS: Mapping[str, tuple[int, int, str]] = {
    "desktop": (1180, 760, "light"),
    "dark": (1180, 760, "dark"),
    "phone": (390, 780, "light"),
}
#: number of colours that are kept exactly, out of 256, so that the file is small
_FREQUENT = 96


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="path of the browser")
    parser.add_argument("--to", type=Path, default=IMAGES, help="folder for the pictures")
    parser.add_argument("--ended", type=int, default=12, help="ended trials before the pictures are taken")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        browser = playwright.chromium.launch(executable_path=given.chromium, args=SWITCHES)
        command = ["run", str(ROOT / "studies" / "animals.yaml"), "--workers", "2", *runs.places(folder, "shots")]
        run = subprocess.Popen([sys.executable, "-m", "tuner", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        storage = storages.open(f"sqlite:///{folder}/shots.db")
        try:
            with serving.beside(storage, folder / "artifacts") as address:
                wait_for(storage, run, num_ended=given.ended)
                trial = f"/tuner/studies/1/trials/{best(storage)}"
                shoot(
                    browser, address, {"studies": "/", "study": "/tuner/studies/1", "workers": "/tuner/workers", "trial": trial}, given.to
                )
        finally:
            run.send_signal(signal.SIGINT)
            run.wait()
            browser.close()


def wait_for(storage: Storage, run: subprocess.Popen[bytes], *, num_ended: int) -> None:
    """Wait until the given number of trials, or the search, has ended."""
    while run.poll() is None:
        listed = storage.read(lambda connection: studies.one(connection, 1))
        if listed is not None and listed.num_ended >= num_ended:
            return
        time.sleep(0.2)


def best(storage: Storage) -> int:
    """Return the best trial of the study."""
    return int(storage.rdb.get_best_trial(1).number)


def shoot(browser: Browser, address: str, pages: Mapping[str, str], to: Path) -> None:
    """Take a screenshot of each page for each screen, and on the phone also of the mistakes, which are far down the page."""
    for screen, (width, height, colours) in SCREENS.items():
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=colours)  # type: ignore[arg-type]
        page = context.new_page()
        for name, path in pages.items():
            page.goto(address + path)
            page.locator("#connection[data-state=on]").wait_for()
            page.evaluate("() => Promise.all([...document.images].map(image => { image.loading = 'eager'; return image.decode(); }))")
            take(page, to / f"pages-{name}-{screen}.png", full_page=screen != "phone")
            if (name, screen) == ("trial", "phone"):
                page.get_by_role("region", name="Most confident mistakes").scroll_into_view_if_needed()
                take(page, to / f"pages-mistakes-{screen}.png", full_page=False)
        context.close()


def take(page: Page, target: Path, *, full_page: bool) -> None:
    """Write a screenshot of the visible part or the whole page with few colours; the most frequent colours are exact."""
    page.screenshot(path=target, full_page=full_page)
    image = Image.open(target).convert("RGB")
    counted = sorted(image.getcolors(image.width * image.height) or (), reverse=True)[:_FREQUENT]
    spread = image.quantize(256 - _FREQUENT, method=Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*(part for _, colour in counted for part in colour), *spread][: 3 * 256])  # type: ignore[union-attr]
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(target, optimize=True)


if __name__ == "__main__":
    main()
