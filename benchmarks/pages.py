"""Measure our pages for a large study: how long each takes, and its size in bytes, one request after another."""

import argparse
import http.client
import json
import statistics
import tempfile
import time
from urllib.parse import urlsplit

from benchmarks import big_study
from tests.dashboard.pages import serving
from tuner.storage import engine as storages


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", help="URL of an empty database; default: a temporary SQLite file")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=100, help="requests for each page")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        storage = storages.open(given.storage or f"sqlite:///{folder}/pages.db")
        study_id = big_study.fill(storage, name="many", num_trials=given.trials)
        with serving.beside(storage) as address:
            figures = {path: measure(address, path, given.requests) for path in pages(study_id, given.trials)}
    print(
        json.dumps({"trials": given.trials, "epochs": big_study.EPOCHS, "storage": storage.engine.dialect.name, "pages": figures}, indent=1)
    )


def pages(study_id: int, num_trials: int) -> list[str]:
    """Return the measured pages."""
    study = f"/tuner/studies/{study_id}"
    last = num_trials // 25
    trial = f"{study}/trials/{num_trials // 2}"
    return ["/", study, f"{study}?sort=best", f"{study}?sort=worst&page={last}", trial, "/tuner/workers", f"{study}/best.yaml"]


def measure(address: str, path: str, num: int) -> dict[str, float]:
    """Return the milliseconds until the last byte, and the transferred bytes; the first request, which fills the caches, is separate."""
    first, num_bytes = ask(address, path)
    before = time.process_time()
    times = sorted(ask(address, path)[0] for _ in range(num))
    return {
        # processor seconds of server and client: they depend least on other work of the machine
        "processor_ms": round(1000 * (time.process_time() - before) / num, 1),
        "first_ms": round(first, 1),
        "p50_ms": round(statistics.median(times), 1),
        "p95_ms": round(times[int(0.95 * (len(times) - 1))], 1),
        "bytes": num_bytes,
    }


def ask(address: str, path: str) -> tuple[float, int]:
    """Request a page on a new connection."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    began = time.perf_counter()
    connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
    answer = connection.getresponse()
    content = answer.read()
    took = 1000 * (time.perf_counter() - began)
    connection.close()
    if answer.status != 200:
        raise SystemExit(f"{path} answered {answer.status}")
    return took, len(content)


if __name__ == "__main__":
    main()
