"""Findings into the screen of `tuner doctor`."""

from collections import Counter
from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tuner import wording
from tuner.doctor.findings import Finding, Level

_STYLES = {Level.OK: "good", Level.NOTE: "value", Level.WARNING: "yellow", Level.PROBLEM: "bad"}


def table(found: Sequence[Finding]) -> RenderableType:
    """A row for each finding; what is long is folded in its own column."""
    rows = Table.grid(padding=(0, 2))
    rows.add_column(no_wrap=True)
    rows.add_column(no_wrap=True, style="strong")
    rows.add_column(overflow="fold")
    for finding in found:
        rows.add_row(Text(finding.level, style=_STYLES[finding.level]), finding.subject, Text(_told(finding)))
    return rows


def lines(found: Sequence[Finding]) -> str:
    """A line for each finding, however long."""
    width = max(len(finding.subject) for finding in found)
    return "\n".join(f"{finding.level:<7}  {finding.subject:<{width}}  {_told(finding)}" for finding in found)


def summary(found: Sequence[Finding]) -> str:
    """`All is well.`, or how much is not."""
    counts = Counter(finding.level for finding in found)
    told = [wording.count(counts[level], level.value) for level in (Level.PROBLEM, Level.WARNING) if counts[level]]
    return f"{' and '.join(told)} in {wording.count(len(found), 'look')}." if told else f"All is well: {wording.count(len(found), 'look')}."


def _told(finding: Finding) -> str:
    """On one line: what was found, and what to do."""
    told = " ".join(finding.found.split())
    return f"{told} → {finding.cure}" if finding.cure else told
