"""Entries of the cache into the screen of `tuner cache`.

Findings into the screen of `tuner doctor`.
"""

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
from tuner.terminal import plan


def cache_table(found: Sequence[CacheEntry]) -> RenderableType:
    """A row for each entry."""
    rows = plan.table("kind", "what", "size", "last used", "", right=("size", "last used"))
    now = time.time()
    for entry in found:
        ago = f"{wording.duration(max(0.0, now - entry.last_used))} ago"
        rows.add_row(entry.kind, _what(entry), entries.show_size(entry.num_bytes), ago, "in use" if entry.is_in_use() else "")
    return rows


def cache_total(found: Sequence[CacheEntry], folder: Path, limit: int) -> str:
    """How much they take, and how much they may."""
    return f"{sum_up(found)} of at most {entries.show_size(limit)}, in {folder}"


def cache_freed(gone: Sequence[CacheEntry], kept: Sequence[CacheEntry]) -> str:
    """What a clearing came to."""
    said = f"Freed {entries.show_size(sum(entry.num_bytes for entry in gone))}: {_count(gone)}."
    return said + (f" Kept {sum_up(kept)}, which running processes use." if kept else "")


def sum_up(found: Sequence[CacheEntry]) -> str:
    """`3 entries, 1.4 GB`."""
    return f"{_count(found)}, {entries.show_size(sum(entry.num_bytes for entry in found))}"


def _count(found: Sequence[CacheEntry]) -> str:
    return wording.count(len(found), "entry")


def _what(entry: CacheEntry) -> str:
    return ", ".join(entry.words.values())


_STYLES = {Level.OK: "good", Level.NOTE: "value", Level.WARNING: "yellow", Level.PROBLEM: "bad"}


def doctor_table(found: Sequence[Finding]) -> RenderableType:
    """A row for each finding; what is long is folded in its own column."""
    rows = Table.grid(padding=(0, 2))
    rows.add_column(no_wrap=True)
    rows.add_column(no_wrap=True, style="strong")
    rows.add_column(overflow="fold")
    for finding in found:
        rows.add_row(Text(finding.level, style=_STYLES[finding.level]), finding.subject, Text(_told(finding)))
    return rows


def doctor_lines(found: Sequence[Finding]) -> str:
    """A line for each finding, however long."""
    width = max(len(finding.subject) for finding in found)
    return "\n".join(f"{finding.level:<7}  {finding.subject:<{width}}  {_told(finding)}" for finding in found)


def doctor_summary(found: Sequence[Finding]) -> str:
    """`All is well.`, or how much is not."""
    counts = Counter(finding.level for finding in found)
    told = [wording.count(counts[level], level.value) for level in (Level.PROBLEM, Level.WARNING) if counts[level]]
    return (
        f"{' and '.join(told)} in {wording.count(len(found), 'check')}." if told else f"All is well: {wording.count(len(found), 'check')}."
    )


def _told(finding: Finding) -> str:
    """On one line: what was found, and what to do."""
    told = " ".join(finding.found.split())
    return f"{told} → {finding.cure}" if finding.cure else told
