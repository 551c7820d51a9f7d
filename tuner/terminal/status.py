"""Studies in a storage into the screens of `tuner status` and `tuner best`.

A study that has ended into one screen: what was found, what it cost, what to do next.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tuner import wording
from tuner.results import statistics
from tuner.results.best import Best
from tuner.spec import plan as plans
from tuner.spec.study import StudySpec
from tuner.terminal import live, plan
from tuner.views.status import Snapshot


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
        low, high = statistics.accuracy_interval(found.test_accuracy, found.num_test)
        lines.append(f"\ntest accuracy {found.test_accuracy:.4f} on {found.num_test:,} images, 95 % interval {low:.3f} to {high:.3f}")
    if found.rule_value is not None and found.trial != 0:
        lines.append(f"\ntrial 0, the rule that needs no search: {found.rule_value:.4f}", style="quiet")
    rows = Table.grid(padding=(0, 3, 0, 0))
    rows.add_column(style="quiet", no_wrap=True)
    rows.add_column(overflow="fold")
    for name, value in wording.flatten(found.hyperparameters.model_dump()).items():
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


@dataclass(frozen=True, kw_only=True)
class Found:
    """The winner, and what it is seen against."""

    trial: int
    value: float
    #: hyperparameters that differ from trial 0's: name, the rule's, the winner's
    changes: Sequence[tuple[str, object, object]]
    #: value of trial 0; None if it has none
    rule_value: float | None
    #: accuracy on the test split; None if it was not measured
    test_accuracy: float | None
    num_test: int


def found(what: Found, num_completed: int) -> RenderableType:
    """The value, its honest test, and what the search changed."""
    line = Text("best   ", style="quiet")
    line.append(f"{what.value:.4f}", style="bold green")
    line.append(f" validation accuracy, trial {what.trial}")
    parts: list[RenderableType] = [line]
    if what.test_accuracy is not None:
        low, high = statistics.accuracy_interval(what.test_accuracy, what.num_test)
        images = f" on {what.num_test:,} images never seen; 95 % interval {low:.3f} to {high:.3f}"
        parts.append(Text.assemble(("test   ", "quiet"), (f"{what.test_accuracy:.4f}", "strong"), images))
    if num_completed > 1:
        parts.append(Text(f"The validation number is the luckiest of {num_completed}; expect the test number.", style="quiet"))
    parts += [Text(""), *_against_rule(what)]
    return plan.headed("Found", *parts)


def cost(snapshot: Snapshot, wall_seconds: float) -> RenderableType:
    """Time, and trials by how they ended."""
    rows = Table.grid(padding=(0, 3, 0, 0))
    rows.add_column(style="quiet", no_wrap=True)
    rows.add_column()
    worked = wording.duration(snapshot.busy_seconds)
    rows.add_row("time", f"{wording.duration(wall_seconds)} for this run; the study was worked on for {worked} in all")
    rows.add_row("trials", f"{snapshot.num_completed} completed, {snapshot.num_pruned} pruned, {snapshot.num_failed} failed")
    probes, fine_tuning = wording.duration(snapshot.probe_seconds), wording.duration(snapshot.fine_tune_seconds)
    rows.add_row("training", f"{probes} in probes, {fine_tuning} in fine-tuning")
    return plan.headed("Cost", rows)


def next_steps(study: str, file: Path, exported: Path | None, reason: str) -> RenderableType:
    """Why it ended, and commands that go on from here."""
    steps = [(f"tuner status {study}", "how it stands"), ("tuner dashboard", "curves, importances, timeline in a browser")]
    if exported is not None:
        steps.insert(0, (f"tuner run {exported}", "train the best config again, as a study of one trial"))
    else:
        steps.insert(0, (f"tuner export {study} --to best.yaml", "keep the best config"))
    steps.append((f"tuner run {file} --trials N", "search on, with a larger budget"))
    rows = Table.grid(padding=(0, 3, 0, 0))
    rows.add_column(style="value", overflow="fold")
    rows.add_column(style="quiet")
    for command, meaning in steps:
        rows.add_row(command, meaning)
    ended = [Text(f"It ended because {reason}.", style="quiet")] if reason else []
    kept = [Text(f"The best config is in {exported}.")] if exported is not None else []
    return plan.headed("Next", *ended, *kept, rows)


def differences(rule: dict[str, Any], winner: dict[str, Any]) -> list[tuple[str, object, object]]:
    """Hyperparameters, flattened with dots, whose values are not those of trial 0."""
    flat_rule, flat_winner = wording.flatten(rule), wording.flatten(winner)
    return [(name, flat_rule.get(name), value) for name, value in flat_winner.items() if flat_rule.get(name) != value]


def _against_rule(what: Found) -> list[RenderableType]:
    if what.trial == 0:
        return [Text("The rule that needs no search (trial 0) was not beaten.")]
    lines: list[RenderableType] = []
    if what.rule_value is not None:
        gain = what.value - what.rule_value
        lines.append(Text(f"Trial 0, the rule that needs no search: {what.rule_value:.4f}. The search gained {gain:.4f}."))
    rows = plan.table("what the search changed", "rule", "winner", right=("rule", "winner"))
    for name, rule, winner in what.changes:
        rows.add_row(name, wording.value(rule), wording.value(winner))
    return [*lines, rows]
