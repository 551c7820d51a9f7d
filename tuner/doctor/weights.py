"""The versions in a storage into whether their weights are still those that were kept."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection, Row, func, select

from tuner import wording
from tuner.doctor import findings
from tuner.doctor.findings import Finding
from tuner.search.storage import Storage
from tuner.search.version_tables import STAGES, VERSIONS

SUBJECT = "weights"
#: of a list of versions
_SHOWN = 3
#: for reading files
_READ_SECONDS = 5.0


def look(opened: Storage) -> Iterator[Finding]:
    """The weights of all versions, those in a stage first: whether they are there, and as they were kept, as far as some seconds go."""
    kept = opened.read(_kept)
    if not kept:
        return
    here = [row for row in kept if "://" not in row.artifact]
    gone = [row for row in here if not Path(row.artifact).is_file()]
    deadline = time.monotonic() + _READ_SECONDS
    there = [row for row in here if row not in gone]
    read = {row: _digest(Path(row.artifact)) for row in there if time.monotonic() < deadline}
    changed = [row for row, digest in read.items() if digest != row.sha256]
    if changed:
        cure = "delete these versions, or put back the files as they were; their exports would be of other models"
        yield findings.problem(SUBJECT, f"not those that were kept: {_named(changed)}", cure)
    if gone:
        yield findings.warning(SUBJECT, f"not on this machine: {_named(gone)}", "look for them where they were trained")
    if not changed and not gone:
        told = f"of {wording.count(len(kept), 'version')}, {len(here)} of them in files here, {len(read)} read and as they were kept"
        yield findings.ok(SUBJECT, told)


def _kept(connection: Connection) -> list[Row[str, int, str, str]]:
    last = select(func.max(STAGES.c.id)).group_by(STAGES.c.name, STAGES.c.stage)
    staged = {(row.name, row.version) for row in connection.execute(select(STAGES.c.name, STAGES.c.version).where(STAGES.c.id.in_(last)))}
    query = select(VERSIONS.c.name, VERSIONS.c.number, VERSIONS.c.artifact, VERSIONS.c.sha256).where(VERSIONS.c.deleted_at.is_(None))
    rows = connection.execute(query.order_by(VERSIONS.c.created_at.desc())).all()
    return sorted(rows, key=lambda row: (row.name, row.number) not in staged)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _named(rows: list[Row[str, int, str, str]]) -> str:
    shown = ", ".join(f"{row.name} {row.number} ({row.artifact})" for row in rows[:_SHOWN])
    return shown + (f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else "")
