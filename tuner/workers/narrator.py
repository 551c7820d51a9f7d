"""What a worker does, told as events with the names of its study and itself on each."""

from collections.abc import Sequence
from typing import Any

from tuner import messages
from tuner.workers.events import Event, Happening, Tell


class Narrator:
    """Tells events of one worker; the same trouble in a row is told once."""

    def __init__(self, study: str, worker: str, tell: Tell) -> None:
        self._study = study
        self._worker = worker
        self._tell = tell
        self._last_trouble = ""

    def say(self, what: Happening, trial: int | None = None, **known: Any) -> None:
        """Tell one happening; `known` are fields of Event."""
        self._tell(Event(what=what, study=self._study, worker=self._worker, trial=trial, **known))

    def ready(self, prepared: messages.Prepared, departures: Sequence[str]) -> None:
        """Tell that the trainer is warm, and what differs here from what an exported config was trained with."""
        self.say(Happening.READY, seconds=prepared.seconds, message=prepared.device)
        for departure in departures:
            self.trouble(departure)

    def trouble(self, message: str, trial: int | None = None) -> None:
        """Tell of something that is borne for now."""
        if message != self._last_trouble:
            self._last_trouble = message
            self.say(Happening.TROUBLE, trial, message=message)
