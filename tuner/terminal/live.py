"""A running study on the screen of `tuner run`: a live view on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tuner import wording
from tuner.spec import plan as plans
from tuner.spec.study import AnyStudySpec, StudySpec
from tuner.spec.tasks import OBJECTIVE
from tuner.terminal import plain, printing
from tuner.views.status import RunningTrial, Snapshot
from tuner.workers.worker import events
from tuner.workers.worker.events import Event, EventKind

#: number of running trials with a row of their own
_LISTED_TRIALS = 16
_WIDEST_BAR = 60
#: events without a line on a terminal: the live view shows them already
_HIDDEN = (EventKind.EPOCH, EventKind.STARTED, EventKind.PROMOTED, EventKind.ENDED)
_STYLES = {
    EventKind.COMPLETED: "good",
    EventKind.PRUNED: "quiet",
    EventKind.FAILED: "bad",
    EventKind.WARNING: "bad",
    EventKind.TROUBLE: "bad",
    EventKind.GAVE_UP: "bad",
    EventKind.REFUSED: "bad",
}


class Screen(Protocol):
    """Something that shows a study while it runs, inside a `with` block."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def show_event(self, event: Event, *, is_best: bool) -> None:
        """Show an event of a worker."""
        ...

    def show(self, snapshot: Snapshot) -> None:
        """Show the current state of the study."""
        ...

    def show_stopping(self) -> None:
        """Show that someone asked the run to stop."""
        ...


def open_screen(spec: AnyStudySpec, link: str | None) -> Screen:
    """Return the screen for a terminal or a file, whichever stderr is; `link` is the dashboard's."""
    return LiveScreen(spec, link) if printing.stderr().is_terminal else PlainScreen(spec, link)


class LiveScreen:
    """Shows a study on a terminal: events scroll by above, the current state stays below."""

    def __init__(self, spec: AnyStudySpec, link: str | None) -> None:
        self._spec = spec
        self._link = link
        self._began = time.monotonic()
        self._snapshot: Snapshot | None = None
        self._is_stopping = False
        #: workers that have loaded the data
        self._ready: set[str] = set()
        self._live = Live(Text("starting the workers …", style="quiet"), console=printing.stderr(), auto_refresh=False, transient=True)

    def __enter__(self) -> "LiveScreen":
        self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.__exit__(kind, error, trace)

    def show_event(self, event: Event, *, is_best: bool) -> None:
        """Print the line of an event, if it has one, above the current state."""
        if event.what is EventKind.READY:
            self._ready.add(event.worker)
        styled = _styled(event, is_best=is_best)
        if styled is not None:
            self._live.console.print(styled)

    def show(self, snapshot: Snapshot) -> None:
        """Draw the current state of the study."""
        self._snapshot = snapshot
        self._live.update(self._draw(snapshot), refresh=True)

    def show_stopping(self) -> None:
        """Show from now on that someone asked the run to stop."""
        self._is_stopping = True
        if self._snapshot is not None:
            self.show(self._snapshot)

    def _draw(self, snapshot: Snapshot) -> RenderableType:
        parts: list[RenderableType] = [
            Text(""),
            self._headline(snapshot),
            self._bar(snapshot),
            trial_counts(snapshot),
            *time_plan(snapshot),
        ]
        if snapshot.best_value is not None:
            parts += [Text(""), best_trial(self._spec, snapshot)]
        if snapshot.running:
            parts += [Text(""), running_trials(self._spec, snapshot.running)]
        elif not self._ready:
            what = "the data and the backbone" if isinstance(self._spec, StudySpec) else "the code of the study"
            parts += [Text(""), Text(f"the workers load {what} …", style="quiet")]
        parts.append(Text(""))
        parts.append(self._footer())
        return Group(*parts)

    def _headline(self, snapshot: Snapshot) -> Text:
        line = Text.assemble((self._spec.name, "strong"))
        line.append(f"  {plans.budget(self._spec)}  ·  {wording.duration(time.monotonic() - self._began)}", style="quiet")
        if snapshot.eta_seconds is not None and snapshot.running:
            line.append(f"  ·  about {wording.duration(snapshot.eta_seconds)} left", style="quiet")
        return line

    def _bar(self, snapshot: Snapshot) -> RenderableType:
        part = spent_part(self._spec, snapshot)
        grid = Table.grid(padding=(0, 2, 0, 0))
        bar = ProgressBar(total=1.0, completed=part, width=_WIDEST_BAR, complete_style="cyan", finished_style="green")
        grid.add_row(bar, f"{part:.0%}")
        return grid

    def _footer(self) -> Text:
        if self._is_stopping:
            return Text("stopping: the next run resumes the running trials; Ctrl-C again kills them", style="bad")
        where = f"dashboard {self._link}  ·  " if self._link else ""
        return Text(f"{where}Ctrl-C stops the study; the next run resumes it", style="quiet")


class PlainScreen:
    """Shows a study as one line per event, for logs and for programs that read them."""

    def __init__(self, spec: AnyStudySpec, link: str | None) -> None:
        self._name = spec.name
        self._link = link
        self._is_stopping = False

    def __enter__(self) -> Self:
        if self._link:
            plain.line(f"{self._name} dashboard at {self._link}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return

    def show_event(self, event: Event, *, is_best: bool) -> None:
        """Print the line of an event, if it has one."""
        line = events.log_line(event, is_best=is_best)
        if line is not None:
            plain.line(line)

    def show(self, snapshot: Snapshot) -> None:
        """Print nothing: the lines of the events say everything."""

    def show_stopping(self) -> None:
        """Print once that someone asked the run to stop."""
        if not self._is_stopping:
            self._is_stopping = True
            plain.line(f"{self._name} stopping: the next run resumes the running trials")


class Throttled:
    """Calls a function, but at most once per interval."""

    def __init__(self, act: Callable[[], None], *, every_seconds: float) -> None:
        self._act = act
        self._every_seconds = every_seconds
        self._due = 0.0

    def __call__(self) -> None:
        """Call the function if the interval has passed since the last call."""
        if time.monotonic() >= self._due:
            self._act()
            self._due = time.monotonic() + self._every_seconds


def spent_part(spec: AnyStudySpec, snapshot: Snapshot) -> float:
    """Return which part of the budget is spent, from 0 to 1: the larger of the parts of the trials and of the time."""
    parts = [0.0]
    if spec.budget.trials:
        parts.append(snapshot.num_spent / spec.budget.trials)
    if spec.budget.timeout:
        parts.append(snapshot.busy_seconds / spec.budget.timeout)
    return min(1.0, max(parts))


def best_trial(spec: AnyStudySpec, snapshot: Snapshot) -> RenderableType:
    """Show the best value so far, and the hyperparameters of its trial."""
    value, trial = wording.figure(snapshot.best_value), f" {plans.metric(spec)}  trial {snapshot.best_number}"
    line = Text.assemble(("best ", "quiet"), (value, "bold green"), (trial, "quiet"))
    # a no-break space keeps a value on the line of its name
    searched = "  ".join(f"{name}\N{NO-BREAK SPACE}{wording.value(value)}" for name, value in _acting(spec, snapshot))
    if not searched and isinstance(spec, StudySpec) and spec.retraining is None:
        searched = "the rule, without search"
    return Group(line, *([Text(searched, style="quiet")] if searched else []))


def _acting(spec: AnyStudySpec, snapshot: Snapshot) -> Iterator[tuple[str, Any]]:
    """Give the best trial's parameters without the switches of images: a hyperparameter that is switched off has no value."""
    has_switches = isinstance(spec, StudySpec)
    return ((name, value) for name, value in snapshot.best_parameters.items() if not (has_switches and name.endswith(".on")))


def trial_counts(snapshot: Snapshot) -> Text:
    """Show the numbers of trials in each state on one line."""
    line = Text()
    for name, number, style in (
        ("done", snapshot.num_completed, "good"),
        ("pruned", snapshot.num_pruned, "value"),
        ("failed", snapshot.num_failed, "bad"),
        ("running", len(snapshot.running), "strong"),
    ):
        line.append(f"{name} ", style="quiet")
        line.append(f"{number}   ", style=style if number else "quiet")
    if snapshot.num_carried:
        line.append(f"{snapshot.num_carried} of them copied from {snapshot.carried_from}", style="quiet")
    return line


def time_plan(snapshot: Snapshot) -> list[Text]:
    """Show what was planned for the time of a study, and what became of it."""
    return [Text(f"{name}: {text}", style="quiet") for name, text in snapshot.time_plan]


def running_trials(spec: AnyStudySpec, trials: tuple[RunningTrial, ...]) -> RenderableType:
    """Show one row for each running trial."""
    metric, step = spec.objective.metric.replace("_", " ") if isinstance(spec, StudySpec) else spec.objective.metric, _step(spec)
    step += f" of all {trainings}" if (trainings := plans.trainings(spec)) else ""
    rows = printing.table("trial", "worker", "stage", step, metric, right=("trial", step, metric))
    for trial in trials[:_LISTED_TRIALS]:
        stage = trial.stage.value.replace("_", "-") if trial.stage else "building" if isinstance(spec, StudySpec) else "starting"
        at = "" if trial.epoch is None else str(trial.epoch)
        rows.add_row(str(trial.number), wording.worker(trial.worker), stage, at, wording.figure(trial.value))
    if len(trials) > _LISTED_TRIALS:
        rows.add_row("", f"… {len(trials) - _LISTED_TRIALS} more", style="quiet")
    return rows


def _step(spec: AnyStudySpec) -> str:
    return "step" if spec.task == OBJECTIVE else "epoch"


def _styled(event: Event, *, is_best: bool) -> Text | None:
    """Return the line of an event above the live view, or None if it has none."""
    if event.what in _HIDDEN:
        return None
    line = Text(time.strftime("%H:%M:%S  ", time.localtime(event.at)), style="quiet", no_wrap=True, overflow="ellipsis")
    subject = wording.worker(event.worker) if event.trial is None else f"trial {event.trial}"
    line.append(f"{subject:<10}", style="strong" if is_best else "")
    line.append(f"{event.what.value:<10}", style=_STYLES.get(event.what, ""))
    if event.value is not None:
        line.append(f" {wording.figure(event.value)}", style="bold green" if is_best else "")
    if event.seconds is not None:
        line.append(f"  {event.seconds:.1f} s", style="quiet")
    if is_best:
        line.append("  new best", style="bold green")
    if event.message:
        line.append(f"  {event.message.splitlines()[0]}", style="quiet")
    return line
