"""A running study on a terminal: news scroll by above, the state of things stays below.

How a running study is shown: a live view on a terminal, plain lines elsewhere.
"""

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
from tuner.spec.study import StudySpec
from tuner.terminal import news, plain, plan, printing
from tuner.views.status import RunningTrial, Snapshot
from tuner.workers.worker.events import Event, EventKind

#: running trials that have a row of their own
_LISTED_TRIALS = 16
_WIDEST_BAR = 60


class LiveScreen:
    """Draws snapshots and events of a study while it is inside a `with`."""

    def __init__(self, spec: StudySpec, address: str | None) -> None:
        self._spec = spec
        self._address = address
        self._began = time.monotonic()
        self._snapshot: Snapshot | None = None
        self._is_stopping = False
        self._warm: set[str] = set()
        self._live = Live(Text("starting the workers …", style="quiet"), console=printing.stderr(), auto_refresh=False, transient=True)

    def __enter__(self) -> "LiveScreen":
        self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.__exit__(kind, error, trace)

    def tell(self, event: Event, *, is_best: bool) -> None:
        """Let an event scroll by, if it is worth it."""
        if event.what is EventKind.READY:
            self._warm.add(event.worker)
        styled = news.styled(event, is_best=is_best)
        if styled is not None:
            self._live.console.print(styled)

    def show(self, snapshot: Snapshot) -> None:
        """Draw the state of things anew."""
        self._snapshot = snapshot
        self._live.update(self._draw(snapshot), refresh=True)

    def stopping(self) -> None:
        """Say that the end was asked for."""
        self._is_stopping = True
        if self._snapshot is not None:
            self.show(self._snapshot)

    def _draw(self, snapshot: Snapshot) -> RenderableType:
        parts: list[RenderableType] = [Text(""), self._headline(snapshot), self._bar(snapshot), counts(snapshot)]
        if snapshot.best_value is not None:
            parts += [Text(""), best(snapshot)]
        if snapshot.running:
            parts += [Text(""), running(snapshot.running)]
        elif not self._warm:
            parts += [Text(""), Text("the workers load the data and the backbone …", style="quiet")]
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
        part = spent(self._spec, snapshot)
        grid = Table.grid(padding=(0, 2, 0, 0))
        bar = ProgressBar(total=1.0, completed=part, width=_WIDEST_BAR, complete_style="cyan", finished_style="green")
        grid.add_row(bar, f"{part:.0%}")
        return grid

    def _footer(self) -> Text:
        if self._is_stopping:
            return Text("stopping: running trials are kept for the next run; Ctrl-C again kills", style="bad")
        where = f"dashboard {self._address}  ·  " if self._address else ""
        return Text(f"{where}Ctrl-C stops in order", style="quiet")


def spent(spec: StudySpec, snapshot: Snapshot) -> float:
    """The part of the budget that is spent: of trials or of time, whichever is further."""
    parts = [0.0]
    if spec.budget.trials:
        parts.append(snapshot.num_spent / spec.budget.trials)
    if spec.budget.timeout:
        parts.append(snapshot.busy_seconds / spec.budget.timeout)
    return min(1.0, max(parts))


def best(snapshot: Snapshot) -> RenderableType:
    """The best value with what makes it."""
    value, trial = wording.accuracy(snapshot.best_value), f"  trial {snapshot.best_number}"
    line = Text.assemble(("best ", "quiet"), (value, "bold green"), (trial, "quiet"))
    # a no-break space keeps a value with its name
    said = "  ".join(f"{name}\N{NO-BREAK SPACE}{wording.value(value)}" for name, value in _acting(snapshot))
    return Group(line, Text(said or "the rule that needs no search", style="quiet"))


def _acting(snapshot: Snapshot) -> Iterator[tuple[str, Any]]:
    """The best trial's parameters without the switches: what is switched off has no value."""
    return ((name, value) for name, value in snapshot.best_parameters.items() if not name.endswith(".on"))


def counts(snapshot: Snapshot) -> Text:
    """Trials by their states, in a line."""
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
        line.append(f"{snapshot.num_carried} of them carried over from {snapshot.carried_from}", style="quiet")
    return line


def running(trials: tuple[RunningTrial, ...]) -> RenderableType:
    """A row for each running trial."""
    rows = plan.table("trial", "worker", "stage", "epoch", "value", right=("trial", "epoch", "value"))
    for trial in trials[:_LISTED_TRIALS]:
        stage = trial.stage.value.replace("_", "-") if trial.stage else "building"
        rows.add_row(str(trial.number), wording.worker(trial.worker), stage, str(trial.epoch or ""), wording.accuracy(trial.value))
    if len(trials) > _LISTED_TRIALS:
        rows.add_row("", f"… {len(trials) - _LISTED_TRIALS} more", style="quiet")
    return rows


class Screen(Protocol):
    """Something that shows a study while it runs, inside a `with`."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def tell(self, event: Event, *, is_best: bool) -> None:
        """Something happened."""
        ...

    def show(self, snapshot: Snapshot) -> None:
        """This is how things are."""
        ...

    def stopping(self) -> None:
        """The end was asked for."""
        ...


class PlainScreen:
    """One line an event, for logs and for programs that read them."""

    def __init__(self, spec: StudySpec, address: str | None) -> None:
        self._name = spec.name
        self._address = address
        self._is_stopping = False

    def __enter__(self) -> Self:
        if self._address:
            plain.line(f"{self._name} dashboard at {self._address}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return

    def tell(self, event: Event, *, is_best: bool) -> None:
        """Print a line."""
        said = news.plain(event, is_best=is_best)
        if said is not None:
            plain.line(said)

    def show(self, snapshot: Snapshot) -> None:
        """Lines tell it all."""

    def stopping(self) -> None:
        """Say once that the end was asked for."""
        if not self._is_stopping:
            self._is_stopping = True
            plain.line(f"{self._name} stopping: running trials are kept for the next run")


class Throttled:
    """Calls something again and again, but not more often than it should be."""

    def __init__(self, act: Callable[[], None], *, every_seconds: float) -> None:
        self._act = act
        self._every_seconds = every_seconds
        self._due = 0.0

    def __call__(self) -> None:
        """Do it if it is time."""
        if time.monotonic() >= self._due:
            self._act()
            self._due = time.monotonic() + self._every_seconds


def choose(spec: StudySpec, address: str | None) -> Screen:
    """The screen for where stderr leads."""
    return LiveScreen(spec, address) if printing.stderr().is_terminal else PlainScreen(spec, address)
