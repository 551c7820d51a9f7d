"""Trials whose workers were lost with their nodes, into the time until which someone has to stay for them.

An address into a Ray cluster that this process has joined; without one, a Ray of this machine alone, for as long as it is needed.

Assignments into workers on the nodes of a Ray cluster: placed, listened to, placed again when their node dies, ended in order.

Ray gives each worker a place, an actor in which a `node.NodeWorker` starts it; the storage coordinates. Actors are not restarted by Ray but
replaced here: what a seat is to do goes straight to its node by a call, not through the cluster's own store, where the storage's password
would stay; and it is known here whether a worker is still needed.
"""

import logging
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from tuner import machine
from tuner.errors import RequestError
from tuner.studies import leases
from tuner.workers.engines.node import NodeShare, NodeWorker, RemoteAssignment
from tuner.workers.worker.events import Event, EventKind, Tell
from tuner.workers.worker.process import Assignment
from tuner.workers.worker.stopping import Stopping

#: after so long anyone may take up the trial of a worker of another host that was lost
VACANT_SECONDS = leases.LEASE_SECONDS + 5.0


class LostTrials:
    """The trials that a worker left when it died, until another has them.

    A worker that finds nothing to do while their leases last would end, and no one be there when they run out.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._vacant_at: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._vacant_at)

    def leave(self, trial: int) -> None:
        """Its worker is lost."""
        self._vacant_at[trial] = self._clock() + VACANT_SECONDS

    def take_up(self, trial: int) -> None:
        """Someone works on it."""
        self._vacant_at.pop(trial, None)

    def find_none(self) -> None:
        """A worker found nothing to do: what it could have taken up is not wanted any more."""
        now = self._clock()
        self._vacant_at = {trial: at for trial, at in self._vacant_at.items() if now < at}

    @property
    def last_at(self) -> float:
        """When all of them can be taken up, by the clock; now if there are none."""
        return max(self._vacant_at.values(), default=self._clock())


#: what starts a worker on a node; None: what starts it there anyway
COMMAND: tuple[str, ...] | None = None
#: the smallest object store that Ray takes; workers put nothing into it
_OBJECT_STORE_BYTES = 80 * 2**20
_CONNECT_SECONDS = 10.0
#: Ray reads these when it is imported
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # a process that asked for no GPU hides them by itself; without this, Ray warns that it will not do so forever
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def joined(address: str | None) -> Iterator[None]:
    """Be a driver of the cluster while a `with` block runs: of the one at `address` (`auto` or HOST:PORT), else of one that is ended then.

    Raises:
        RequestError: there is no cluster, or this machine is no part of it.
    """
    os.environ.update(_ENVIRONMENT)
    if address is None:
        with _started():
            yield
        return
    if address != "auto":
        _require(address)
    with _driver(address=address):
        yield


def nodes() -> list[Mapping[str, Any]]:
    """What Ray says of the nodes that are alive."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _require(address: str) -> None:
    """Refuse an address where nothing listens: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        raise RequestError(
            f"--address is {address}; expected auto, or HOST:PORT of the cluster's head. Run tuner on a node of the cluster."
        )
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RequestError(f"--address is {address}, but nothing answers there: {error}") from error


@contextmanager
def _started() -> Iterator[None]:
    """A Ray of this machine, on loopback, behind a token of its own."""
    # without this, Ray listens to other machines, too: it is what keeps it on loopback on Windows and macOS
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # not where TMPDIR says: the path of a socket has at most 107 characters
    with tempfile.TemporaryDirectory(prefix="tuner-ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        own = {"num_cpus": machine.num_cores(), "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
        with _driver(address="local", _temp_dir=folder, **own):
            yield


@contextmanager
def _driver(**options: Any) -> Iterator[None]:
    import ray
    from ray.exceptions import RayError

    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, RuntimeError, ValueError, RayError) as error:  # ConnectionError and TimeoutError are OSErrors
        where = "no Ray could be started here" if options["address"] == "local" else f"there is no Ray cluster at {options['address']}"
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RequestError(f"{where}: {said}") from error
    try:
        yield
    finally:
        ray.shutdown()


#: deaths of a worker's actor on a node that lives, with no trial ended in between, that are borne
_MAX_CRASHES = 3
_TICK_SECONDS = 0.25
#: a worker that has no place after so long waits for room; an actor starts in a second or two
_PATIENCE_SECONDS = 5.0
#: how long workers that are killed may take to be gone
_LEAVE_SECONDS = 10.0


def run(
    assignments: Sequence[Assignment], *, share: NodeShare, stopping: Stopping, tell: Tell, tick: Callable[[], None] = lambda: None
) -> list[int]:
    """Be there until every worker has ended; their exit codes. This process has joined a cluster.

    `tell` gets every event of every worker, `tick` is called a few times a second.
    """
    crew = _Crew(assignments, share, stopping, tell)
    try:
        while crew.is_at_work and not stopping.is_urgent:
            crew.listen()
            if stopping.is_asked:
                crew.stop()
            else:
                crew.wake()
                crew.tell_who_waits()
            tick()
    finally:
        crew.dismiss()
    return crew.codes


@dataclass
class _Hand:
    """One worker, and where it is."""

    assignment: Assignment
    #: its actor; None: it rests, because there is nothing to do yet
    seat: Any = None
    #: the reference of what its actor is to say next
    answer: Any = None
    #: its host and the id of its node; empty: it has no place yet
    host: str = ""
    node: str = ""
    #: when it was last asked for a place, or when its rest ends, by the monotonic clock
    at: float = 0.0
    crashes: int = 0
    #: exit code, once it has ended for good
    code: int | None = None
    #: the trial it is working on
    trial: int | None = None
    #: whether it handed a trial back though no one here asked it to
    was_stopped: bool = False


class _Crew:
    """The workers of a run."""

    def __init__(self, assignments: Sequence[Assignment], share: NodeShare, stopping: Stopping, tell: Tell) -> None:
        self._share = share
        self._stopping = stopping
        self._tell = tell
        self._actor = ray.remote(NodeWorker).options(
            num_cpus=share.cpus, num_gpus=share.gpus, max_restarts=0, max_concurrency=4, scheduling_strategy="SPREAD"
        )
        self._hands = [_Hand(assignment) for assignment in assignments]
        self._left = LostTrials()
        #: whether a worker found nothing more to do
        self._is_spent = False
        self._is_told_to_stop = False
        self._num_waiting = 0
        for hand in self._hands:
            self._seat(hand)

    @property
    def is_at_work(self) -> bool:
        """Whether a worker has not ended yet."""
        return any(hand.code is None for hand in self._hands)

    @property
    def codes(self) -> list[int]:
        """The exit codes; of a worker that was killed 1."""
        return [1 if hand.code is None else hand.code for hand in self._hands]

    def listen(self) -> None:
        """Take note of what the workers say within a tick."""
        by_answer = {hand.answer: hand for hand in self._hands if hand.answer is not None}
        if not by_answer:
            self._stopping.wait_for_more(_TICK_SECONDS)
            return
        answers, _ = ray.wait(list(by_answer), num_returns=len(by_answer), timeout=_TICK_SECONDS)
        for answer in answers:
            self._hear(by_answer[answer])

    def stop(self) -> None:
        """Ask those that work to end in order, once; those without a place are needed no more."""
        for hand in self._hands:
            if hand.code is None and not hand.host:
                self._leave(hand, 0)
            elif hand.code is None and not self._is_told_to_stop:
                hand.seat.stop.remote()
        self._is_told_to_stop = True

    def wake(self) -> None:
        """Let go of those that are needed no more; end the rest of those that are."""
        for hand in self._hands:
            if hand.code is not None or hand.host:
                continue
            if self._is_spent and not self._left:
                self._leave(hand, 0)
            elif hand.seat is None and time.monotonic() >= hand.at:
                self._seat(hand)

    def tell_who_waits(self) -> None:
        """Say it when the number of those changes for which the cluster has no room."""
        late = time.monotonic() - _PATIENCE_SECONDS
        num_waiting = sum(hand.seat is not None and not hand.host and hand.at < late for hand in self._hands)
        if num_waiting and num_waiting != self._num_waiting:
            message = f"{num_waiting} of {len(self._hands)} workers wait for room in the cluster; each takes {self._share}"
            self._tell(Event(what=EventKind.TROUBLE, study=self._hands[0].assignment.study, worker="ray", message=message))
        self._num_waiting = num_waiting

    def dismiss(self) -> None:
        """Leave nothing behind in the cluster."""
        left = [hand for hand in self._hands if hand.code is None and hand.seat is not None]
        killed = [hand.seat.kill.remote() for hand in left if hand.host]
        if killed:
            ray.wait(killed, num_returns=len(killed), timeout=_LEAVE_SECONDS)
        for hand in left:
            ray.kill(hand.seat)

    def _seat(self, hand: _Hand) -> None:
        """Ask for a place."""
        hand.host, hand.node, hand.trial, hand.was_stopped = "", "", None, False
        hand.at = time.monotonic()
        hand.seat = self._actor.remote()
        self._ask(hand)

    def _ask(self, hand: _Hand) -> None:
        if hand.host:
            hand.answer = hand.seat.listen.remote()
            return
        order = RemoteAssignment.here(hand.assignment, self._share, num_workers=len(self._hands), command=COMMAND)
        hand.answer = hand.seat.begin.remote(order.model_dump_json().encode())

    def _hear(self, hand: _Hand) -> None:
        try:
            said = ray.get(hand.answer)
        except ActorUnavailableError:
            self._ask(hand)  # it is cut off; Ray will say if it is gone
        except RayActorError as error:
            self._bury(hand, error)
        except RayTaskError as error:
            self._complain(hand, error)
        except RayError:
            self._ask(hand)  # the answer was lost on its way
        else:
            if hand.host:
                self._take_note(hand, *said)
            else:
                hand.host, hand.node = said
                self._ask(hand)

    def _take_note(self, hand: _Hand, told: list[str], code: int | None) -> None:
        for text in told:
            event = Event.model_validate_json(text)
            self._remember(hand, event)
            self._tell(event)
        if code is None:
            self._ask(hand)
        elif code or self._stopping.is_asked:
            self._leave(hand, code)
        elif hand.was_stopped:
            self._say(hand, EventKind.TROUBLE, f"the worker was stopped on {hand.host}; it is placed again")
            ray.kill(hand.seat)
            self._seat(hand)
        else:
            self._rest(hand)

    def _remember(self, hand: _Hand, event: Event) -> None:
        if event.trial is not None:
            self._left.take_up(event.trial)
            for other in self._hands:
                if other.trial == event.trial:  # its node died, which Ray has not noticed yet
                    other.trial = None
            hand.trial = event.trial
        if event.what.ends_attempt:
            hand.crashes = 0
            hand.trial = None
            hand.was_stopped = event.what is EventKind.SUSPENDED

    def _rest(self, hand: _Hand) -> None:
        """Let a worker go that found nothing to do; it is needed later if a trial is left whose worker may still be thought alive."""
        self._is_spent = True
        self._left.find_none()
        num_resting = sum(other.code is None and other.seat is None for other in self._hands)
        self._leave(hand, 0 if num_resting >= len(self._left) else None)
        hand.at = self._left.last_at

    def _bury(self, hand: _Hand, error: RayActorError) -> None:
        """Take note of an actor that is gone; ask for another."""
        if hand.trial is not None:
            self._left.leave(hand.trial)
        if self._stopping.is_asked:
            self._leave(hand, 1)
            return
        if not hand.node or any(node["NodeID"] == hand.node for node in nodes()):
            hand.crashes += 1
            how = f"its actor died ({str(error).strip().splitlines()[-1].strip()[:200]})"
        else:
            how = f"its node on {hand.host} died"
        if hand.crashes >= _MAX_CRASHES:
            self._say(hand, EventKind.GAVE_UP, f"{how}; it is not placed again")
            self._leave(hand, 1)
        else:
            self._say(hand, EventKind.TROUBLE, f"{how}; it is placed again")
            self._seat(hand)

    def _complain(self, hand: _Hand, error: RayTaskError) -> None:
        cause = error.cause
        what = EventKind.REFUSED if isinstance(cause, RequestError) else EventKind.GAVE_UP
        self._say(hand, what, str(cause) if what is EventKind.REFUSED else f"the worker cannot be started: {cause}")
        self._leave(hand, 1)

    def _say(self, hand: _Hand, what: EventKind, message: str) -> None:
        name = f"{hand.host}/{hand.assignment.worker}" if hand.host else hand.assignment.worker
        self._tell(Event(what=what, study=hand.assignment.study, worker=name, trial=hand.trial, message=message))

    def _leave(self, hand: _Hand, code: int | None) -> None:
        """Give the place of a worker back."""
        if hand.seat is not None:
            ray.kill(hand.seat)
        hand.seat = hand.answer = None
        hand.host = hand.node = ""
        hand.code = code
