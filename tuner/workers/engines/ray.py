"""Ray engine: places workers on the nodes of a Ray cluster, receives their events, and replaces workers whose node dies.

Each worker runs in an actor of its own, a `node.NodeWorker`. This module replaces lost actors itself, because only the engine knows whether
a worker is still needed. The assignment goes to the node in a call: in the cluster's own store, the storage's password would remain.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from tuner.errors import RequestError
from tuner.studies import leases
from tuner.workers.engines import cluster
from tuner.workers.engines.node import NodeShare, NodeWorker, RemoteAssignment
from tuner.workers.worker.events import Event, EventKind, Tell
from tuner.workers.worker.process import Assignment
from tuner.workers.worker.stopping import Stopping

#: command that starts a worker on a node; None: the node's default
COMMAND: tuple[str, ...] | None = None
#: deaths of an actor on a living node, without an ended trial in between, after which the worker is given up
_MAX_CRASHES = 3
_TICK_SECONDS = 0.25
#: time after which an actor that does not start counts as waiting for free resources; usually it starts in a second or two
_WAITING_SECONDS = 5.0
#: time limit for killed workers to end
_LEAVE_SECONDS = 10.0


def run(
    assignments: Sequence[Assignment], *, share: NodeShare, stopping: Stopping, tell: Tell, tick: Callable[[], None] = lambda: None
) -> list[int]:
    """Run workers until all of them have ended, and return their exit codes; this process must have joined a cluster.

    `tell` receives every event of every worker; `tick` is called a few times a second.
    """
    workers = _RemoteWorkers(assignments, share, stopping, tell)
    try:
        while workers.is_running and not stopping.is_urgent:
            workers.receive()
            if stopping.is_asked:
                workers.stop()
            else:
                workers.revive()
                workers.report_waiting()
            tick()
    finally:
        workers.close()
    return workers.codes


@dataclass
class _RemoteWorker:
    """A worker and its actor."""

    assignment: Assignment
    #: None while the worker is idle because there is no trial for it yet
    actor: Any = None
    #: reference to the next answer of the actor
    answer: Any = None
    #: its host and the id of its node; "" before the actor has started
    host: str = ""
    node: str = ""
    #: when its actor was requested, or when the idle worker tries again, by the monotonic clock
    at: float = 0.0
    crashes: int = 0
    #: exit code, once the worker has ended and is not replaced
    code: int | None = None
    #: number of its current trial
    trial: int | None = None
    #: whether it suspended a trial although this process did not ask it to stop
    was_stopped: bool = False


class _RemoteWorkers:
    """All workers of a run."""

    def __init__(self, assignments: Sequence[Assignment], share: NodeShare, stopping: Stopping, tell: Tell) -> None:
        self._share = share
        self._stopping = stopping
        self._tell = tell
        self._actor_class = ray.remote(NodeWorker).options(
            num_cpus=share.cpus, num_gpus=share.gpus, max_restarts=0, max_concurrency=4, scheduling_strategy="SPREAD"
        )
        self._workers = [_RemoteWorker(assignment) for assignment in assignments]
        self._lost_trials = LostTrials()
        #: whether a worker has found nothing more to do
        self._is_out_of_work = False
        self._is_asked_to_stop = False
        self._num_waiting = 0
        for worker in self._workers:
            self._place(worker)

    @property
    def is_running(self) -> bool:
        """Whether a worker has not ended yet."""
        return any(worker.code is None for worker in self._workers)

    @property
    def codes(self) -> list[int]:
        """The exit codes; 1 for a worker that was killed."""
        return [1 if worker.code is None else worker.code for worker in self._workers]

    def receive(self) -> None:
        """Handle the answers that arrive within a tick."""
        by_answer = {worker.answer: worker for worker in self._workers if worker.answer is not None}
        if not by_answer:
            self._stopping.wait_for_more(_TICK_SECONDS)
            return
        answers, _ = ray.wait(list(by_answer), num_returns=len(by_answer), timeout=_TICK_SECONDS)
        for answer in answers:
            self._take_answer(by_answer[answer])

    def stop(self) -> None:
        """Ask the running workers to stop, once; end those without a running actor."""
        for worker in self._workers:
            if worker.code is None and not worker.host:
                self._remove(worker, 0)
            elif worker.code is None and not self._is_asked_to_stop:
                worker.actor.stop.remote()
        self._is_asked_to_stop = True

    def revive(self) -> None:
        """End the idle workers when no lost trial remains; place those whose waiting time is over."""
        for worker in self._workers:
            if worker.code is not None or worker.host:
                continue
            if self._is_out_of_work and not self._lost_trials:
                self._remove(worker, 0)
            elif worker.actor is None and time.monotonic() >= worker.at:
                self._place(worker)

    def report_waiting(self) -> None:
        """Warn when the number of workers changes that wait for free resources of the cluster."""
        late = time.monotonic() - _WAITING_SECONDS
        num_waiting = sum(worker.actor is not None and not worker.host and worker.at < late for worker in self._workers)
        if num_waiting and num_waiting != self._num_waiting:
            message = f"{num_waiting} of {len(self._workers)} workers wait for free resources in the cluster; each needs {self._share}"
            self._tell(Event(what=EventKind.TROUBLE, study=self._workers[0].assignment.study, worker="ray", message=message))
        self._num_waiting = num_waiting

    def close(self) -> None:
        """Kill all remaining workers and actors."""
        remaining = [worker for worker in self._workers if worker.code is None and worker.actor is not None]
        killed = [worker.actor.kill.remote() for worker in remaining if worker.host]
        if killed:
            ray.wait(killed, num_returns=len(killed), timeout=_LEAVE_SECONDS)
        for worker in remaining:
            ray.kill(worker.actor)

    def _place(self, worker: _RemoteWorker) -> None:
        """Start an actor for a worker."""
        worker.host, worker.node, worker.trial, worker.was_stopped = "", "", None, False
        worker.at = time.monotonic()
        worker.actor = self._actor_class.remote()
        self._request(worker)

    def _request(self, worker: _RemoteWorker) -> None:
        if worker.host:
            worker.answer = worker.actor.next_events.remote()
            return
        assignment = RemoteAssignment.here(worker.assignment, self._share, num_workers=len(self._workers), command=COMMAND)
        worker.answer = worker.actor.start.remote(assignment.model_dump_json().encode())

    def _take_answer(self, worker: _RemoteWorker) -> None:
        try:
            answer = ray.get(worker.answer)
        except ActorUnavailableError:
            self._request(worker)  # it cannot be reached; Ray reports later whether it has died
        except RayActorError as error:
            self._handle_death(worker, error)
        except RayTaskError as error:
            self._handle_refusal(worker, error)
        except RayError:
            self._request(worker)  # the answer was lost
        else:
            if worker.host:
                self._take_events(worker, *answer)
            else:
                worker.host, worker.node = answer
                self._request(worker)

    def _take_events(self, worker: _RemoteWorker, events: list[str], code: int | None) -> None:
        for text in events:
            event = Event.model_validate_json(text)
            self._note_event(worker, event)
            self._tell(event)
        if code is None:
            self._request(worker)
        elif code or self._stopping.is_asked:
            self._remove(worker, code)
        elif worker.was_stopped:
            self._emit(worker, EventKind.TROUBLE, f"the worker was stopped on {worker.host}; tuner restarts it")
            ray.kill(worker.actor)
            self._place(worker)
        else:
            self._make_idle(worker)

    def _note_event(self, worker: _RemoteWorker, event: Event) -> None:
        if event.trial is not None:
            self._lost_trials.remove(event.trial)
            for other in self._workers:
                if other.trial == event.trial:  # its node has died, which Ray has not noticed yet
                    other.trial = None
            worker.trial = event.trial
        if event.what.ends_attempt:
            worker.crashes = 0
            worker.trial = None
            worker.was_stopped = event.what is EventKind.SUSPENDED

    def _make_idle(self, worker: _RemoteWorker) -> None:
        """End a worker that found nothing to do, unless a lost trial becomes vacant later; then it is idle until then."""
        self._is_out_of_work = True
        self._lost_trials.expire()
        num_idle = sum(other.code is None and other.actor is None for other in self._workers)
        self._remove(worker, 0 if num_idle >= len(self._lost_trials) else None)
        worker.at = self._lost_trials.all_vacant_at

    def _handle_death(self, worker: _RemoteWorker, error: RayActorError) -> None:
        """Replace an actor that has died, or give the worker up after too many crashes."""
        if worker.trial is not None:
            self._lost_trials.add(worker.trial)
        if self._stopping.is_asked:
            self._remove(worker, 1)
            return
        if not worker.node or any(node["NodeID"] == worker.node for node in cluster.nodes()):
            worker.crashes += 1
            how = f"its actor died ({str(error).strip().splitlines()[-1].strip()[:200]})"
        else:
            how = f"its node on {worker.host} died"
        if worker.crashes >= _MAX_CRASHES:
            self._emit(worker, EventKind.GAVE_UP, f"{how}; tuner does not restart it")
            self._remove(worker, 1)
        else:
            self._emit(worker, EventKind.TROUBLE, f"{how}; tuner restarts it")
            self._place(worker)

    def _handle_refusal(self, worker: _RemoteWorker, error: RayTaskError) -> None:
        cause = error.cause
        what = EventKind.REFUSED if isinstance(cause, RequestError) else EventKind.GAVE_UP
        self._emit(worker, what, str(cause) if what is EventKind.REFUSED else f"the worker cannot be started: {cause}")
        self._remove(worker, 1)

    def _emit(self, worker: _RemoteWorker, what: EventKind, message: str) -> None:
        name = f"{worker.host}/{worker.assignment.worker}" if worker.host else worker.assignment.worker
        self._tell(Event(what=what, study=worker.assignment.study, worker=name, trial=worker.trial, message=message))

    def _remove(self, worker: _RemoteWorker, code: int | None) -> None:
        """Kill the actor of a worker; with an exit code, the worker has ended."""
        if worker.actor is not None:
            ray.kill(worker.actor)
        worker.actor = worker.answer = None
        worker.host = worker.node = ""
        worker.code = code


class LostTrials:
    """The trials of workers that died, until other workers claim them.

    Without this record, all remaining workers could end while the leases of these trials last, and nobody would resume them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, timing: leases.LeaseTiming | None = None) -> None:
        self._clock = clock
        self._vacant_seconds = (timing or leases.timing()).vacant_seconds
        self._vacant_at: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._vacant_at)

    def add(self, trial: int) -> None:
        """Add the trial of a lost worker."""
        self._vacant_at[trial] = self._clock() + self._vacant_seconds

    def remove(self, trial: int) -> None:
        """Remove a trial that another worker trains."""
        self._vacant_at.pop(trial, None)

    def expire(self) -> None:
        """Remove the trials that a worker could have claimed, because it found nothing to do."""
        now = self._clock()
        self._vacant_at = {trial: at for trial, at in self._vacant_at.items() if now < at}

    @property
    def all_vacant_at(self) -> float:
        """Time from which all of them can be claimed, by the clock; now if there are none."""
        return max(self._vacant_at.values(), default=self._clock())
