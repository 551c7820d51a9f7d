"""Node worker: the actor that runs one worker on a node of a Ray cluster and keeps its events until the driver fetches them."""

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
from tuner.studies import leases
from tuner.trust import keys
from tuner.workers.engines import gpus, local
from tuner.workers.engines.gpus import GpuShare
from tuner.workers.worker.events import Event
from tuner.workers.worker.process import Assignment
from tuner.workers.worker.stopping import Stopping

#: longest wait of `next_events`
_LISTEN_SECONDS = 5.0
#: events of one answer; few enough to be sent in the answer itself, not through the object store of a node that may die
_MAX_EVENTS = 50
#: environment variables that workers on other nodes get, too; the storage's URL is in the assignment
_PASSED_ON = ("TUNER_CACHE_LIMIT", keys.ARTIFACT_KEY, leases.VARIABLE)
#: Ray kills the children of an actor's process when the actor ends, but not their children. So a worker whose actor has died sees
#: that its pipe is closed, and suspends its trial (https://docs.ray.io/en/latest/ray-core/user-spawn-processes.html)
_SHELL = ("/bin/sh", "-c", '"$@"; exit $?', "sh")


class NodeShare(BaseModel):
    """The resources of a node that one worker uses."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpus: int
    #: at most 1; a fraction is a share of the GPU's memory, too
    gpus: float
    #: None: an equal share of the node's memory
    memory_bytes: int | None = None

    def __str__(self) -> str:
        cpus = f"{self.cpus} CPU{'s' if self.cpus > 1 else ''}"
        return f"{cpus} and {self.gpus:g} GPU" if self.gpus else cpus

    def num_in(self, resources: Mapping[str, float]) -> int:
        """Return the number of workers that fit on a node with these resources."""
        by_cpus = resources.get("CPU", 0.0) / self.cpus
        by_gpus = resources.get("GPU", 0.0) / self.gpus if self.gpus else math.inf
        return math.floor(min(by_cpus, by_gpus) + 1e-6)


class RemoteAssignment(BaseModel):
    """An assignment, and everything else that a worker on another node needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    assignment: Assignment
    share: NodeShare
    #: number of workers of the whole run
    num_workers: int
    #: current folder of the sender; code that a study names may be imported from there
    folder: Path
    environment: dict[str, str]
    #: command that starts a worker; None: the node's default
    command: tuple[str, ...] | None

    @classmethod
    def here(cls, assignment: Assignment, share: NodeShare, *, num_workers: int, command: tuple[str, ...] | None) -> Self:
        """Return a remote assignment with the folder and the environment of this process.

        Raises:
            RequestError: it would contain a secret.
        """
        if os.environ.get(keys.ARTIFACT_KEY, "").strip().upper().startswith(keys.SECRET):
            raise RequestError(
                f"{keys.ARTIFACT_KEY} holds the key itself, which is not sent to other nodes; set it to a file that each node has"
            )
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        return cls(assignment=assignment, share=share, num_workers=num_workers, folder=Path.cwd(), environment=environment, command=command)


class NodeWorker:
    """The class of an actor: one worker process and its events. Several threads call its methods."""

    def __init__(self) -> None:
        self._stopping = Stopping()
        #: None marks the end
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._work: Future[list[int]] | None = None

    def start(self, assignment_json: bytes) -> tuple[str, str]:
        """Start the worker; return the host's name and the node's id. Further calls do not start another worker.

        Raises:
            RequestError: the node has no GPU, although the worker needs one.
        """
        node = ray.get_runtime_context().get_node_id()
        if self._work is None:
            given = RemoteAssignment.model_validate_json(assignment_json)
            os.environ.update(given.environment)
            if given.folder.is_dir():
                os.chdir(given.folder)
            assignment = _with_node_limits(given, node)
            command = (*_SHELL, *(given.command or local.COMMAND))
            executor = ThreadPoolExecutor(1)
            self._work = executor.submit(local.run, [assignment], stopping=self._stopping, tell=self._events.put, command=command)
            self._work.add_done_callback(lambda _: self._events.put(None))
        return socket.gethostname(), node

    def next_events(self) -> tuple[list[str], int | None]:
        """Wait for the next events and return them as JSON, with the exit code after the last event."""
        assert self._work is not None
        events = [event.model_dump_json() for event in self._fetch(0.0 if self._work.done() else _LISTEN_SECONDS) if event is not None]
        is_over = self._work.done() and self._events.empty()
        return events, self._work.result()[0] if is_over else None

    def stop(self) -> None:
        """Ask the worker to suspend its trial and end."""
        self._stopping.ask()

    def kill(self) -> None:
        """End the worker at once."""
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


def _with_node_limits(given: RemoteAssignment, node: str) -> Assignment:
    """Return the assignment with the GPU share and the memory limit, which only the node knows."""
    resources: Mapping[str, float] = next((known["Resources"] for known in ray.nodes() if known["NodeID"] == node), {})
    num_workers = max(1, min(given.num_workers, given.share.num_in(resources)))
    memory_bytes = given.share.memory_bytes or local.fair_memory_bytes(num_workers)
    return given.assignment.model_copy(update={"gpu": _gpu_share(given.share), "memory_limit_bytes": memory_bytes})


def _gpu_share(share: NodeShare) -> GpuShare | None:
    """Return the share of the GPU that Ray gives to this process."""
    if not share.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return None
    found = gpus.find()
    if not found:
        cure = "install the NVIDIA driver there, or give --gpus-per-worker 0"
        raise RequestError(f"--gpus-per-worker is {share.gpus:g}, but nvidia-smi lists no GPU on {socket.gethostname()}; {cure}.")
    return gpus.part(found[0], share.gpus)
