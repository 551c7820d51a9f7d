"""`tuner cache`: what the cache folder holds, shown or deleted.

`tuner doctor`: what stands in the way of a study here, and what to do about it.
"""

import datetime as dt
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner.cache import arrays as caches
from tuner.cache import entries
from tuner.cache.entries import CacheEntry
from tuner.commands import options
from tuner.doctor import checks
from tuner.doctor.findings import DoctorContext, Finding, Level
from tuner.errors import RequestError
from tuner.tasks.images.data import image_file
from tuner.terminal import maintenance, plain, printing
from tuner.workers.bucket.transfer import Folders


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which entries are meant; None: all."""

    kind: str | None
    #: how long they were not used, as it was typed
    older_than: str | None
    #: the study that they were made for
    study: str | None

    def of(self, found: Sequence[CacheEntry]) -> list[CacheEntry]:
        """Those of the entries that are meant.

        Raises:
            RequestError: the time is none, or there is nothing of the kind.
        """
        kinds = sorted({entry.kind for entry in found})
        if self.kind is not None and kinds and self.kind not in kinds:
            raise RequestError(f"--kind is {self.kind}, and the cache holds nothing of that kind; it holds {', '.join(kinds)}.")
        latest = time.time() - options.read_seconds("--older-than", self.older_than) if self.older_than is not None else float("inf")
        return [entry for entry in found if self._is_meant(entry) and entry.last_used <= latest]

    def _is_meant(self, entry: CacheEntry) -> bool:
        return self.kind in (None, entry.kind) and self.study in (None, entry.words.get("study"))


def show(folder: Path, chosen: Chosen, *, as_json: bool) -> int:
    """Print the entries and how much they take."""
    found = chosen.of(_all(folder))
    if as_json:
        plain.result(json.dumps(_entries_as_json(folder, found), indent=2))
    elif found:
        printing.result(maintenance.cache_table(found), "")
        plain.result(maintenance.cache_total(found, folder, entries.limit_bytes(folder)))
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
        plain.result(maintenance.cache_freed(gone, [entry for entry in found if entry not in gone]))
    return 0


def _all(folder: Path) -> list[CacheEntry]:
    return sorted([*entries.find(folder), *image_file.index_entries(folder)], key=lambda entry: -entry.last_used)


def _agreed(found: Sequence[CacheEntry], folder: Path) -> bool:
    if not sys.stdin.isatty():
        raise RequestError("nothing was deleted, because no one can be asked here; confirm with --yes.")
    return plain.agreed(f"Delete {maintenance.sum_up(found)} of {folder}?")


def _entries_as_json(folder: Path, found: Sequence[CacheEntry]) -> dict[str, object]:
    return {
        "folder": str(folder),
        "limit_bytes": entries.limit_bytes(folder),
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


def _total(found: Sequence[CacheEntry]) -> int:
    return sum(entry.num_bytes for entry in found)


def look(url: str, artifacts: str, cache: Path | None, patience_seconds: float) -> list[Finding]:
    """What there is to say of the storage, the folders and this machine."""
    folder, bucket = options.read(artifacts)
    folders = Folders(artifacts=folder, bucket=bucket, cache=options.cache(cache))
    is_there = options.is_there(url)
    visit = DoctorContext(url=url, is_storage_there=is_there, folders=folders)
    return checks.run_all(visit, patience_seconds)


def mend(url: str, artifacts: str, cache: Path | None, patience_seconds: float) -> list[Finding]:
    """The same, with what is safe to mend mended."""
    return checks.fix_all(look(url, artifacts, cache, patience_seconds))


def tell(found: Sequence[Finding], *, as_json: bool) -> int:
    """Print findings; the exit code is 1 where there is a problem."""
    if as_json:
        plain.result(json.dumps([_finding_as_json(finding) for finding in found], indent=2))
    elif printing.stdout().is_terminal:
        printing.result(maintenance.doctor_table(found), "", maintenance.doctor_summary(found))
    else:
        plain.result(f"{maintenance.doctor_lines(found)}\n\n{maintenance.doctor_summary(found)}")
    return int(any(finding.level is Level.PROBLEM for finding in found))


def _finding_as_json(finding: Finding) -> dict[str, object]:
    names = ("subject", "level", "found", "cure", "fixed")
    return {name: getattr(finding, name) for name in names}
