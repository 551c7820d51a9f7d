"""What a verification found, as lines and a table."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tuner import errands
from tuner.results.verification import Outcome, Report
from tuner.terminal import plan

_STYLES = {Outcome.OK: "good", Outcome.FAILED: "bad", Outcome.NOT_CHECKED: "quiet"}


def lines(report: Report) -> str:
    """A line for each thing that was found, however long."""
    width = max(len(check.name) for check in report.checks)
    return "\n".join(f"{check.outcome:<11}  {check.name:<{width}}  {line}" for check in report.checks for line in check.found)


def robust(report: Report) -> Sequence[RenderableType]:
    """The accuracy under each corruption, where it was measured."""
    measured = report.measured
    return [] if measured is None or not measured.robust else ["", _robust(measured)]


def table(report: Report) -> RenderableType:
    """Everything that was looked at."""
    checks = Table.grid(padding=(0, 2))
    checks.add_column(no_wrap=True)
    checks.add_column(no_wrap=True)
    checks.add_column(overflow="fold")
    for check in report.checks:
        # what a bundle says of itself is no markup
        checks.add_row(check.name, Text(check.outcome, style=_STYLES[check.outcome]), Text("\n".join(check.found)))
    return checks


def _robust(measured: errands.Verified) -> Table:
    table = plan.table("accuracy under", "weak", "middle", "strong", "at strengths")
    rows: dict[str, list[errands.Robust]] = {}
    for one in measured.robust:
        rows.setdefault(one.corruption, []).append(one)
    table.add_row("nothing (clean)", f"{measured.clean:.4f}", "", "", "")
    for name, found in rows.items():
        shown = [f"{one.accuracy:.4f}" for one in found] + [""] * (3 - len(found))
        table.add_row(name, *shown, ", ".join(f"{one.strength:g}" for one in found))
    return table
