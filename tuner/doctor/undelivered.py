"""What workers could not deliver to the storage into a finding: how much, how old, of which study."""

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tuner.doctor import findings
from tuner.doctor.findings import Finding
from tuner.search import study as studies
from tuner.search.storage import Storage
from tuner.workers import spool

_SUBJECT = "undelivered"
_FILES = "*/spool/*.jsonl"


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """A file of one attempt."""

    path: Path
    study: str
    age_seconds: float


def look(opened: Storage, artifacts: Path) -> Iterator[Finding]:
    """Files of workers that are gone, and of workers that wait for the storage now."""
    known = studies.names(opened)
    gone = {left.path: left for folder in sorted({path.parent for path in artifacts.glob(_FILES)}) for left in spool.left(folder)}
    kept = [_kept(path) for path in sorted(artifacts.glob(_FILES))]
    unreadable = [each for each in kept if each.path in gone and gone[each.path].origin is None]
    foreign = [each for each in kept if each.path in gone and each.study not in known and each not in unreadable]
    due = [each for each in kept if each.path in gone and each not in unreadable and each not in foreign]
    held = [each for each in kept if each.path not in gone]
    if due:
        cure = (
            "the next worker of the study that starts here with these artifacts delivers them: tuner run STUDY.yaml or tuner worker STUDY"
        )
        yield findings.warning(_SUBJECT, f"of workers that are gone: {_listed(due)}", cure)
    if foreign:
        cure = "look at the storage that they are of, with --storage; or delete them if the study is of no use any more"
        yield findings.note(_SUBJECT, f"of studies that are not in this storage: {_listed(foreign)}", cure)
    if unreadable:
        cure = "no worker delivers them; delete them if they are of no use"
        yield findings.warning(_SUBJECT, f"files that cannot be read: {', '.join(str(each.path) for each in unreadable)}", cure)
    if held:
        yield findings.note(
            _SUBJECT, f"of workers that live and wait for the storage: {_listed(held)}", "see whether they reach the storage"
        )
    if not kept:
        yield findings.ok(_SUBJECT, f"nothing in {artifacts}")


def _kept(path: Path) -> _Kept:
    try:
        age = max(0.0, time.time() - path.stat().st_mtime)
    except FileNotFoundError:  # delivered just now
        age = 0.0
    return _Kept(path=path, study=path.parent.parent.name, age_seconds=age)


def _listed(kept: list[_Kept]) -> str:
    """`2 files of flowers, the oldest 3 h old`, for each study."""
    ages: dict[str, list[float]] = defaultdict(list)
    for each in kept:
        ages[each.study].append(each.age_seconds)
    return "; ".join(
        f"{len(found)} file{'' if len(found) == 1 else 's'} of {study}, the oldest {findings.age(max(found))} old"
        for study, found in ages.items()
    )
