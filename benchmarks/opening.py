"""Measure how long optuna-dashboard's view of a large study takes to open in a browser: behind our sign-in, and without it."""

import argparse
import contextlib
import functools
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx2
import psutil
from playwright.sync_api import Browser, sync_playwright

from benchmarks import big_study, viewers
from tests.browser.conftest import SWITCHES
from tuner.storage import engine as storages

#: present once the history of the study is drawn
_DRAWN = ".scatterlayer .trace"
_LONGEST_MS = 300_000
#: optuna-dashboard caches the trials that it read for ten seconds
_CACHED_SECONDS = 11.0


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", help="URL of an empty database; default: a temporary SQLite file")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="path of the browser")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7, help="number of measurements")
    parser.add_argument(
        "--no-browser", action="store_true", help="only send the requests of the view, which is more precise on a busy machine"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        url = given.storage or f"sqlite:///{folder}/opening.db"
        study_id = big_study.fill(storages.open(url), name="many", num_trials=given.trials)
        ours, cookie = stack.enter_context(viewers.serve(url, folder))
        theirs = stack.enter_context(serve_alone(url))
        servers = dict(zip(("with tuner", "alone"), psutil.Process().children()[-2:], strict=True))
        browser = None
        if not given.no_browser:
            playwright = stack.enter_context(sync_playwright())
            browser = playwright.chromium.launch(executable_path=given.chromium, args=SWITCHES)
        places = {"with tuner": (ours, cookie), "alone": (theirs, "")}
        once = {
            place: functools.partial(ask if browser is None else functools.partial(open_once, browser), *where, study_id)
            for place, where in places.items()
        }
        first = {place: opening()[0] for place, opening in once.items()}  # each server reads the study now
        took: dict[str, list[float]] = {place: [] for place in places}
        used: dict[str, list[float]] = {place: [] for place in places}
        for number in range(given.rounds):
            for place in list(places)[:: 1 if number % 2 else -1]:
                time.sleep(_CACHED_SECONDS)
                before = processor_seconds(servers[place])
                seconds, by_browser = once[place]()
                took[place].append(seconds)
                used[place].append(processor_seconds(servers[place]) - before + by_browser)
    print(
        json.dumps(
            {
                "trials": given.trials,
                "browser": not given.no_browser,
                "first_s": rounded(first),
                "seconds": compared(took),
                "processor_seconds": compared(used),
            },
            indent=1,
        )
    )


def compared(times: Mapping[str, list[float]]) -> dict[str, object]:
    """Return the medians, and how much longer the first kind takes. Processor seconds depend least on other work of the machine."""
    medians = {place: statistics.median(each) for place, each in times.items()}
    return {
        "median": rounded(medians),
        "longer_by": round(medians["with tuner"] / medians["alone"] - 1, 3),
        "all": {place: [round(seconds, 2) for seconds in each] for place, each in times.items()},
    }


def rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    """Round to milliseconds."""
    return {place: round(each, 3) for place, each in seconds.items()}


def ask(address: str, cookie: str, study_id: int) -> tuple[float, float]:
    """Return the seconds until everything that the view requests has arrived, one request after another, without a browser."""
    began = time.perf_counter()
    with httpx2.Client(base_url=address, headers={"cookie": cookie} if cookie else {}, timeout=_LONGEST_MS / 1000) as client:
        for path in (f"/dashboard/studies/{study_id}", "/static/bundle.js", "/api/meta", f"/api/studies/{study_id}?after=0"):
            client.get(path).raise_for_status()
    return time.perf_counter() - began, 0.0


def open_once(browser: Browser, address: str, cookie: str, study_id: int) -> tuple[float, float]:
    """Return the seconds until a browser with an empty cache has drawn the history, and the processor seconds that it needs."""
    before = browser_seconds()
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    if cookie:
        name, value = cookie.split("=", 1)
        context.add_cookies([{"name": name, "value": value, "url": address}])
    page = context.new_page()
    began = time.perf_counter()
    page.goto(f"{address}/dashboard/studies/{study_id}", timeout=_LONGEST_MS)
    page.locator(_DRAWN).first.wait_for(state="attached", timeout=_LONGEST_MS)
    took, used = time.perf_counter() - began, browser_seconds() - before
    context.close()
    return took, used


def browser_seconds() -> float:
    """Return the processor seconds of all browser processes so far."""
    return sum(processor_seconds(process) for process in psutil.Process().children(recursive=True) if "chrom" in process.name())


def processor_seconds(process: psutil.Process) -> float:
    """Return the processor seconds of a process so far."""
    used = process.cpu_times()
    return float(used.user + used.system)


@contextlib.contextmanager
def serve_alone(url: str) -> Iterator[str]:
    """Run optuna-dashboard's own command as a process; yield its address."""
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
