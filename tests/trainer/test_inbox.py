"""The inbox in its own process, which exits when the worker is gone."""

import sys
from collections.abc import Iterator

import pytest

from tests.trainer import child
from tuner.protocol import messages
from tuner.spec.hyperparameters import Hyperparameters

#: answers Train with the word it waited for, Evaluate with whether it is interrupted
ECHO = """
import sys
from multiprocessing.connection import Connection
from tuner.protocol import messages
from tuner.trainer import inbox

box = inbox.Inbox(Connection(int(sys.argv[1])))
while not isinstance(order := box.order(), messages.Quit):
    if isinstance(order, messages.Train):
        said = box.decision().kind
    elif isinstance(order, messages.Evaluate):
        said = str(box.interruption())
    else:
        said = order.spec
    box.send(messages.Failed(trial=None, error=said, message=""))
"""
TRAIN = messages.Train(trial=1, hyperparameters=Hyperparameters(), seed=1, weights="w", checkpoint="c")
EVALUATE = messages.Evaluate(trial=1, hyperparameters=Hyperparameters(), weights="w")


@pytest.fixture
def echo() -> Iterator[child.Child]:
    with child.start([sys.executable, "-c", ECHO]) as process:
        yield process


def said(echo: child.Child) -> str:
    answer = echo.receive()
    assert isinstance(answer, messages.Failed)
    return answer.error


@pytest.mark.parametrize("word", [messages.Proceed(), messages.Stop(), messages.Suspend()])
def test_the_trial_waits_for_the_decision_after_the_probe(echo: child.Child, word: messages.Message) -> None:
    echo.send(TRAIN)
    echo.send(word)
    assert said(echo) == word.kind


def test_a_message_for_the_previous_trial_is_dropped(echo: child.Child) -> None:
    message: messages.Message
    for message in (messages.Stop(), messages.Proceed(), EVALUATE):
        echo.send(message)
    assert said(echo) == "None"
    for message in (messages.Suspend(), TRAIN, messages.Proceed()):
        echo.send(message)
    assert said(echo) == "proceed"


def test_orders_are_carried_out_in_the_order_of_arrival(echo: child.Child) -> None:
    for number in range(5):
        echo.send(messages.Prepare(spec=str(number), cache="c"))
    assert [said(echo) for _ in range(5)] == list("01234")


def test_the_process_ends_when_the_worker_is_gone(echo: child.Child) -> None:
    echo.send(TRAIN)
    echo.pipe.close()
    assert echo.process.wait(30) == 0


def test_the_process_ends_when_told_to(echo: child.Child) -> None:
    echo.send(messages.Quit())
    assert echo.process.wait(30) == 0
