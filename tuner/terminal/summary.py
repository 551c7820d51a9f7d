"""A study that has ended into one screen: what was found, what it cost, what to do next."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tuner import wording
from tuner.search.progress import Snapshot
from tuner.terminal import plan, standing


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
        low, high = wording.wilson(what.test_accuracy, what.num_test)
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
    flat_rule, flat_winner = standing.flat(rule), standing.flat(winner)
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
