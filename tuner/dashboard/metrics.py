"""Metrics for Prometheus, computed from the storage at each request."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from tuner.errors import StorageError
from tuner.storage.engine import Storage
from tuner.views import figures
from tuner.views.figures import Figures


def routes(storage: Storage, artifacts: Path | None) -> list[BaseRoute]:
    """Return the route `/metrics`. Each server has its own registry."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_StorageCollector(storage, artifacts))

    async def respond(request: Request) -> Response:
        try:
            text = await run_in_threadpool(generate_latest, registry)
        except StorageError:
            return PlainTextResponse("the database cannot be reached\n", 503)
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})

    return [Route("/metrics", respond)]


class _StorageCollector(Collector):
    def __init__(self, storage: Storage, artifacts: Path | None) -> None:
        self._storage = storage
        self._artifacts = artifacts

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        began = time.perf_counter()
        found = figures.of_all(self._storage)
        seconds = time.perf_counter() - began
        yield GaugeMetricFamily("tuner_storage_seconds", "Time to read these metrics from the database.", value=seconds)
        yield from _study_metrics(found)
        if self._artifacts is not None and self._artifacts.is_dir():
            yield self._spooled()

    def _spooled(self) -> Metric:
        """Return the number of spooled reports: lines of the files that workers write during an outage, without the header lines."""
        assert self._artifacts is not None
        metric = GaugeMetricFamily("tuner_spooled_reports", "Reports on disk that wait for the database.", labels=["study"])
        counts: dict[str, int] = {}
        for path in self._artifacts.glob("*/spool/*.jsonl"):
            try:
                lines = path.read_bytes().count(b"\n")
            except OSError:
                continue  # a worker has just delivered it
            study = path.parent.parent.name
            counts[study] = counts.get(study, 0) + max(0, lines - 1)
        for study, count in counts.items():
            metric.add_metric([study], count)
        return metric


def _study_metrics(found: Iterable[Figures]) -> Iterator[Metric]:
    trials = GaugeMetricFamily("tuner_trials", "Trials by state.", labels=["study", "state"])
    best = GaugeMetricFamily("tuner_best_value", "Best value of a completed trial, in the metric of the study.", labels=["study"])
    about = InfoMetricFamily("tuner_study", "Task, metric and direction of a study.", labels=["study"])
    workers = GaugeMetricFamily("tuner_running_workers", "Workers that have a trial and were seen in the last minute.", labels=["study"])
    help_text = "Time since a worker of the study last wrote to the database: a report, a result or a heartbeat."
    silent = GaugeMetricFamily("tuner_last_report_seconds", help_text, labels=["study"])
    for study in found:
        about.add_metric([study.name], {"task": study.task or "", "metric": study.metric or "", "direction": study.direction})
        for state, count in study.trials.items():
            trials.add_metric([study.name, state], count)
        if study.best_value is not None:
            best.add_metric([study.name], study.best_value)
        workers.add_metric([study.name], study.num_workers)
        if study.silent_seconds is not None:
            silent.add_metric([study.name], study.silent_seconds)
    yield from (trials, best, about, workers, silent)
