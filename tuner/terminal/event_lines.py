"""Event lines: an event of a worker as one line, with colours on a terminal and plain in a log."""

import time

from rich.text import Text

from tuner import wording
from tuner.workers.worker import events
from tuner.workers.worker.events import Event, EventKind

#: events without a line on a terminal: the live view shows them already
_HIDDEN_LIVE = (EventKind.EPOCH, EventKind.STARTED, EventKind.PROMOTED, EventKind.ENDED)
#: events without a line in a log
_HIDDEN_PLAIN = (EventKind.EPOCH,)
_STYLES = {
    EventKind.COMPLETED: "good",
    EventKind.PRUNED: "quiet",
    EventKind.FAILED: "bad",
    EventKind.TROUBLE: "bad",
    EventKind.GAVE_UP: "bad",
    EventKind.REFUSED: "bad",
}


def plain(event: Event, *, is_best: bool) -> str | None:
    """Return the line of an event in a log, or None if it has none."""
    if event.what in _HIDDEN_PLAIN:
        return None
    return events.line(event) + (" (new best)" if is_best else "")


def styled(event: Event, *, is_best: bool) -> Text | None:
    """Return the line of an event above the live view, or None if it has none."""
    if event.what in _HIDDEN_LIVE:
        return None
    line = Text(time.strftime("%H:%M:%S  ", time.localtime(event.at)), style="quiet", no_wrap=True, overflow="ellipsis")
    subject = wording.worker(event.worker) if event.trial is None else f"trial {event.trial}"
    line.append(f"{subject:<10}", style="strong" if is_best else "")
    line.append(f"{event.what.value:<10}", style=_STYLES.get(event.what, ""))
    if event.value is not None:
        line.append(f" {event.value:.4f}", style="bold green" if is_best else "")
    if event.seconds is not None:
        line.append(f"  {event.seconds:.1f} s", style="quiet")
    if is_best:
        line.append("  new best", style="bold green")
    if event.message:
        line.append(f"  {event.message.splitlines()[0]}", style="quiet")
    return line
