"""A storage into the figures that Prometheus asks for, computed when it asks."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
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
    """`/metrics`, from a registry of this server's own."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(storage, artifacts))

    async def tell(request: Request) -> Response:
        try:
            text = await run_in_threadpool(generate_latest, registry)
        except StorageError:
            return PlainTextResponse("the database is away\n", 503)
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})

    return [Route("/metrics", tell)]


class _Figures(Collector):
    def __init__(self, storage: Storage, artifacts: Path | None) -> None:
        self._storage = storage
        self._artifacts = artifacts

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        began = time.perf_counter()
        found = figures.of_all(self._storage)
        seconds = time.perf_counter() - began
        yield GaugeMetricFamily("tuner_storage_seconds", "Time that reading all these figures from the database took.", value=seconds)
        yield from _of_studies(found)
        if self._artifacts is not None and self._artifacts.is_dir():
            yield self._spooled()

    def _spooled(self) -> Metric:
        """Lines of the files that workers write while the storage is away; the first line of each says whose it is."""
        assert self._artifacts is not None
        metric = GaugeMetricFamily("tuner_spooled_reports", "Reports that wait on disk for the database.", labels=["study"])
        counts: dict[str, int] = {}
        for path in self._artifacts.glob("*/spool/*.jsonl"):
            try:
                lines = path.read_bytes().count(b"\n")
            except OSError:
                continue  # delivered in this moment
            study = path.parent.parent.name
            counts[study] = counts.get(study, 0) + max(0, lines - 1)
        for study, count in counts.items():
            metric.add_metric([study], count)
        return metric


def _of_studies(found: Iterable[Figures]) -> Iterator[Metric]:
    trials = GaugeMetricFamily("tuner_trials", "Trials by state.", labels=["study", "state"])
    best = GaugeMetricFamily("tuner_best_value", "Best validation accuracy of a completed trial.", labels=["study"])
    workers = GaugeMetricFamily("tuner_running_workers", "Workers that hold a trial and were seen in the last minute.", labels=["study"])
    help_text = "Time since a worker of the study last wrote to the database: a report, a result or a beat."
    silent = GaugeMetricFamily("tuner_last_report_seconds", help_text, labels=["study"])
    for study in found:
        for state, count in study.trials.items():
            trials.add_metric([study.name, state], count)
        if study.best_value is not None:
            best.add_metric([study.name], study.best_value)
        workers.add_metric([study.name], study.num_workers)
        if study.silent_seconds is not None:
            silent.add_metric([study.name], study.silent_seconds)
    yield from (trials, best, workers, silent)
