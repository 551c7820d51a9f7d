"""The worker port: the worker as the trainer sees it while it trains a trial."""

from typing import Protocol

from tuner.protocol import messages


class WorkerPort(Protocol):
    """Takes reports about a trial and passes on what the worker decides about it."""

    def send(self, message: messages.Message) -> None:
        """Send a message to the worker."""

    def interruption(self) -> messages.Stop | messages.Suspend | None:
        """Return the worker's request to end the trial now, if there is one; it stays until the trial ends."""

    def decision(self) -> messages.Proceed | messages.Stop | messages.Suspend:
        """Wait for the worker's decision after the probe."""
