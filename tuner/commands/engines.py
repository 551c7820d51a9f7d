"""Engines: where the workers of a run are started, chosen by the options of the command line."""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from tuner.cache import entries
from tuner.commands import options
from tuner.errors import MissingPackage, RequestError
from tuner.storage import engine as storages
from tuner.workers.engines import local
from tuner.workers.worker.events import Tell
from tuner.workers.worker.process import Assignment
from tuner.workers.worker.stopping import Stopping


class Engine(Protocol):
    """Starts workers, replaces workers that crash, and ends them in order on request."""

    def __call__(
        self, assignments: Sequence[Assignment], *, stopping: Stopping, tell: Tell, tick: Callable[[], None] = lambda: None
    ) -> list[int]:
        """Run a worker for each assignment until all of them have ended, and return their exit codes.

        `tell` gets every event of every worker; `tick` is called a few times per second.
        """
        ...


Name = Literal["local", "ray"]
MAX_WORKERS = 256
#: hosts in a URL that mean a different machine on each node
_OWN_HOSTS = ("localhost", "127.0.0.1", "::1", "")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """The options of the command line about workers; None: not given."""

    engine: Name
    workers: int | None
    threads: int | None
    hang_limit: str | None
    memory_limit: str | None
    slots_per_gpu: int | None
    #: address of a Ray cluster
    address: str | None
    gpus_per_worker: float | None
    cpus_per_worker: int | None


@dataclass(frozen=True, kw_only=True)
class ReadyEngine:
    """An engine, and everything that it needs to run workers."""

    run: Engine
    workers: options.WorkerPlan
    #: SQLAlchemy URL that works for every worker
    storage: str


def open_engine(wanted: EngineOptions, url: str) -> AbstractContextManager[ReadyEngine]:
    """Give the engine while a `with` block runs.

    Raises:
        RequestError: the options do not fit the engine, or it cannot be reached.
    """
    return _BUILDERS[wanted.engine](wanted, url)


@contextmanager
def _local(wanted: EngineOptions, url: str) -> Iterator[ReadyEngine]:
    for option in ("address", "gpus_per_worker", "cpus_per_worker"):
        if getattr(wanted, option) is not None:
            name = f"--{option.replace('_', '-')}"
            raise RequestError(f"{name} applies only to --engine ray; add --engine ray or drop {name}.")
    workers = options.plan_workers(wanted.workers, wanted.threads, wanted.hang_limit, wanted.memory_limit, wanted.slots_per_gpu)
    yield ReadyEngine(run=local.run, workers=workers, storage=url)


@contextmanager
def _ray(wanted: EngineOptions, url: str) -> Iterator[ReadyEngine]:
    if importlib.util.find_spec("ray") is None:
        raise MissingPackage("ray", extra="ray", needed_for="--engine ray")
    if wanted.slots_per_gpu is not None:
        part = 1 / wanted.slots_per_gpu
        raise RequestError(
            f"--slots-per-gpu (or TUNER_SLOTS_PER_GPU) is {wanted.slots_per_gpu}, but applies only to --engine local; "
            f"give --gpus-per-worker {part:.2g} instead."
        )
    hang_limit_seconds = options.read_hang_limit(wanted.hang_limit)
    memory_bytes = None if wanted.memory_limit is None else entries.read_size("--memory-limit", wanted.memory_limit)
    from tuner.workers.engines import cluster

    with cluster.joined(wanted.address):
        # not earlier: Ray reads its settings when it is imported
        from tuner.workers.engines import node, ray

        nodes = cluster.nodes()
        storage = reachable_url(url, {str(node["NodeManagerAddress"]) for node in nodes})
        resources: Sequence[Mapping[str, Any]] = [node["Resources"] for node in nodes]
        has_gpus = any(each.get("GPU") for each in resources)
        per_worker = float(has_gpus) if wanted.gpus_per_worker is None else wanted.gpus_per_worker
        share = node.NodeShare(cpus=wanted.cpus_per_worker or 1, gpus=per_worker, memory_bytes=memory_bytes)
        num_workers = wanted.workers or min(MAX_WORKERS, max(1, sum(map(share.num_in, resources))))
        workers = options.WorkerPlan(
            gpu_shares=(None,) * num_workers,
            threads=wanted.threads or share.cpus,
            hang_limit_seconds=hang_limit_seconds,
            memory_limit_bytes=memory_bytes,
        )
        yield ReadyEngine(run=partial(ray.run, share=share), workers=workers, storage=storage)


_BUILDERS: dict[Name, Callable[[EngineOptions, str], AbstractContextManager[ReadyEngine]]] = {"local": _local, "ray": _ray}


def reachable_url(url: str, hosts: set[str]) -> str:
    """Return the URL of a storage in the form that works in every folder of these hosts.

    Raises:
        RequestError: there are several hosts, and only this machine can reach the storage.
    """
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        return url  # the error is raised where the storage is opened
    if address.get_backend_name() != "sqlite":
        server = address.host or str(address.query.get("host", ""))
        if len(hosts) > 1 and (server in _OWN_HOSTS or server.startswith("/")):
            raise RequestError(_unreachable(url, hosts, "in the URL, give the host name by which the other nodes reach the database"))
        return url
    if len(hosts) > 1:
        raise RequestError(_unreachable(url, hosts, "give a PostgreSQL or MySQL database with --storage or TUNER_STORAGE"))
    if address.database in (None, "", ":memory:") or str(address.database).startswith("file:"):
        return url
    return address.set(database=str(Path(str(address.database)).absolute())).render_as_string(hide_password=False)


def _unreachable(url: str, hosts: set[str], cure: str) -> str:
    return f"only this machine can use the storage {storages.shown(url)}, but the Ray cluster has nodes on {len(hosts)} hosts; {cure}."
