"""`tuner cache` and `tuner doctor`: the entries of the cache folder, and checks of the storage and this machine."""

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
from tuner.commands import artifacts, options, storage_url
from tuner.doctor import checks, pool_workers
from tuner.doctor.findings import DoctorContext, Finding, Level
from tuner.errors import RequestError
from tuner.tasks.images.data import image_file
from tuner.terminal import maintenance, plain, printing
from tuner.workers.bucket.transfer import Folders


@dataclass(frozen=True, kw_only=True)
class EntryFilter:
    """Which entries of the cache a command shows or deletes; None: all."""

    kind: str | None
    #: only entries unused for this long, as typed, for example 7d
    older_than: str | None
    #: name of the study that they were made for
    study: str | None

    def select(self, found: Sequence[CacheEntry]) -> list[CacheEntry]:
        """Return the entries that match.

        Raises:
            RequestError: the time cannot be read, or the cache has no entry of this kind.
        """
        kinds = sorted({entry.kind for entry in found})
        if self.kind is not None and kinds and self.kind not in kinds:
            raise RequestError(f"--kind is {self.kind}, but the cache has no such entries; expected {', '.join(kinds)}.")
        latest = time.time() - options.read_seconds("--older-than", self.older_than) if self.older_than is not None else float("inf")
        return [entry for entry in found if self._matches(entry) and entry.last_used <= latest]

    def _matches(self, entry: CacheEntry) -> bool:
        return self.kind in (None, entry.kind) and self.study in (None, entry.words.get("study"))


def show_cache(folder: Path, chosen: EntryFilter, *, as_json: bool) -> int:
    """Print the entries and their sizes."""
    found = chosen.select(_all(folder))
    if as_json:
        plain.result(json.dumps(_entries_as_json(folder, found), indent=2))
    elif found:
        printing.result(maintenance.cache_table(found), "")
        plain.result(maintenance.cache_total(found, folder, entries.limit_bytes(folder)))
    else:
        plain.result(f"The cache {folder} has no matching entries.")
    return 0


def clear_cache(folder: Path, chosen: EntryFilter, *, confirmed: bool, as_json: bool) -> int:
    """Delete the entries that no process uses, after a confirmation, and print the freed size.

    Raises:
        RequestError: there is no terminal to ask for a confirmation.
    """
    found = chosen.select(_all(folder))
    if found and not confirmed and not _confirm(found, folder):
        plain.line("Nothing was deleted.")
        return 1
    deleted = caches.remove(folder, found) if folder.exists() else []
    if as_json:
        plain.result(json.dumps({"folder": str(folder), "num_deleted": len(deleted), "freed_bytes": _total(deleted)}, indent=2))
    else:
        plain.result(maintenance.cache_freed(deleted, [entry for entry in found if entry not in deleted]))
    return 0


def _all(folder: Path) -> list[CacheEntry]:
    return sorted([*entries.find(folder), *image_file.index_entries(folder)], key=lambda entry: -entry.last_used)


def _confirm(found: Sequence[CacheEntry], folder: Path) -> bool:
    if not sys.stdin.isatty():
        raise RequestError("nothing was deleted, because there is no terminal to confirm at; confirm with --yes.")
    return plain.confirm(f"Delete {maintenance.describe_size(found)} from {folder}?")


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


def examine(url: str, artifacts_given: str, cache: Path | None, limit_seconds: float) -> list[Finding]:
    """Check the storage, the folders and this machine; each check may take `limit_seconds`."""
    folder, bucket = artifacts.locate(artifacts_given)
    folders = Folders(artifacts=folder, bucket=bucket, cache=options.cache_folder(cache))
    context = DoctorContext(url=url, is_storage_there=storage_url.exists(url), folders=folders)
    return checks.run_all(context, limit_seconds)


def examine_pool(url: str, artifacts_given: str, cache: Path | None, limit_seconds: float) -> list[Finding]:
    """Check the workers of the pool and the queue only."""
    folder, bucket = artifacts.locate(artifacts_given)
    folders = Folders(artifacts=folder, bucket=bucket, cache=options.cache_folder(cache))
    context = DoctorContext(url=url, is_storage_there=storage_url.exists(url), folders=folders)
    return checks.run_all(context, limit_seconds, [("pool", pool_workers.pool_findings)])


def examine_and_fix(url: str, artifacts_given: str, cache: Path | None, limit_seconds: float) -> list[Finding]:
    """Check the same, and fix what is safe to fix."""
    return checks.fix_all(examine(url, artifacts_given, cache, limit_seconds))


def print_findings(found: Sequence[Finding], *, as_json: bool) -> int:
    """Print the results of the checks; return 1 if there is a problem, else 0."""
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
