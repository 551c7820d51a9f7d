"""The screen of `tuner watch`: a study live from the storage, with its workers and the curve of its best value."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from tuner import wording
from tuner.spec import plan as plans
from tuner.spec.study import AnyStudySpec
from tuner.studies.workers import WorkerRow
from tuner.terminal import live, printing
from tuner.views.status import FailedTrials, Snapshot

_BARS = "▁▂▃▄▅▆▇█"
_CURVE_LENGTH = 50
_BAR_LENGTH = 60
_LISTED_WORKERS = 12
_LISTED_FAILURES = 3


@dataclass(frozen=True, kw_only=True)
class WatchedStudy:
    """The state of a study at one moment."""

    snapshot: Snapshot
    workers: tuple[WorkerRow, ...]
    #: best value after each completed trial
    curve: tuple[float, ...]
    #: failed trials by kind, most frequent first
    failures: tuple[FailedTrials, ...]


class WatchScreen:
    """Draws the state of a study while it is used in a `with` block."""

    def __init__(self, spec: AnyStudySpec) -> None:
        self._spec = spec
        self._last: WatchedStudy | None = None
        self._live = Live(Text("reading the study …", style="quiet"), console=printing.stderr(), auto_refresh=False, transient=False)

    def __enter__(self) -> "WatchScreen":
        self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, seen: WatchedStudy | None, error: str) -> None:
        """Draw a state; if the database cannot be reached, draw the last state and the error."""
        self._last = seen or self._last
        parts = [] if self._last is None else list(_drawn(self._spec, self._last))
        foot = (
            Text(f"the database cannot be reached: {error}", style="bad") if error else Text("q quits; the study continues", style="quiet")
        )
        self._live.update(Group(*parts, Text(""), foot), refresh=True)


def sparkline(values: Sequence[float]) -> str:
    """Return values as bars of different heights; only the last ones if there are many."""
    shown = values[-_CURVE_LENGTH:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in shown)


def line(spec: AnyStudySpec, seen: WatchedStudy) -> str:
    """Return the state as one line of a log."""
    snapshot = seen.snapshot
    best = "" if snapshot.best_value is None else f", best {wording.figure(snapshot.best_value)} by trial {snapshot.best_number}"
    counts = f"{snapshot.num_completed} done, {snapshot.num_pruned} pruned, {snapshot.num_failed} failed, {len(snapshot.running)} running"
    ended = f", ended: {snapshot.stop_reason}" if is_over(seen) else ""
    return f"{spec.name} {counts}{best}, {wording.count(sum(worker.is_present for worker in seen.workers), 'worker')}{ended}"


def is_over(seen: WatchedStudy) -> bool:
    """Return whether the study has ended."""
    return seen.snapshot.stop_reason is not None and not seen.snapshot.running


def _drawn(spec: AnyStudySpec, seen: WatchedStudy) -> Sequence[RenderableType]:
    snapshot = seen.snapshot
    head = Text.assemble((spec.name, "strong"), (f"  {plans.budget(spec)}", "quiet"))
    if snapshot.eta_seconds is not None and snapshot.running:
        head.append(f"  ·  about {wording.duration(snapshot.eta_seconds)} left", style="quiet")
    part = live.spent_part(spec, snapshot)
    parts: list[RenderableType] = [head, ProgressBar(total=1.0, completed=part, width=_BAR_LENGTH), live.trial_counts(snapshot)]
    if snapshot.best_value is not None:
        parts += [Text(""), live.best_trial(spec, snapshot), Text(sparkline(seen.curve), style="cyan")]
    if snapshot.running:
        parts += [Text(""), live.running_trials(spec, snapshot.running)]
    present = [worker for worker in seen.workers if worker.is_present]
    if present:
        parts += [Text(""), _workers(present)]
    for failed in seen.failures[:_LISTED_FAILURES]:
        parts += [Text(""), *_failure(failed)]
    if is_over(seen):
        parts += [Text(""), Text(f"It ended because {str(snapshot.stop_reason).rstrip('.')}.", style="strong")]
    return parts


def _failure(failed: FailedTrials) -> Sequence[RenderableType]:
    """Show how many trials failed in one way, and the last line of the log."""
    head = Text.assemble(
        (failed.error or "unknown reason", "bad"),
        (f"  {wording.count(failed.num_trials, 'trial')}, the last is trial {failed.last_number}", "quiet"),
    )
    last = next((line for line in reversed((failed.log or failed.message).splitlines()) if line.strip()), "")
    # a log may contain control characters, which a terminal must not execute
    shown = "".join(letter if letter.isprintable() else " " for letter in last).strip()
    return [head, Text(f"  {shown}", no_wrap=True, overflow="ellipsis")] if shown else [head]


def _workers(present: Sequence[WorkerRow]) -> RenderableType:
    rows = printing.table("worker", "device", "memory", "request", right=("memory",))
    for worker in present[:_LISTED_WORKERS]:
        held = (worker.memory_bytes or 0) + (worker.trainer_memory_bytes or 0)
        asked = f"{worker.request.value} by {worker.requested_by}" if worker.request else ""
        rows.add_row(worker.name, worker.device or "starting", f"{held / 2**20:.0f} MiB", asked)
    if len(present) > _LISTED_WORKERS:
        rows.add_row(f"… {len(present) - _LISTED_WORKERS} more", style="quiet")
    return rows
