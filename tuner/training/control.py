"""The worker's side of a trial, as whatever trains it sees it."""

from typing import Protocol

from tuner import messages


class Control(Protocol):
    """Takes what a trial has to tell, and says what becomes of it."""

    def send(self, message: messages.Message) -> None:
        """Tell the worker something."""

    def interruption(self) -> messages.Stop | messages.Suspend | None:
        """What the worker wants at once, if anything; it stays until the trial ends."""

    def decision(self) -> messages.Proceed | messages.Stop | messages.Suspend:
        """Wait for the worker's word after the probe."""
