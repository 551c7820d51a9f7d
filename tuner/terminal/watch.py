"""A study as it stands in the storage, on a terminal: what a run shows live, with its workers and the curve of its best value."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from tuner import wording
from tuner.spec import plan as plans
from tuner.spec.study import StudySpec
from tuner.studies.workers import WorkerRow
from tuner.terminal import live, plan, printing
from tuner.views.failures import FailedTrials
from tuner.views.status import Snapshot

_BARS = "▁▂▃▄▅▆▇█"
_CURVE_LENGTH = 50
_BAR_LENGTH = 60
_LISTED_WORKERS = 12
_LISTED_TROUBLES = 3


@dataclass(frozen=True, kw_only=True)
class WatchedStudy:
    """One look at a study."""

    snapshot: Snapshot
    workers: tuple[WorkerRow, ...]
    #: best value after each trial that ended
    curve: tuple[float, ...]
    #: failed trials by kind, the most frequent first
    troubles: tuple[FailedTrials, ...]


class WatchScreen:
    """Draws looks at a study while it is inside a `with`."""

    def __init__(self, spec: StudySpec) -> None:
        self._spec = spec
        self._last: WatchedStudy | None = None
        self._live = Live(Text("looking …", style="quiet"), console=printing.stderr(), auto_refresh=False, transient=False)

    def __enter__(self) -> "WatchScreen":
        self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, seen: WatchedStudy | None, away: str) -> None:
        """Draw a look, or, where the database is away, the last one and that it is."""
        self._last = seen or self._last
        parts = [] if self._last is None else list(_drawn(self._spec, self._last))
        foot = Text(f"the database is away: {away}", style="bad") if away else Text("q ends watching, not the study", style="quiet")
        self._live.update(Group(*parts, Text(""), foot), refresh=True)


def sparkline(values: Sequence[float]) -> str:
    """Values as bars of different heights, the last ones where there are many."""
    shown = values[-_CURVE_LENGTH:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in shown)


def line(spec: StudySpec, seen: WatchedStudy) -> str:
    """A look as one line of a log."""
    snapshot = seen.snapshot
    best = "" if snapshot.best_value is None else f", best {snapshot.best_value:.4f} by trial {snapshot.best_number}"
    counts = f"{snapshot.num_completed} done, {snapshot.num_pruned} pruned, {snapshot.num_failed} failed, {len(snapshot.running)} running"
    ended = f", ended: {snapshot.stop_reason}" if is_over(seen) else ""
    return f"{spec.name} {counts}{best}, {wording.count(sum(worker.is_present for worker in seen.workers), 'worker')}{ended}"


def is_over(seen: WatchedStudy) -> bool:
    """Whether nothing more will happen."""
    return seen.snapshot.stop_reason is not None and not seen.snapshot.running


def _drawn(spec: StudySpec, seen: WatchedStudy) -> Sequence[RenderableType]:
    snapshot = seen.snapshot
    head = Text.assemble((spec.name, "strong"), (f"  {plans.budget(spec)}", "quiet"))
    if snapshot.eta_seconds is not None and snapshot.running:
        head.append(f"  ·  about {wording.duration(snapshot.eta_seconds)} left", style="quiet")
    part = live.spent(spec, snapshot)
    parts: list[RenderableType] = [head, ProgressBar(total=1.0, completed=part, width=_BAR_LENGTH), live.counts(snapshot)]
    if snapshot.best_value is not None:
        parts += [Text(""), live.best(snapshot), Text(sparkline(seen.curve), style="cyan")]
    if snapshot.running:
        parts += [Text(""), live.running(snapshot.running)]
    present = [worker for worker in seen.workers if worker.is_present]
    if present:
        parts += [Text(""), _workers(present)]
    for trouble in seen.troubles[:_LISTED_TROUBLES]:
        parts += [Text(""), *_failure(trouble)]
    if is_over(seen):
        parts += [Text(""), Text(f"It ended because {snapshot.stop_reason}.", style="strong")]
    return parts


def _failure(trouble: FailedTrials) -> Sequence[RenderableType]:
    """How often one kind of failure was seen, and the last line that it left."""
    head = Text.assemble(
        (trouble.error or "no reason is stored", "bad"),
        (f"  {wording.count(trouble.num_trials, 'trial')}, the last is trial {trouble.last_number}", "quiet"),
    )
    last = next((line for line in reversed((trouble.log or trouble.message).splitlines()) if line.strip()), "")
    # whatever a log holds, a terminal obeys none of it
    shown = "".join(letter if letter.isprintable() else " " for letter in last).strip()
    return [head, Text(f"  {shown}", no_wrap=True, overflow="ellipsis")] if shown else [head]


def _workers(present: Sequence[WorkerRow]) -> RenderableType:
    rows = plan.table("at work", "on", "memory", "asked to", right=("memory",))
    for worker in present[:_LISTED_WORKERS]:
        held = (worker.memory_bytes or 0) + (worker.trainer_memory_bytes or 0)
        asked = f"{worker.request.value} by {worker.requested_by}" if worker.request else ""
        rows.add_row(worker.name, worker.device or "starting", f"{held / 2**20:.0f} MiB", asked)
    if len(present) > _LISTED_WORKERS:
        rows.add_row(f"… {len(present) - _LISTED_WORKERS} more", style="quiet")
    return rows
