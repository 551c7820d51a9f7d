"""The screens of `tuner cache` and `tuner doctor`."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tuner import wording
from tuner.cache import entries
from tuner.cache.entries import CacheEntry
from tuner.doctor.findings import Finding, Level
from tuner.terminal import printing


def cache_table(found: Sequence[CacheEntry]) -> RenderableType:
    """Show one row for each entry."""
    rows = printing.table("kind", "content", "size", "last used", "", right=("size", "last used"))
    now = time.time()
    for entry in found:
        ago = f"{wording.duration(max(0.0, now - entry.last_used))} ago"
        rows.add_row(entry.kind, _content(entry), entries.show_size(entry.num_bytes), ago, "in use" if entry.is_in_use() else "")
    return rows


def cache_total(found: Sequence[CacheEntry], folder: Path, limit: int) -> str:
    """Return the size of the entries and the limit, as a line."""
    return f"{describe_size(found)} of at most {entries.show_size(limit)}, in {folder}"


def cache_freed(deleted: Sequence[CacheEntry], in_use: Sequence[CacheEntry]) -> str:
    """Return how much was deleted, as a line."""
    text = f"Freed {entries.show_size(sum(entry.num_bytes for entry in deleted))}: {_count(deleted)}."
    return text + (f" Kept {describe_size(in_use)}: running processes use them." if in_use else "")


def describe_size(found: Sequence[CacheEntry]) -> str:
    """Return the number of entries and their size, such as `3 entries, 1.4 GB`."""
    return f"{_count(found)}, {entries.show_size(sum(entry.num_bytes for entry in found))}"


def _count(found: Sequence[CacheEntry]) -> str:
    return wording.count(len(found), "entry")


def _content(entry: CacheEntry) -> str:
    return ", ".join(entry.words.values())


_STYLES = {Level.OK: "good", Level.NOTE: "value", Level.WARNING: "yellow", Level.PROBLEM: "bad"}


def doctor_table(found: Sequence[Finding]) -> RenderableType:
    """Show one row for each finding; long texts are wrapped in their column."""
    rows = Table.grid(padding=(0, 2))
    rows.add_column(no_wrap=True)
    rows.add_column(no_wrap=True, style="strong")
    rows.add_column(overflow="fold")
    for finding in found:
        rows.add_row(Text(finding.level, style=_STYLES[finding.level]), finding.subject, Text(_one_line(finding)))
    return rows


def doctor_lines(found: Sequence[Finding]) -> str:
    """Return one line for each finding, without wrapping."""
    width = max(len(finding.subject) for finding in found)
    return "\n".join(f"{finding.level:<7}  {finding.subject:<{width}}  {_one_line(finding)}" for finding in found)


def doctor_summary(found: Sequence[Finding]) -> str:
    """Return how many problems and warnings there are, as a sentence."""
    counts = Counter(finding.level for finding in found)
    bad = [wording.count(counts[level], level.value) for level in (Level.PROBLEM, Level.WARNING) if counts[level]]
    checks = wording.count(len(found), "check")
    return f"{' and '.join(bad)} in {checks}." if bad else f"All is well: {checks}."


def _one_line(finding: Finding) -> str:
    """Return the finding and its remedy, on one line."""
    found = " ".join(finding.found.split())
    return f"{found} → {finding.cure}" if finding.cure else found
