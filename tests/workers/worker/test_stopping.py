"""Stopping by signals and closed pipes."""

import os
import signal
import socket
from multiprocessing.connection import Connection

import pytest

from tuner.workers.worker.stopping import Stopping, on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_asks_to_stop_and_a_second_one_is_urgent(number: signal.Signals) -> None:
    stopping = Stopping()
    with on_signals(stopping):
        os.kill(os.getpid(), number)
        assert (stopping.is_asked, stopping.is_urgent) == (True, False)
        os.kill(os.getpid(), number)
        assert stopping.is_urgent


def test_waiting_for_more_ends_when_stopping_becomes_urgent() -> None:
    stopping = Stopping()
    assert not stopping.wait_for_more(0.0)
    stopping.ask()
    assert not stopping.wait_for_more(0.0)
    stopping.ask()
    assert stopping.wait_for_more(60.0)


def test_signal_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGINT)
    with on_signals(Stopping()):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_a_closed_pipe_asks_to_stop_once() -> None:
    ours, theirs = socket.socketpair()
    stopping = Stopping()
    pipe = Connection(ours.detach())
    thread = stopping.ask_when_closed(pipe)
    theirs.close()
    thread.join(10)
    assert (stopping.is_asked, stopping.is_urgent) == (True, False)
    pipe.close()


def test_a_message_through_the_pipe_asks_to_stop_and_its_end_is_not_urgent() -> None:
    ours, theirs = socket.socketpair()
    stopping = Stopping()
    pipe, parent = Connection(ours.detach()), Connection(theirs.detach())
    thread = stopping.ask_when_closed(pipe)
    parent.send_bytes(b"stop")
    assert stopping.wait(10)
    parent.close()
    thread.join(10)
    assert not stopping.is_urgent
    pipe.close()
