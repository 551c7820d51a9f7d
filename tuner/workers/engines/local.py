"""Several workers on this machine: started, listened to, replaced when they crash, ended in order."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection

import psutil

from tuner import machine
from tuner.workers.worker.events import Event, EventKind, Tell
from tuner.workers.worker.process import Assignment
from tuner.workers.worker.stopping import Stopping

#: what starts a worker; the number of its pipe comes after it
COMMAND: tuple[str, ...] = (sys.executable, "-m", "tuner.workers.worker.process")
#: crashes of one worker, with no trial ended in between, that are borne
_MAX_CRASHES = 3
#: part of the memory that its workers may take together
_MEMORY_SHARE = 0.8
_TICK_SECONDS = 0.25
#: how long a worker that has closed its pipe may take to leave
_LEAVE_SECONDS = 10.0


@dataclass
class _Hand:
    """One worker process, and what it did since it last crashed."""

    assignment: Assignment
    command: tuple[str, ...]
    process: subprocess.Popen[bytes]
    pipe: Connection
    crashes: int = 0
    #: exit code, once it has ended for good
    code: int | None = None
    #: the trial it is working on
    trial: int | None = None
    #: whether it said that it has nothing more to do
    has_ended: bool = False


def fair_threads(num_workers: int) -> int:
    """Threads for each of `num_workers` that share the cores this process may use."""
    return max(1, machine.num_cores() // num_workers)


def fair_memory_bytes(num_workers: int) -> int:
    """Memory for each of `num_workers` that share this machine, or what a container grants of it."""
    return int(machine.memory_bytes() * _MEMORY_SHARE / num_workers)


def run(
    assignments: Sequence[Assignment],
    *,
    stopping: Stopping,
    tell: Tell,
    tick: Callable[[], None] = lambda: None,
    command: Sequence[str] | None = None,
) -> list[int]:
    """Be there until every worker has ended; their exit codes.

    `tell` gets every event of every worker, `tick` is called a few times a second. `command` takes the place of `COMMAND`.
    """
    hands = [_start(assignment, tuple(command or COMMAND)) for assignment in assignments]
    is_told_to_stop = False
    try:
        while any(hand.code is None for hand in hands):
            _listen(hands, stopping, tell)
            if stopping.is_asked and not is_told_to_stop:
                is_told_to_stop = True
                _ask_to_stop(hands)
            if stopping.is_urgent:
                break
            tick()
    finally:
        for hand in hands:
            _end(hand)
    return [hand.code if hand.code is not None else 1 for hand in hands]


def _start(assignment: Assignment, command: tuple[str, ...]) -> _Hand:
    ours, theirs = socket.socketpair()
    assignment.log.parent.mkdir(parents=True, exist_ok=True)
    with theirs, assignment.log.open("ab") as log:
        process = subprocess.Popen(
            [*command, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    pipe = Connection(ours.detach())
    pipe.send_bytes(assignment.model_dump_json().encode())
    return _Hand(assignment=assignment, command=command, process=process, pipe=pipe)


def _listen(hands: list[_Hand], stopping: Stopping, tell: Tell) -> None:
    by_pipe = {hand.pipe: hand for hand in hands if hand.code is None}
    for pipe in connection.wait(list(by_pipe), _TICK_SECONDS):
        assert isinstance(pipe, Connection)
        hand = by_pipe[pipe]
        try:
            event = Event.model_validate_json(pipe.recv_bytes())
        except (EOFError, OSError):
            _bury(hand, stopping, tell)
            continue
        _remember(hand, event)
        tell(event)


def _remember(hand: _Hand, event: Event) -> None:
    hand.has_ended = event.what.ends_worker
    if event.what.ends_attempt:
        hand.crashes = 0
        hand.trial = None
    elif event.trial is not None:
        hand.trial = event.trial


def _bury(hand: _Hand, stopping: Stopping, tell: Tell) -> None:
    """Take note of an ended worker; start it anew if it ended without a word."""
    code = _await_end(hand, stopping)
    hand.pipe.close()
    if hand.has_ended or stopping.is_asked:
        hand.code = code
        return
    hand.crashes += 1
    if hand.crashes >= _MAX_CRASHES:
        tell(_obituary(hand, code, EventKind.GAVE_UP, "it is not started again"))
        hand.code = code or 1
        return
    tell(_obituary(hand, code, EventKind.TROUBLE, "it is started again"))
    fresh = _start(hand.assignment, hand.command)
    hand.process, hand.pipe, hand.trial = fresh.process, fresh.pipe, None


def _await_end(hand: _Hand, stopping: Stopping) -> int:
    """Exit code of a worker whose pipe is closed; one that does not leave is killed."""
    deadline = time.monotonic() + _LEAVE_SECONDS
    while not stopping.is_urgent and time.monotonic() < deadline:
        try:
            return hand.process.wait(_TICK_SECONDS)
        except subprocess.TimeoutExpired:
            pass
    _kill(hand.process)
    return hand.process.wait()


def _obituary(hand: _Hand, code: int, what: EventKind, then: str) -> Event:
    how = f"signal {-code}" if code < 0 else f"exit code {code}; see {hand.assignment.log}"
    return Event(
        what=what,
        study=hand.assignment.study,
        worker=hand.assignment.worker,
        trial=hand.trial,
        message=f"the worker crashed ({how}); {then}",
    )


def _ask_to_stop(hands: list[_Hand]) -> None:
    for hand in hands:
        if hand.code is None:
            try:
                hand.pipe.send_bytes(b"stop")
            except OSError:
                pass  # it has just ended by itself


def _end(hand: _Hand) -> None:
    """Leave nothing of a worker behind."""
    if hand.process.poll() is None:
        _kill(hand.process)
    hand.pipe.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a worker, its trainer too."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        family = []
    process.kill()
    process.wait()
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            pass
