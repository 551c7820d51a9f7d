"""Entries of the cache into the screen of `tuner cache`."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import RenderableType

from tuner import wording
from tuner.data import room
from tuner.data.entries import Entry
from tuner.terminal import plan


def table(found: Sequence[Entry]) -> RenderableType:
    """A row for each entry."""
    rows = plan.table("kind", "what", "size", "last used", "", right=("size", "last used"))
    now = time.time()
    for entry in found:
        ago = f"{wording.duration(max(0.0, now - entry.last_used))} ago"
        rows.add_row(entry.kind, _what(entry), room.show_size(entry.num_bytes), ago, "in use" if entry.is_in_use() else "")
    return rows


def total(found: Sequence[Entry], folder: Path, limit: int) -> str:
    """How much they take, and how much they may."""
    return f"{sum_up(found)} of at most {room.show_size(limit)}, in {folder}"


def freed(gone: Sequence[Entry], kept: Sequence[Entry]) -> str:
    """What a clearing came to."""
    said = f"Freed {room.show_size(sum(entry.num_bytes for entry in gone))}: {_count(gone)}."
    return said + (f" Kept {sum_up(kept)}, which running processes use." if kept else "")


def sum_up(found: Sequence[Entry]) -> str:
    """`3 entries, 1.4 GB`."""
    return f"{_count(found)}, {room.show_size(sum(entry.num_bytes for entry in found))}"


def _count(found: Sequence[Entry]) -> str:
    return wording.count(len(found), "entry")


def _what(entry: Entry) -> str:
    return ", ".join(entry.words.values())
