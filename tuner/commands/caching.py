"""`tuner cache`: what the cache folder holds, shown or deleted."""

import datetime as dt
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner.commands import options
from tuner.data import cache as caches
from tuner.data import entries, index, room
from tuner.data.entries import Entry
from tuner.errors import RequestError
from tuner.terminal import cached, plain, printing


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which entries are meant; None: all."""

    kind: str | None
    #: how long they were not used, as it was typed
    older_than: str | None
    #: the study that they were made for
    study: str | None

    def of(self, found: Sequence[Entry]) -> list[Entry]:
        """Those of the entries that are meant.

        Raises:
            RequestError: the time is none, or there is nothing of the kind.
        """
        kinds = sorted({entry.kind for entry in found})
        if self.kind is not None and kinds and self.kind not in kinds:
            raise RequestError(f"--kind is {self.kind}, and the cache holds nothing of that kind; it holds {', '.join(kinds)}.")
        latest = time.time() - options.read_seconds("--older-than", self.older_than) if self.older_than is not None else float("inf")
        return [entry for entry in found if self._is_meant(entry) and entry.last_used <= latest]

    def _is_meant(self, entry: Entry) -> bool:
        return self.kind in (None, entry.kind) and self.study in (None, entry.words.get("study"))


def show(folder: Path, chosen: Chosen, *, as_json: bool) -> int:
    """Print the entries and how much they take."""
    found = chosen.of(_all(folder))
    if as_json:
        plain.result(json.dumps(_as_json(folder, found), indent=2))
    elif found:
        printing.result(cached.table(found), "")
        plain.result(cached.total(found, folder, room.limit_bytes(folder)))
    else:
        plain.result(f"The cache {folder} holds nothing of what was asked for.")
    return 0


def clear(folder: Path, chosen: Chosen, *, confirmed: bool, as_json: bool) -> int:
    """Delete entries that no process uses, after asking; say what was freed.

    Raises:
        RequestError: no one can be asked.
    """
    found = chosen.of(_all(folder))
    if found and not confirmed and not _agreed(found, folder):
        plain.line("Nothing was deleted.")
        return 1
    gone = caches.remove(folder, found) if folder.exists() else []
    if as_json:
        plain.result(json.dumps({"folder": str(folder), "num_deleted": len(gone), "freed_bytes": _total(gone)}, indent=2))
    else:
        plain.result(cached.freed(gone, [entry for entry in found if entry not in gone]))
    return 0


def _all(folder: Path) -> list[Entry]:
    return sorted([*entries.find(folder), *index.kept(folder)], key=lambda entry: -entry.last_used)


def _agreed(found: Sequence[Entry], folder: Path) -> bool:
    if not sys.stdin.isatty():
        raise RequestError("nothing was deleted, because no one can be asked here; confirm with --yes.")
    return plain.agreed(f"Delete {cached.sum_up(found)} of {folder}?")


def _as_json(folder: Path, found: Sequence[Entry]) -> dict[str, object]:
    return {
        "folder": str(folder),
        "limit_bytes": room.limit_bytes(folder),
        "num_bytes": _total(found),
        "entries": [
            {
                "kind": entry.kind,
                "words": dict(entry.words),
                "num_bytes": entry.num_bytes,
                "last_used": dt.datetime.fromtimestamp(entry.last_used, dt.UTC).isoformat(timespec="seconds"),
                "in_use": entry.is_in_use(),
                "path": str(entry.path),
            }
            for entry in found
        ],
    }


def _total(found: Sequence[Entry]) -> int:
    return sum(entry.num_bytes for entry in found)
