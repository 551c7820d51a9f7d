"""Events: everything that happens in a worker, as values for a screen, a log or another process."""

import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tuner import wording
from tuner.protocol import messages
from tuner.protocol.messages import Stage


class EventKind(StrEnum):
    """The kinds of events; each is one line of a log."""

    #: the trainer can train
    READY = "ready"
    STARTED = "started"
    #: a trial continues after an earlier attempt
    RESUMED = "resumed"
    EPOCH = "epoch"
    #: the probe was good enough for fine-tuning
    PROMOTED = "promoted"
    COMPLETED = "completed"
    PRUNED = "pruned"
    FAILED = "failed"
    #: the trial was released for another worker
    SUSPENDED = "suspended"
    #: the trial was given to another worker meanwhile, so this attempt does not count
    LOST = "lost"
    #: reports that an ended worker left on disk were delivered to the storage
    DELIVERED = "delivered"
    #: the trainer was replaced
    REPLACED = "replaced"
    #: a warning about the images, which every worker of the study finds
    WARNING = "warning"
    #: a warning: something is wrong, and the worker continues
    TROUBLE = "trouble"
    #: the worker has nothing more to do
    ENDED = "ended"
    #: the request is wrong; the message is the error's
    REFUSED = "refused"
    #: the worker cannot continue; the message says why
    GAVE_UP = "gave up"

    @property
    def ends_worker(self) -> bool:
        """Whether it is the last event of a worker."""
        return self in (EventKind.ENDED, EventKind.REFUSED, EventKind.GAVE_UP)

    @property
    def ends_attempt(self) -> bool:
        """Whether the worker's attempt at a trial is over."""
        return self in (EventKind.COMPLETED, EventKind.PRUNED, EventKind.FAILED, EventKind.SUSPENDED, EventKind.LOST, EventKind.DELIVERED)


class Event(BaseModel):
    """One event; a field that does not apply is None or empty."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    what: EventKind
    study: str
    worker: str
    trial: int | None = None
    stage: Stage | None = None
    #: counted from 1 through both stages
    step: int | None = None
    #: best value so far of the metric of the study
    value: float | None = None
    #: duration
    seconds: float | None = None
    message: str = ""
    #: seconds since the epoch
    at: float = Field(default_factory=time.time)


#: receives events
Tell = Callable[[Event], None]


def line(event: Event) -> str:
    """Return an event as one line of a log: study and trial, what happened, figures, message, worker."""
    subject = event.study if event.trial is None else f"{event.study} trial {event.trial}"
    stage = "" if event.stage is None else f" {event.stage.value.replace('_', '-')}"
    step = "" if event.step is None else f" epoch {event.step}"
    value = "" if event.value is None else f" value {wording.figure(event.value)}"
    seconds = "" if event.seconds is None else f" {event.seconds:.1f} s"
    message = f": {_one_line(event.message)}" if event.message else ""
    return f"{subject} {event.what.value}{stage}{step}{value}{seconds}{message} [{event.worker}]"


def _one_line(text: str) -> str:
    return " | ".join(part.strip() for part in text.splitlines() if part.strip())


class EventEmitter:
    """Emits the events of one worker; of equal warnings in a row, only the first."""

    def __init__(self, study: str, worker: str, tell: Tell) -> None:
        self._study = study
        self._worker = worker
        self._tell = tell
        self._last_warning = ""

    def emit(self, what: EventKind, trial: int | None = None, **fields: Any) -> None:
        """Emit an event; `fields` are further fields of `Event`."""
        self._tell(Event(what=what, study=self._study, worker=self._worker, trial=trial, **fields))

    def ready(self, prepared: messages.Prepared, departures: Sequence[str]) -> None:
        """Emit that the trainer is ready, and warnings: of its images, and of differences from an exported study."""
        self.emit(EventKind.READY, seconds=prepared.seconds, message=prepared.device)
        for warning in prepared.warnings:
            self.emit(EventKind.WARNING, message=warning)
        for departure in departures:
            self.warn(departure)

    def warn(self, message: str, trial: int | None = None) -> None:
        """Emit a warning."""
        if message != self._last_warning:
            self._last_warning = message
            self.emit(EventKind.TROUBLE, trial, message=message)


def once(tell: Tell) -> Tell:
    """Return a function that passes events on, and equal warnings about the images only once, whichever worker finds them."""
    told: set[str] = set()

    def tell_new(event: Event) -> None:
        if event.what is EventKind.WARNING:
            if event.message in told:
                return
            told.add(event.message)
        tell(event)

    return tell_new


def log_line(event: Event, *, is_best: bool) -> str | None:
    """Return the line of an event in a log, or None if it has none."""
    if event.what is EventKind.EPOCH:
        return None
    return line(event) + (" (new best)" if is_best else "")
