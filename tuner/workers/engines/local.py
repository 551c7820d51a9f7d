"""Local engine: runs several workers on this machine, receives their events, and replaces workers that crash."""

import contextlib
import os
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
from tuner.workers.worker import trainer
from tuner.workers.worker.events import Event, EventKind, Tell
from tuner.workers.worker.process import Assignment
from tuner.workers.worker.stopping import Stopping

#: command that starts a worker; the file descriptor of its pipe is appended
COMMAND: tuple[str, ...] = (sys.executable, *trainer.PYTHON, "tuner.workers.worker.process")
#: crashes of one worker, without an ended trial in between, after which it is given up
_MAX_CRASHES = 3
#: part of the machine's memory that all workers together may use
_MEMORY_SHARE = 0.8
_TICK_SECONDS = 0.25
#: time limit for a worker to end after it has closed its pipe
_LEAVE_SECONDS = 10.0


@dataclass
class _WorkerProcess:
    """A worker process, and its state since its last crash."""

    assignment: Assignment
    command: tuple[str, ...]
    process: subprocess.Popen[bytes]
    pipe: Connection
    #: how long it may take to end once it has closed its pipe
    leave_seconds: float
    crashes: int = 0
    #: exit code, once the worker has ended and is not replaced
    code: int | None = None
    #: number of its current trial
    trial: int | None = None
    #: whether its last event said that it ends
    has_ended: bool = False


def fair_threads(num_workers: int) -> int:
    """Return the threads of each worker if `num_workers` share the cores of this process."""
    return max(1, machine.num_cores() // num_workers)


def fair_memory_bytes(num_workers: int) -> int:
    """Return the memory of each worker if `num_workers` share this machine or container."""
    return int(machine.memory_bytes() * _MEMORY_SHARE / num_workers)


def run(
    assignments: Sequence[Assignment],
    *,
    stopping: Stopping,
    tell: Tell,
    tick: Callable[[], None] = lambda: None,
    command: Sequence[str] | None = None,
    leave_seconds: float = _LEAVE_SECONDS,
) -> list[int]:
    """Run workers until all of them have ended, and return their exit codes.

    `tell` receives every event of every worker; `tick` is called a few times a second; `command` replaces `COMMAND`. A worker that does
    not end within `leave_seconds` after it has closed its pipe is killed.
    """
    workers = [_start(assignment, tuple(command or COMMAND), leave_seconds) for assignment in assignments]
    is_asked_to_stop = False
    try:
        while any(worker.code is None for worker in workers):
            _receive_events(workers, stopping, tell)
            if stopping.is_asked and not is_asked_to_stop:
                is_asked_to_stop = True
                _ask_to_stop(workers)
            if stopping.is_urgent:
                break
            tick()
    finally:
        for worker in workers:
            _end(worker)
    return [worker.code if worker.code is not None else 1 for worker in workers]


def _start(assignment: Assignment, command: tuple[str, ...], leave_seconds: float) -> _WorkerProcess:
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
            env=trainer.child_environment(os.environ),
        )
    pipe = Connection(ours.detach())
    with contextlib.suppress(OSError):  # a process that has ended by now is handled like one that crashes later
        pipe.send_bytes(assignment.model_dump_json().encode())
    return _WorkerProcess(assignment=assignment, command=command, process=process, pipe=pipe, leave_seconds=leave_seconds)


def _receive_events(workers: list[_WorkerProcess], stopping: Stopping, tell: Tell) -> None:
    by_pipe = {worker.pipe: worker for worker in workers if worker.code is None}
    for pipe in connection.wait(list(by_pipe), _TICK_SECONDS):
        assert isinstance(pipe, Connection)
        worker = by_pipe[pipe]
        try:
            event = Event.model_validate_json(pipe.recv_bytes())
        except (EOFError, OSError):
            _handle_exit(worker, stopping, tell)
            continue
        _note_event(worker, event)
        tell(event)


def _note_event(worker: _WorkerProcess, event: Event) -> None:
    worker.has_ended = event.what.ends_worker
    if event.what.ends_attempt:
        worker.crashes = 0
        worker.trial = None
    elif event.trial is not None:
        worker.trial = event.trial


def _handle_exit(worker: _WorkerProcess, stopping: Stopping, tell: Tell) -> None:
    """Handle the end of a process; start the worker again if it crashed."""
    code = _wait_for_exit(worker, stopping)
    worker.pipe.close()
    if worker.has_ended or stopping.is_asked:
        worker.code = code
        return
    worker.crashes += 1
    if worker.crashes >= _MAX_CRASHES:
        tell(_crash_event(worker, code, EventKind.GAVE_UP, "tuner does not restart it"))
        worker.code = code or 1
        return
    tell(_crash_event(worker, code, EventKind.TROUBLE, "tuner restarts it"))
    fresh = _start(worker.assignment, worker.command, worker.leave_seconds)
    worker.process, worker.pipe, worker.trial = fresh.process, fresh.pipe, None


def _wait_for_exit(worker: _WorkerProcess, stopping: Stopping) -> int:
    """Return the exit code of a worker that has closed its pipe; kill it if it does not end."""
    deadline = time.monotonic() + worker.leave_seconds
    while not stopping.is_urgent and time.monotonic() < deadline:
        try:
            return worker.process.wait(_TICK_SECONDS)
        except subprocess.TimeoutExpired:
            pass
    _kill(worker.process)
    return worker.process.wait()


def _crash_event(worker: _WorkerProcess, code: int, what: EventKind, then: str) -> Event:
    how = f"signal {-code}" if code < 0 else f"exit code {code}; see {worker.assignment.log}"
    return Event(
        what=what,
        study=worker.assignment.study,
        worker=worker.assignment.worker,
        trial=worker.trial,
        message=f"the worker crashed ({how}); {then}",
    )


def _ask_to_stop(workers: list[_WorkerProcess]) -> None:
    for worker in workers:
        if worker.code is None:
            try:
                worker.pipe.send_bytes(b"stop")
            except OSError:
                pass  # it has just ended


def _end(worker: _WorkerProcess) -> None:
    """Kill a worker if it still runs."""
    if worker.process.poll() is None:
        _kill(worker.process)
    worker.pipe.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a worker and its trainer."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        children = []
    process.kill()
    process.wait()
    for child in children:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            pass
