"""The inbox: messages from the worker, sorted into orders for later and interruptions of the current trial."""

import os
import threading
from collections import deque
from multiprocessing.connection import Connection

from tuner.errors import TrainingError
from tuner.protocol import messages

#: orders that the trainer carries out one after another
Order = messages.Prepare | messages.Train | messages.Evaluate | messages.Predict | messages.Quit


class Inbox:
    """Reads the pipe in its own thread, so that a message can interrupt a trial in the middle of an epoch.

    The process exits when the worker has ended, because nobody would receive its results.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._orders: deque[Order] = deque()
        self._proceed: messages.Proceed | None = None
        self._interruption: messages.Stop | messages.Suspend | None = None
        self._answers: deque[messages.Answer] = deque()
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def send(self, message: messages.Message) -> None:
        """Send a message to the worker.

        Raises:
            TrainingError: this process is a copy that user code forked; nothing would read the answer.
        """
        if os.getpid() != self._process:
            raise TrainingError(
                "the code forked a process that reports or asks for values; only the process that called the function may do so",
                kind="ForkedProcess",
            )
        try:
            self._pipe.send_bytes(messages.encode(message))
        except OSError:
            os._exit(0)

    def order(self) -> Order:
        """Wait for the next order."""
        with self._changed:
            self._changed.wait_for(lambda: self._orders)
            return self._orders.popleft()

    def interruption(self) -> messages.Stop | messages.Suspend | None:
        """Return the worker's request to end the trial now, if there is one."""
        return self._interruption

    def decision(self) -> messages.Proceed | messages.Stop | messages.Suspend:
        """Wait for the worker's decision after the probe."""
        with self._changed:
            self._changed.wait_for(lambda: self._proceed or self._interruption)
            decision = self._interruption or self._proceed
        assert decision is not None
        return decision

    def ask(self, question: messages.Ask | messages.AskPruning) -> messages.Answer | messages.Stop | messages.Suspend:
        """Ask the worker, and wait for its answer, or for its request to end the trial."""
        with self._changed:
            self._answers.clear()
        self.send(question)
        with self._changed:
            self._changed.wait_for(lambda: self._answers or self._interruption)
            return self._interruption or self._answers.popleft()

    def _read(self) -> None:
        while True:
            try:
                message = messages.decode(self._pipe.recv_bytes())
            except (EOFError, OSError):
                os._exit(0)
            with self._changed:
                self._sort(message)
                self._changed.notify_all()

    def _sort(self, message: messages.Message) -> None:
        if isinstance(message, messages.Proceed):
            self._proceed = message
        elif isinstance(message, messages.Answer):
            self._answers.append(message)
        elif isinstance(message, messages.Stop | messages.Suspend):
            self._interruption = message
        elif isinstance(message, messages.Prepare | messages.Train | messages.Evaluate | messages.Predict | messages.Quit):
            # these were meant for the previous trial and came too late
            self._proceed = self._interruption = None
            self._orders.append(message)
