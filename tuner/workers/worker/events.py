"""What happens in a worker, as values that a screen, a log or another process can use.

What a worker does, told as events with the names of its study and itself on each.
"""

import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tuner.protocol import messages
from tuner.protocol.messages import Stage


class EventKind(StrEnum):
    """Each thing worth a line in a log."""

    #: the worker's child is warm
    READY = "ready"
    STARTED = "started"
    #: a trial goes on from an earlier attempt
    RESUMED = "resumed"
    EPOCH = "epoch"
    #: the probe was good enough for fine-tuning
    PROMOTED = "promoted"
    COMPLETED = "completed"
    PRUNED = "pruned"
    FAILED = "failed"
    #: a trial was handed back for later
    SUSPENDED = "suspended"
    #: a trial was given to another worker meanwhile, so that this attempt does not count
    LOST = "lost"
    #: what a worker that is gone had left came to the storage
    DELIVERED = "delivered"
    #: the child was replaced
    REPLACED = "replaced"
    #: something is wrong that the worker bears for now
    TROUBLE = "trouble"
    #: the worker has no more to do
    ENDED = "ended"
    #: the request cannot be worked on at all; the message is an error's
    REFUSED = "refused"
    #: the worker cannot go on; the message says why
    GAVE_UP = "gave up"

    @property
    def ends_worker(self) -> bool:
        """Whether it is the last that a worker says."""
        return self in (EventKind.ENDED, EventKind.REFUSED, EventKind.GAVE_UP)

    @property
    def ends_attempt(self) -> bool:
        """Whether the worker is done with its trial for now."""
        return self in (EventKind.COMPLETED, EventKind.PRUNED, EventKind.FAILED, EventKind.SUSPENDED, EventKind.LOST, EventKind.DELIVERED)


class Event(BaseModel):
    """One happening, with what is known of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    what: EventKind
    study: str
    worker: str
    trial: int | None = None
    stage: Stage | None = None
    #: counted from 1 through both stages
    step: int | None = None
    #: best validation accuracy so far
    value: float | None = None
    #: that the happening took
    seconds: float | None = None
    message: str = ""
    #: seconds since the epoch
    at: float = Field(default_factory=time.time)


Tell = Callable[[Event], None]


def line(event: Event) -> str:
    """An event as one line of a log: study and trial first, then what happened, then its numbers."""
    subject = event.study if event.trial is None else f"{event.study} trial {event.trial}"
    stage = "" if event.stage is None else f" {event.stage.value.replace('_', '-')}"
    step = "" if event.step is None else f" epoch {event.step}"
    value = "" if event.value is None else f" value {event.value:.4f}"
    seconds = "" if event.seconds is None else f" {event.seconds:.1f} s"
    message = f": {_one_line(event.message)}" if event.message else ""
    return f"{subject} {event.what.value}{stage}{step}{value}{seconds}{message} [{event.worker}]"


def _one_line(text: str) -> str:
    return " | ".join(part.strip() for part in text.splitlines() if part.strip())


class EventEmitter:
    """Tells events of one worker; the same trouble in a row is told once."""

    def __init__(self, study: str, worker: str, tell: Tell) -> None:
        self._study = study
        self._worker = worker
        self._tell = tell
        self._last_trouble = ""

    def say(self, what: EventKind, trial: int | None = None, **known: Any) -> None:
        """Tell one happening; `known` are fields of Event."""
        self._tell(Event(what=what, study=self._study, worker=self._worker, trial=trial, **known))

    def ready(self, prepared: messages.Prepared, departures: Sequence[str]) -> None:
        """Tell that the trainer is warm, and what differs here from what an exported config was trained with."""
        self.say(EventKind.READY, seconds=prepared.seconds, message=prepared.device)
        for departure in departures:
            self.trouble(departure)

    def trouble(self, message: str, trial: int | None = None) -> None:
        """Tell of something that is borne for now."""
        if message != self._last_trouble:
            self._last_trouble = message
            self.say(EventKind.TROUBLE, trial, message=message)
