"""Measure how open pages slow down the reports of workers: phases with and without viewers alternate in one run."""

import argparse
import asyncio
import contextlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psutil

from benchmarks import big_study
from tests.studies import by_hand
from tuner.storage import engine as storages
from tuner.studies import study as studies
from tuner.studies import trials

#: seconds between two reports of a worker: an epoch of a small network
_PAUSE_SECONDS = 0.2


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", help="URL of an empty database; default: a temporary SQLite file")
    parser.add_argument("--trials", type=int, default=1000, help="ended trials at the start")
    parser.add_argument("--viewers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds of each phase")
    parser.add_argument("--rounds", type=int, default=5, help="number of phases without viewers and with viewers")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = given.storage or f"sqlite:///{folder}/viewers.db"
        storage = storages.open(url)
        study_id = big_study.fill(storage, name="watched", num_trials=given.trials)
        worker = Worker(url)
        with serve(url, Path(folder)) as (address, cookie):
            path = f"/tuner/studies/{study_id}"
            server = psutil.Process().children()[-1]
            alone, watched, delays, used = [], [], [], []
            for _ in range(given.rounds):
                alone.append(worker.report(given.seconds))
                with Viewers(address, path, cookie, given.viewers) as viewers:
                    before, began = server.cpu_times(), time.monotonic()
                    watched.append(worker.report(given.seconds))
                    after = server.cpu_times()
                    used.append((after.user + after.system - before.user - before.system) / (time.monotonic() - began))
                    delays += viewers.delays(worker.values)
        dialect = storage.engine.dialect.name
    figures = {"alone": described(alone), "watched": described(watched)}
    slower = [statistics.median(after) / statistics.median(before) - 1 for before, after in zip(alone, watched, strict=True)]
    print(
        json.dumps(
            {
                "storage": dialect,
                "viewers": given.viewers,
                "report": figures,
                "slower_by": {"median_of_rounds": round(statistics.median(slower), 3), "rounds": [round(part, 3) for part in slower]},
                # fraction of one processor that the dashboard uses for all viewers
                "server_processor": round(statistics.median(used), 3),
                "seconds_until_seen": {"p50": round(statistics.median(delays), 2), "most": round(max(delays), 2)},
            },
            indent=1,
        )
    )


class Worker:
    """Reports epochs like a worker, and records how long each report takes."""

    def __init__(self, url: str) -> None:
        self._study = studies.load("watched", storages.open(url))
        self._claim = by_hand.must_claim(self._study)
        self._step = 0
        #: time of each report in this phase, by the text of its value on the page
        self.values: dict[str, float] = {}

    def report(self, seconds: float) -> list[float]:
        """Return the milliseconds of each report during some time."""
        took, end = [], time.monotonic() + seconds
        self.values = {}
        while time.monotonic() < end:
            self._step += 1
            value = 0.1 + 0.0001 * (self._step % 8000)
            began = time.perf_counter()
            trials.report(self._study, self._claim, by_hand.epochs(self._claim, [value], first=self._step, probe_epochs=10**6))
            took.append(1000 * (time.perf_counter() - began))
            self.values[f"{value:.4f}"] = time.monotonic()
            time.sleep(_PAUSE_SECONDS)
        return took


class Viewers:
    """A context manager for pages that are open in several browsers, each with its own stream."""

    def __init__(self, address: str, path: str, cookie: str, num: int) -> None:
        self._place, self._path, self._cookie, self._num = urlsplit(address), path, cookie, num
        self._loop = asyncio.new_event_loop()
        self._open = threading.Semaphore(0)
        self._seen: list[tuple[float, bytes]] = []

    def __enter__(self) -> "Viewers":
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._watch(),))
        self._thread.start()
        for _ in range(self._num):
            self._open.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def delays(self, values: dict[str, float]) -> list[float]:
        """Return the seconds from each report until each viewer received it; of several reports in one update, only the last counts."""
        found = []
        for at, part in self._seen:
            shown = [text for text in values if text.encode() in part and values[text] <= at]
            if shown:
                found.append(at - max(values[text] for text in shown))
        return found

    async def _watch(self) -> None:
        self._end = asyncio.Event()
        tasks = [asyncio.create_task(self._follow()) for _ in range(self._num)]
        await self._end.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self) -> None:
        reader, writer = await asyncio.open_connection(self._place.hostname, self._place.port)
        asked = f"GET {self._path} HTTP/1.1\r\nHost: {self._place.netloc}\r\nAccept: text/event-stream\r\nCookie: {self._cookie}\r\n\r\n"
        writer.write(asked.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head:
            raise SystemExit(f"the stream was refused: {head[:100]!r}")
        self._open.release()
        try:
            while part := await reader.read(2**20):
                self._seen.append((time.monotonic(), part))
        finally:
            writer.close()


@contextlib.contextmanager
def serve(url: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Run `tuner dashboard` as a process; yield its address, and the cookie of a signed-in user."""
    command = [sys.executable, "-m", "tuner", "dashboard", "--port", "0", "--storage", url, "--users", str(folder / "users.json")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        link = re.search(r"http://\S+", process.stderr.readline())
        assert link is not None
        address = link[0].split("/?")[0]
        with httpx2.Client() as client:
            client.get(link[0].replace("/?", "/healthz?"), follow_redirects=True)
            cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        try:
            yield address, cookie
        finally:
            process.terminate()


def described(phases: list[list[float]]) -> dict[str, float]:
    """Return percentiles over all phases of a kind, in milliseconds."""
    took = sorted(each for phase in phases for each in phase)
    return {
        "reports": len(took),
        "p50_ms": round(statistics.median(took), 2),
        "p95_ms": round(took[int(0.95 * (len(took) - 1))], 2),
    }


if __name__ == "__main__":
    main()
