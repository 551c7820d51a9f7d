"""Checks of the service: the workers of the pool, and studies in the queue that nobody serves."""

from collections.abc import Iterator, Mapping, Sequence

from tuner import wording
from tuner.doctor import database, findings
from tuner.doctor.findings import DoctorContext, Finding
from tuner.errors import TunerError
from tuner.queue import entries, limits, pool
from tuner.queue.entries import Entry
from tuner.queue.pool import PoolMember
from tuner.storage import engine as storages

_SUBJECT = "pool"
#: workers or studies that a finding names
_MAX_NAMED = 3


def pool_findings(context: DoctorContext) -> Iterator[Finding]:
    """Check the pool of a storage."""
    if not context.is_storage_there:
        yield from database.missing(context.url)
        return
    try:
        opened = storages.open(context.url)
    except TunerError as error:
        yield database.unusable(context.url, str(error))
        return
    try:
        found = entries.entries(opened, entries.OPEN)
        stopped_by = opened.read(limits.read).stopped_by
        yield from judge(pool.members(opened), found, pool.explained(opened, found), stopped_by=stopped_by)
    finally:
        opened.close()


def judge(members: Sequence[PoolMember], found: Sequence[Entry], explained: Mapping[int, str], *, stopped_by: str) -> Iterator[Finding]:
    """Yield what is wrong with a pool; if nothing is, one finding that says so."""
    present = [one for one in members if one.is_present]
    silent = [one for one in members if one.ended_at is None and not one.is_present]
    troubles = list(_troubles(present, silent, found, stopped_by))
    troubles += [
        findings.warning(_SUBJECT, f"{one.name} waits: {explained[one.study_id]}", "start a worker that can serve it, or cancel it")
        for one in found
        if "no worker can serve it" in explained.get(one.study_id, "")
    ]
    workers, queued = wording.count(len(present), "worker"), wording.count(len(found), "study")
    yield from troubles or [findings.ok(_SUBJECT, f"{workers}, {queued} open in the queue")]


def _troubles(present: Sequence[PoolMember], silent: Sequence[PoolMember], found: Sequence[Entry], stopped_by: str) -> Iterator[Finding]:
    if stopped_by:
        yield findings.warning(_SUBJECT, f"it was stopped by {stopped_by}", "start it again with: tuner pool start")
    if found and not present:
        open_ones = wording.count(len(found), "open study")
        yield findings.problem(_SUBJECT, f"the queue has {open_ones}, and there is no worker", "start one with: tuner worker --pool")
    if silent:
        names = wording.listed(one.name for one in silent[:_MAX_NAMED])
        cure = "look whether their processes or machines have ended; their trials resume elsewhere"
        yield findings.warning(_SUBJECT, f"{wording.count(len(silent), 'worker')} fell silent: {names}", cure)
    versions = {one.abilities.packages.get("tuner", "") for one in present}
    if len(versions) > 1:
        known = wording.listed(sorted(versions))
        yield findings.note(_SUBJECT, f"its workers run tuner {known}", "upgrade the others one by one: tuner drain HOST, install, restart")
    without = [one.name for one in present if not one.abilities.data_root]
    if without:
        names = wording.listed(without[:_MAX_NAMED])
        yield findings.note(_SUBJECT, f"without --data-root, {names} read no images from disk", "start them with --data-root FOLDER")
