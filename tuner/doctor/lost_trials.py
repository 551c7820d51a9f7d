"""Lost trials: running trials without a worker, and studies that stopped because of failures."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Connection, select

from tuner import wording
from tuner.doctor import findings
from tuner.doctor.findings import Finding, Level
from tuner.errors import StudyError
from tuner.protocol import failure_table
from tuner.storage import engine as storages
from tuner.storage import tables
from tuner.storage.attributes import SPEC, STOPPED
from tuner.storage.engine import Storage
from tuner.studies import leases, reaper
from tuner.studies import study as studies
from tuner.studies.leases import Lease, WorkerId
from tuner.studies.reaper import Reaped

_SUBJECT = "zombies"
#: characters of a reason that are shown
_MAX_REASON = 120
#: names that a finding lists
_MAX_LISTED = 6


@dataclass(frozen=True, kw_only=True)
class RunningTrials:
    """The running trials of a study, grouped by the state of their workers."""

    study_id: int
    study: str
    #: leases of ended workers
    gone: Sequence[Lease]
    #: leases of workers that have not renewed them for a while and may still run
    silent: Sequence[Lease]
    #: numbers of trials that never had a lease
    unleased: Sequence[int]
    #: numbers of trials whose worker runs, and of suspended trials
    well: Sequence[int]
    #: current time by the database's clock
    now: float


def running(opened: Storage) -> Iterator[Finding]:
    """Find running trials that no worker trains."""
    seen = opened.read(_read_running_trials)
    gone = [_held(each, lease) for each in seen for lease in each.gone]
    if gone:
        yield _gone(opened.url, gone)
    silent = [_held(each, lease) for each in seen for lease in each.silent]
    if silent:
        cure = "check that their workers can reach the database; otherwise the next worker resumes the trials"
        yield findings.warning(_SUBJECT, f"no sign of life for more than a minute from the workers of {listed(silent)}", cure)
    unleased = [f"{each.study} {number}" for each in seen for number in each.unleased]
    if unleased:
        cure = "another program started them, so no worker resumes them; end them with Optuna: study.tell(NUMBER, state=TrialState.FAIL)"
        yield findings.warning(_SUBJECT, f"running trials that never had a worker of tuner: {listed(unleased)}", cure)
    if not (gone or silent or unleased):
        num_trials = wording.count(sum(len(each.well) for each in seen), "trial")
        yield findings.ok(_SUBJECT, f"no running trial without a worker; running or suspended: {num_trials}")


def is_gone(lease: Lease, worker: WorkerId, now: float) -> bool:
    """Return whether the worker of an open lease has ended: its process has ended, or on another machine it was silent for ten minutes."""
    if lease.ended_at is not None:
        return False
    if lease.namespace == worker.namespace:
        return lease.is_vacant(worker, lease.seen_at)  # only the process counts here: it may run without reaching the database
    timing = leases.timing()
    return lease.is_vacant(worker, now - timing.patience_seconds + timing.lease_seconds)


def release(url: str) -> Finding:
    """End the leases of ended workers, as a worker does: their trials are resumed, or fail if they lost too many workers.

    Raises:
        StorageError: the storage cannot be used.
    """
    opened = storages.open(url)
    found: list[tuple[str, Reaped]] = []
    try:
        for _, name in opened.read(all_studies):
            with contextlib.suppress(StudyError):  # of another version of tuner, or deleted meanwhile
                study = studies.load(name, opened)
                found += [(name, reaped) for reaped in reaper.reap(study, WorkerId.here("doctor"), is_gone=is_gone)]
    finally:
        opened.close()
    failed = [f"{name} {reaped.trial}" for name, reaped in found if reaped.is_failed]
    released = f"released {wording.count(len(found) - len(failed), 'trial')} of ended workers"
    lost = f"; failed because they lost their worker {failure_table.MAX_LOSSES} times: {listed(failed)}" if failed else ""
    return Finding(subject=_SUBJECT, level=Level.NOTE, found=released + lost, fixed=bool(found))


def stopped(opened: Storage) -> Iterator[Finding]:
    """Find studies that stopped because of failures."""
    for study_id, name in opened.read(all_studies):
        reason = opened.read(partial(study_attribute, study_id=study_id, key=STOPPED))
        if reason:
            shown = " ".join(str(reason).split())
            shown = shown if len(shown) <= _MAX_REASON else f"{shown[:_MAX_REASON]} …"
            yield findings.warning("studies", f"{name} stopped because of failures: {shown}", "fix the cause, then run the study again")


def all_studies(connection: Connection) -> list[tuple[int, str]]:
    """Return the id and the name of each study that tuner made."""
    of_tuner = select(tables.STUDIES.c.study_id, tables.STUDIES.c.study_name).join(tables.STUDY_USER).where(tables.STUDY_USER.c.key == SPEC)
    return [(study_id, name) for study_id, name in connection.execute(of_tuner.order_by(tables.STUDIES.c.study_id))]


def study_attribute(connection: Connection, study_id: int, key: str) -> Any:
    """Return a user attribute of a study, or None if it has none."""
    return tables.get(connection, tables.STUDY_USER, study_id, key).get(key)


def listed(names: Sequence[str]) -> str:
    """Return the first few names and the number of the others."""
    return wording.listed(names[:_MAX_LISTED]) + (f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else "")


def _gone(url: str, trials: Sequence[str]) -> Finding:
    return Finding(
        subject=_SUBJECT,
        level=Level.WARNING,
        found=f"{wording.count(len(trials), 'trial')} of ended workers: {listed(trials)}",
        cure="the next worker of the study resumes them; or release them now with tuner doctor --fix",
        fix=lambda: release(url),
    )


def _read_running_trials(connection: Connection) -> list[RunningTrials]:
    worker, now = WorkerId.here("doctor"), tables.clock(connection)
    return [_of_study(connection, study_id, name, worker=worker, now=now) for study_id, name in all_studies(connection)]


def _of_study(connection: Connection, study_id: int, name: str, *, worker: WorkerId, now: float) -> RunningTrials:
    known = leases.of_running_trials(connection, study_id)
    are_running = (tables.TRIALS.c.study_id == study_id, tables.TRIALS.c.state == TrialState.RUNNING)
    numbers = set(connection.scalars(select(tables.TRIALS.c.number).where(*are_running)))
    gone = [lease for lease in known if is_gone(lease, worker, now)]
    silent = [lease for lease in known if lease.ended_at is None and lease not in gone and lease.is_vacant(worker, now)]
    leased = {lease.trial_number for lease in known}
    well = sorted(leased - {lease.trial_number for lease in (*gone, *silent)})
    return RunningTrials(study_id=study_id, study=name, gone=gone, silent=silent, unleased=sorted(numbers - leased), well=well, now=now)


def _held(running: RunningTrials, lease: Lease) -> str:
    """Return a trial with its worker and when that was last seen."""
    return f"{running.study} {lease.trial_number} (worker {lease.worker}, last seen {findings.age(running.now - lease.seen_at)} ago)"
