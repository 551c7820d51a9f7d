"""An order into one worker at work on a node of a cluster; for whoever sent the order its events are kept until they are fetched."""

import math
import os
import queue
import socket
from collections.abc import Iterator, Mapping
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

import ray
from pydantic import BaseModel, ConfigDict

from tuner.errors import RequestError
from tuner.trust import keys
from tuner.workers.engines import gpus, local
from tuner.workers.engines.gpus import GpuShare
from tuner.workers.worker.events import Event
from tuner.workers.worker.process import Assignment
from tuner.workers.worker.stopping import Stopping

#: how long one who listens waits for the next event
_LISTEN_SECONDS = 5.0
#: events that are fetched at once: few enough to travel in the answer itself, not through the object store of a node that may die
_MAX_EVENTS = 50
#: variables of a process that its workers on other nodes are to have; the storage's URL is in the assignment
_PASSED_ON = ("TUNER_CACHE_LIMIT", keys.ARTIFACT_KEY)
#: Ray kills the children of an actor's process when that ends, but not theirs: so a worker whose actor is gone sees its
#: pipe closed, and hands its trial back (https://docs.ray.io/en/latest/ray-core/user-spawn-processes.html)
_SHELL = ("/bin/sh", "-c", '"$@"; exit $?', "sh")


class NodeShare(BaseModel):
    """What one worker takes of a node."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpus: int
    #: at most one; a fraction is a share of its memory, too
    gpus: float
    #: None: a fair share of the node's memory
    memory_bytes: int | None = None

    def __str__(self) -> str:
        cpus = f"{self.cpus} CPU{'s' if self.cpus > 1 else ''}"
        return f"{cpus} and {self.gpus:g} GPU" if self.gpus else cpus

    def num_in(self, resources: Mapping[str, float]) -> int:
        """Workers that a node with these resources holds."""
        by_cpus = resources.get("CPU", 0.0) / self.cpus
        by_gpus = resources.get("GPU", 0.0) / self.gpus if self.gpus else math.inf
        return math.floor(min(by_cpus, by_gpus) + 1e-6)


class RemoteAssignment(BaseModel):
    """An assignment, and what a process on another node needs beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    assignment: Assignment
    share: NodeShare
    #: of the whole run
    num_workers: int
    #: current folder of whoever sent it; code that a study names may be imported from there
    folder: Path
    environment: dict[str, str]
    #: what starts a worker; None: what starts it on that node anyway
    command: tuple[str, ...] | None

    @classmethod
    def here(cls, assignment: Assignment, share: NodeShare, *, num_workers: int, command: tuple[str, ...] | None) -> Self:
        """An order from this process.

        Raises:
            RequestError: it would have to hold a secret.
        """
        if os.environ.get(keys.ARTIFACT_KEY, "").strip().upper().startswith(keys.SECRET):
            raise RequestError(
                f"{keys.ARTIFACT_KEY} holds the key itself, which is not sent to other nodes; set it to a file that each node has"
            )
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        return cls(assignment=assignment, share=share, num_workers=num_workers, folder=Path.cwd(), environment=environment, command=command)


class NodeWorker:
    """An actor's class: one worker process, and who asks about it. Its methods are called by several threads."""

    def __init__(self) -> None:
        self._stopping = Stopping()
        #: None: there will be no more
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._work: Future[list[int]] | None = None

    def begin(self, order: bytes) -> tuple[str, str]:
        """Start the worker, once, however often it is said; the name of the host, and the node's id.

        Raises:
            RequestError: the GPU that was promised is not to be found.
        """
        node = ray.get_runtime_context().get_node_id()
        if self._work is None:
            given = RemoteAssignment.model_validate_json(order)
            os.environ.update(given.environment)
            if given.folder.is_dir():
                os.chdir(given.folder)
            assignment = _settle(given, node)
            command = (*_SHELL, *(given.command or local.COMMAND))
            executor = ThreadPoolExecutor(1)
            self._work = executor.submit(local.run, [assignment], stopping=self._stopping, tell=self._events.put, command=command)
            self._work.add_done_callback(lambda _: self._events.put(None))
        return socket.gethostname(), node

    def listen(self) -> tuple[list[str], int | None]:
        """The next events as JSON, waited for; and the exit code once the worker has ended and all of them are fetched."""
        assert self._work is not None
        told = [event.model_dump_json() for event in self._fetch(0.0 if self._work.done() else _LISTEN_SECONDS) if event is not None]
        is_over = self._work.done() and self._events.empty()
        return told, self._work.result()[0] if is_over else None

    def stop(self) -> None:
        """Ask the worker to end in order."""
        self._stopping.ask()

    def kill(self) -> None:
        """Leave nothing of the worker behind."""
        self._stopping.ask()
        self._stopping.ask()
        if self._work is not None:
            futures.wait([self._work])

    def _fetch(self, timeout_seconds: float) -> Iterator[Event | None]:
        try:
            yield self._events.get(timeout=timeout_seconds)
            for _ in range(_MAX_EVENTS - 1):
                yield self._events.get_nowait()
        except queue.Empty:
            pass


def _settle(order: RemoteAssignment, node: str) -> Assignment:
    """The assignment with what can only be known on the node."""
    resources: Mapping[str, float] = next((known["Resources"] for known in ray.nodes() if known["NodeID"] == node), {})
    num_neighbours = max(1, min(order.num_workers, order.share.num_in(resources)))
    memory_bytes = order.share.memory_bytes or local.fair_memory_bytes(num_neighbours)
    return order.assignment.model_copy(update={"place": _place(order.share), "memory_limit_bytes": memory_bytes})


def _place(share: NodeShare) -> GpuShare | None:
    """The part of the GPU that Ray shows to this process."""
    if not share.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return None
    found = gpus.found()
    if not found:
        cure = "install the NVIDIA driver there, or give --gpus-per-worker 0"
        raise RequestError(f"--gpus-per-worker is {share.gpus:g}, but nvidia-smi lists no GPU on {socket.gethostname()}; {cure}.")
    return gpus.part(found[0], share.gpus)
