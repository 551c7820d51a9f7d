"""Measure what open browsers on the queue page cost: reads of the storage a second, and the time of a decision of a pool worker."""

import argparse
import contextlib
import http.client
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from sqlalchemy import event

from tests.dashboard.pages import serving
from tuner.queue import entries, pool
from tuner.queue.entries import Submission
from tuner.spec import file as study_file
from tuner.storage import engine as storages
from tuner.storage.engine import Storage
from tuner.studies.leases import WorkerId


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", help="URL of an empty database; default: a temporary SQLite file")
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--browsers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = given.storage or f"sqlite:///{folder}/queue.db"
        pages, worker = storages.open(url), storages.open(url)
        fill(worker, given.studies)
        with serving.beside(pages) as address:
            # alternating, since other work of the machine comes and goes
            measured = {num: [measure(pages, worker, address, num, given.seconds) for _ in range(3)] for num in (0, 1, given.browsers)}
    figures = {
        num: {name: round(statistics.median(one[name] for one in several), 2) for name in several[0]} for num, several in measured.items()
    }
    print(json.dumps({"studies": given.studies, "storage": worker.engine.dialect.name, "browsers": figures}, indent=1))


def fill(storage: Storage, num_studies: int) -> None:
    """Queue studies of ten owners, and register 16 workers."""
    for number in range(num_studies):
        spec = study_file.parse({"name": f"study-{number}", "data": {"source": "digits"}}, "benchmark")
        entries.submit(storage, spec, Submission(owner=f"owner-{number % 10}", priority=number % 3, num_wanted=2))
    for number in range(16):
        pool.register(storage, WorkerId.here(f"w{number}"), pool.Abilities(labels=("gpu",)))


def measure(pages: Storage, worker: Storage, address: str, num_browsers: int, seconds: float) -> dict[str, float]:
    """Return what is measured while some browsers have the page open."""
    own = WorkerId.here("w0")
    with browsers(address, num_browsers), reads(pages) as taken:
        time.sleep(1.0)  # all have their first event
        taken.clear()
        began, decisions = time.perf_counter(), []
        while time.perf_counter() - began < seconds:
            started = time.perf_counter()
            pool.beat(worker, own, refusals={})
            decisions.append(1000 * (time.perf_counter() - started))
            time.sleep(0.02)
        lasted = time.perf_counter() - began
    return {
        "statements_a_second": len(taken) / lasted,
        "percent_of_time_in_the_database": 100 * sum(taken) / lasted,
        "heartbeat_p50_ms": statistics.median(decisions),
        "heartbeat_p95_ms": sorted(decisions)[int(0.95 * (len(decisions) - 1))],
    }


@contextlib.contextmanager
def browsers(address: str, num: int) -> Iterator[None]:
    """Keep the stream of the queue page open in some connections."""
    connections = [http.client.HTTPConnection(urlsplit(address).netloc, timeout=60) for _ in range(num)]
    threads = [threading.Thread(target=follow, args=(connection,), daemon=True) for connection in connections]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for connection in connections:
            with contextlib.suppress(OSError):
                if connection.sock is not None:
                    connection.sock.shutdown(2)
        for thread in threads:
            thread.join()


def follow(connection: http.client.HTTPConnection) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException, AttributeError):
        connection.request("GET", "/tuner/queue", headers={"Accept": "text/event-stream"})
        answer = connection.getresponse()
        while answer.readline():
            pass
    connection.close()


@contextlib.contextmanager
def reads(storage: Storage) -> Iterator[list[float]]:
    """Collect the seconds that each statement of a storage takes."""
    taken: list[float] = []
    started: dict[int, float] = {}

    def before(connection: object, *rest: object) -> None:
        started[threading.get_ident()] = time.perf_counter()

    def after(connection: object, *rest: object) -> None:
        taken.append(time.perf_counter() - started.get(threading.get_ident(), time.perf_counter()))

    event.listen(storage.engine, "before_cursor_execute", before)
    event.listen(storage.engine, "after_cursor_execute", after)
    try:
        yield taken
    finally:
        event.remove(storage.engine, "before_cursor_execute", before)
        event.remove(storage.engine, "after_cursor_execute", after)


if __name__ == "__main__":
    main()
