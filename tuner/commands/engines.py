"""What every engine promises: assignments into workers at work, and those into exit codes.

What the command line says of an engine, into one that is ready, and the workers that it is to place.
"""

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
    """Places workers somewhere, replaces those that crash, and ends them in order when it is asked to."""

    def __call__(
        self, assignments: Sequence[Assignment], *, stopping: Stopping, tell: Tell, tick: Callable[[], None] = lambda: None
    ) -> list[int]:
        """Be there until every worker has ended; their exit codes.

        `tell` gets every event of every worker, `tick` is called a few times a second.
        """
        ...


Name = Literal["local", "ray"]
MAX_WORKERS = 256
#: hosts of a URL that are another machine on each node
_OWN_HOSTS = ("localhost", "127.0.0.1", "::1", "")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What is said on the command line; None: nothing."""

    engine: Name
    workers: int | None
    threads: int | None
    hang_limit: str | None
    memory_limit: str | None
    slots_per_gpu: int | None
    #: of a Ray cluster
    address: str | None
    gpus_per_worker: float | None
    cpus_per_worker: int | None


@dataclass(frozen=True, kw_only=True)
class Ready:
    """An engine with all that it needs."""

    run: Engine
    hands: options.Hands
    #: SQLAlchemy URL as every worker can use it
    storage: str


def ready(wanted: EngineOptions, url: str) -> AbstractContextManager[Ready]:
    """Have the engine while a `with` block runs.

    Raises:
        RequestError: it cannot be had as it is wanted.
    """
    return _BUILDERS[wanted.engine](wanted, url)


@contextmanager
def _local(wanted: EngineOptions, url: str) -> Iterator[Ready]:
    for option in ("address", "gpus_per_worker", "cpus_per_worker"):
        given = getattr(wanted, option)
        if given is not None:
            raise RequestError(f"--{option.replace('_', '-')} is {given}, which says nothing to --engine local; add --engine ray.")
    hands = options.hands(wanted.workers, wanted.threads, wanted.hang_limit, wanted.memory_limit, wanted.slots_per_gpu)
    yield Ready(run=local.run, hands=hands, storage=url)


@contextmanager
def _ray(wanted: EngineOptions, url: str) -> Iterator[Ready]:
    if importlib.util.find_spec("ray") is None:
        raise MissingPackage("ray", extra="ray", needed_for="--engine ray")
    if wanted.slots_per_gpu is not None:
        part = 1 / wanted.slots_per_gpu
        raise RequestError(
            f"--slots-per-gpu (or TUNER_SLOTS_PER_GPU) is {wanted.slots_per_gpu}, which says nothing to --engine ray; "
            f"give --gpus-per-worker {part:.2g} instead."
        )
    hang_limit_seconds = options.read_seconds("--hang-limit", wanted.hang_limit or options.DEFAULT_HANG_LIMIT)
    memory_bytes = None if wanted.memory_limit is None else entries.read_size("--memory-limit", wanted.memory_limit)
    from tuner.workers.engines import cluster

    with cluster.joined(wanted.address):
        # not before: Ray reads its settings when it is imported
        from tuner.workers.engines import node, ray

        nodes = cluster.nodes()
        storage = reachable(url, {str(node["NodeManagerAddress"]) for node in nodes})
        resources: Sequence[Mapping[str, Any]] = [node["Resources"] for node in nodes]
        has_gpus = any(each.get("GPU") for each in resources)
        per_worker = float(has_gpus) if wanted.gpus_per_worker is None else wanted.gpus_per_worker
        share = node.NodeShare(cpus=wanted.cpus_per_worker or 1, gpus=per_worker, memory_bytes=memory_bytes)
        num_workers = wanted.workers or min(MAX_WORKERS, max(1, sum(map(share.num_in, resources))))
        hands = options.Hands(
            places=(None,) * num_workers,
            threads=wanted.threads or share.cpus,
            hang_limit_seconds=hang_limit_seconds,
            memory_limit_bytes=memory_bytes,
        )
        yield Ready(run=partial(ray.run, share=share), hands=hands, storage=storage)


_BUILDERS: dict[Name, Callable[[EngineOptions, str], AbstractContextManager[Ready]]] = {"local": _local, "ray": _ray}


def reachable(url: str, hosts: set[str]) -> str:
    """A storage's URL as it is used from any folder of these hosts.

    Raises:
        RequestError: there are several, and it is a file or a server that only this machine sees.
    """
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        return url  # what is wrong with it is said where it is opened
    if address.get_backend_name() != "sqlite":
        server = address.host or str(address.query.get("host", ""))
        if len(hosts) > 1 and (server in _OWN_HOSTS or server.startswith("/")):
            raise RequestError(_unreachable(url, hosts, "name the database's host in the URL as the other nodes reach it"))
        return url
    if len(hosts) > 1:
        raise RequestError(_unreachable(url, hosts, "give a PostgreSQL or MySQL database with --storage or TUNER_STORAGE"))
    if address.database in (None, "", ":memory:") or str(address.database).startswith("file:"):
        return url
    return address.set(database=str(Path(str(address.database)).absolute())).render_as_string(hide_password=False)


def _unreachable(url: str, hosts: set[str], cure: str) -> str:
    return f"the storage {storages.shown(url)} is of one machine, but the Ray cluster has nodes on {len(hosts)}; {cure}."
