"""Signals and closed pipes, into how urgently a worker stops."""

import os
import signal
import socket
from multiprocessing.connection import Connection

import pytest

from tuner.workers.worker.stopping import Stopping, on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_asks_and_a_second_one_hurries(number: signal.Signals) -> None:
    stopping = Stopping()
    with on_signals(stopping):
        os.kill(os.getpid(), number)
        assert (stopping.is_asked, stopping.is_urgent) == (True, False)
        os.kill(os.getpid(), number)
        assert stopping.is_urgent


def test_a_wait_for_more_ends_when_the_hurry_grows() -> None:
    stopping = Stopping()
    assert not stopping.wait_for_more(0.0)
    stopping.ask()
    assert not stopping.wait_for_more(0.0)
    stopping.ask()
    assert stopping.wait_for_more(60.0)


def test_signals_are_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)
    with on_signals(Stopping()):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_a_closed_pipe_asks_once() -> None:
    ours, theirs = socket.socketpair()
    stopping = Stopping()
    pipe = Connection(ours.detach())
    thread = stopping.ask_when_closed(pipe)
    theirs.close()
    thread.join(10)
    assert (stopping.is_asked, stopping.is_urgent) == (True, False)
    pipe.close()


def test_a_word_through_the_pipe_asks_and_the_end_of_the_pipe_does_not_hurry() -> None:
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
