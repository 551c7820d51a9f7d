"""How long optuna-dashboard's view of a large study takes to open in a browser: behind our lock, and served by itself."""

import argparse
import contextlib
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks import big_study, viewers
from tests.browser.conftest import SWITCHES
from tuner.search import storage as storages

#: the history of the study is drawn
_DRAWN = ".scatterlayer .trace"
_LONGEST_MS = 300_000


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", help="an empty database; without it an SQLite file that is deleted afterwards")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7, help="of one opening each")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        url = given.storage or f"sqlite:///{folder}/opening.db"
        study_id = big_study.fill(storages.open(url), name="many", num_trials=given.trials)
        browser = playwright.chromium.launch(executable_path=given.chromium, args=SWITCHES)
        with viewers.serve(url, folder) as (ours, cookie), serve_alone(url) as theirs:
            places = {
                "with tuner": (f"{ours}/dashboard/studies/{study_id}", cookie),
                "alone": (f"{theirs}/dashboard/studies/{study_id}", ""),
            }
            took: dict[str, list[float]] = {place: [] for place in places}
            first = {place: open_once(browser, *where) for place, where in places.items()}  # each server reads the study then
            for number in range(given.rounds):
                for place in list(places)[:: 1 if number % 2 else -1]:
                    took[place].append(open_once(browser, *places[place]))
        browser.close()
    medians = {place: statistics.median(times) for place, times in took.items()}
    print(
        json.dumps(
            {
                "trials": given.trials,
                "first_s": {place: round(seconds, 2) for place, seconds in first.items()},
                "median_s": {place: round(seconds, 2) for place, seconds in medians.items()},
                "all_s": {place: [round(seconds, 2) for seconds in times] for place, times in took.items()},
                "longer_by": round(medians["with tuner"] / medians["alone"] - 1, 3),
            },
            indent=1,
        )
    )


def open_once(browser: Browser, address: str, cookie: str) -> float:
    """Seconds until the history is drawn in a browser that has kept nothing."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    if cookie:
        name, value = cookie.split("=", 1)
        context.add_cookies([{"name": name, "value": value, "url": address}])
    page = context.new_page()
    began = time.perf_counter()
    _open(page, address)
    took = time.perf_counter() - began
    context.close()
    return took


def _open(page: Page, address: str) -> None:
    page.goto(address, timeout=_LONGEST_MS)
    page.locator(_DRAWN).first.wait_for(state="attached", timeout=_LONGEST_MS)


@contextlib.contextmanager
def serve_alone(url: str) -> Iterator[str]:
    """optuna-dashboard's own command as a process; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    program = Path(sys.executable).with_name("optuna-dashboard")
    with subprocess.Popen([program, url, "--port", str(port), "--quiet"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
