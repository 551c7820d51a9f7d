"""Studies in a storage into the screens of `tuner status` and `tuner best`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tuner import wording
from tuner.results.best import Best
from tuner.search import plan as plans
from tuner.search.progress import Snapshot
from tuner.spec import StudySpec
from tuner.terminal import live, plan


def many(found: Sequence[tuple[StudySpec, Snapshot]]) -> RenderableType:
    """A row for each study."""
    rows = plan.table("study", "state", "trials", "running", "best", "worked", right=("trials", "running", "best"))
    for spec, snapshot in found:
        most = spec.budget.trials
        trials = f"{snapshot.num_spent} of {most}" if most else str(snapshot.num_ended)
        worked = wording.duration(snapshot.busy_seconds)
        rows.add_row(spec.name, _state(snapshot), trials, str(len(snapshot.running)), wording.accuracy(snapshot.best_value), worked)
    return rows


def one(spec: StudySpec, snapshot: Snapshot) -> RenderableType:
    """How one study stands."""
    parts: list[RenderableType] = [
        Text.assemble((spec.name, "strong"), ("  " + plans.budget(spec), "quiet")),
        *(Text(line, style="quiet") for line in plans.retraining(spec)),
        live.counts(snapshot),
    ]
    if snapshot.best_value is not None:
        parts += [Text(""), live.best(snapshot)]
    if snapshot.running:
        parts += [Text(""), live.running(snapshot.running)]
    parts += [Text(""), Text(_outlook(snapshot), style="quiet")]
    return Group(*parts)


def best(found: Best) -> RenderableType:
    """The best trial of a study."""
    measured = "validation accuracy" if found.spec.training.images == "train" else "accuracy on images that it trained on"
    lines = Text.assemble((found.spec.name, "strong"), f"  trial {found.trial}, {measured} ", (wording.accuracy(found.value), "bold green"))
    if found.test_accuracy is not None:
        low, high = wording.wilson(found.test_accuracy, found.num_test)
        lines.append(f"\ntest accuracy {found.test_accuracy:.4f} on {found.num_test:,} images, 95 % interval {low:.3f} to {high:.3f}")
    if found.rule_value is not None and found.trial != 0:
        lines.append(f"\ntrial 0, the rule that needs no search: {found.rule_value:.4f}", style="quiet")
    rows = Table.grid(padding=(0, 3, 0, 0))
    rows.add_column(style="quiet", no_wrap=True)
    rows.add_column(overflow="fold")
    for name, value in flat(found.hyperparameters.model_dump()).items():
        rows.add_row(name, wording.value(value))
    return Group(lines, Text(""), rows)


def as_json(spec: StudySpec, snapshot: Snapshot) -> dict[str, Any]:
    """A study's standing for a program."""
    return {
        "study": spec.name,
        "budget": spec.budget.model_dump(mode="json"),
        **dataclasses.asdict(snapshot),
        "running": [dataclasses.asdict(running) for running in snapshot.running],
    }


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """Nested values under names with dots."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= {f"{name}.{inner}": given for inner, given in value.items()} if isinstance(value, dict) else {name: value}
    return found


def _state(snapshot: Snapshot) -> str:
    if snapshot.running:
        return "running"
    return "done" if snapshot.stop_reason and not snapshot.num_waiting else "idle"


def _outlook(snapshot: Snapshot) -> str:
    if snapshot.stop_reason and not snapshot.running and not snapshot.num_waiting:
        return f"It ended because {snapshot.stop_reason}."
    waiting = f"{wording.count(snapshot.num_waiting, 'trial')} to be gone on with; " if snapshot.num_waiting else ""
    if snapshot.eta_seconds is None:
        return f"{waiting}{wording.duration(snapshot.busy_seconds)} of work so far"
    return f"{waiting}{wording.duration(snapshot.busy_seconds)} of work so far, about {wording.duration(snapshot.eta_seconds)} left"
