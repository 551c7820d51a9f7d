"""The studies of a storage into trials whose worker is gone, and studies that stopped or that other versions made."""

import contextlib
import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from optuna.trial import TrialState
from pydantic import ValidationError
from sqlalchemy import Connection, select

from tuner import wording
from tuner.doctor import findings
from tuner.doctor.findings import Finding, Level
from tuner.errors import StudyError
from tuner.protocol import failure_table
from tuner.spec.study import StudySpec
from tuner.storage import engine as storages
from tuner.storage import tables
from tuner.storage.engine import Storage
from tuner.studies import leases, reaper
from tuner.studies import study as studies
from tuner.studies.leases import Lease, WorkerId
from tuner.studies.reaper import Reaped
from tuner.studies.study import PREPARED, SPEC, STOPPED

_SUBJECT = "zombies"
_SHOWN = 120
#: of a list of trials
_LISTED = 6


@dataclass(frozen=True, kw_only=True)
class RunningTrials:
    """The running trials of a study, by who works on them; trials by their numbers."""

    study_id: int
    study: str
    #: leases of workers that are gone
    gone: Sequence[Lease]
    #: leases of workers that were not seen for a while, but may live
    silent: Sequence[Lease]
    #: no one ever had a lease of them
    unleased: Sequence[int]
    #: their worker lives, or they were handed back
    well: Sequence[int]
    #: the database's time
    now: float


def running(opened: Storage) -> Iterator[Finding]:
    """Running trials that no one works on."""
    seen = opened.read(_look)
    gone = [_held(each, lease) for each in seen for lease in each.gone]
    if gone:
        yield _gone(opened.url, gone)
    silent = [_held(each, lease) for each in seen for lease in each.silent]
    if silent:
        cure = "see whether their workers reach the database; otherwise the next worker takes the trials up"
        yield findings.warning(_SUBJECT, f"the workers of {_listed(silent)} were not seen for over a minute", cure)
    unleased = [f"{each.study} {number}" for each in seen for number in each.unleased]
    if unleased:
        cure = "no worker of tuner began them and none takes them up; end them with Optuna: study.tell(NUMBER, state=TrialState.FAIL)"
        yield findings.warning(_SUBJECT, f"without a worker since their beginning: {_listed(unleased)}", cure)
    if not (gone or silent or unleased):
        yield findings.ok(_SUBJECT, f"none; running or set aside: {_count(sum(len(each.well) for each in seen))}")


def is_gone(lease: Lease, worker: WorkerId, now: float) -> bool:
    """Whether the worker of an open lease does not live: its process ended here, or elsewhere it was silent for ten minutes."""
    if lease.ended_at is not None:
        return False
    if lease.namespace == worker.namespace:
        return lease.is_vacant(worker, lease.seen_at)  # so that only the process counts, which may be cut off from the database
    return lease.is_vacant(worker, now - leases.PATIENCE_SECONDS + leases.LEASE_SECONDS)


def release(url: str) -> Finding:
    """End the leases of workers that are gone, as a worker does: their trials wait for the next one, or have failed if that came too often.

    Raises:
        StorageError: the storage cannot be used.
    """
    opened = storages.open(url)
    found: list[tuple[str, Reaped]] = []
    try:
        for _, name in opened.read(_studies):
            with contextlib.suppress(StudyError):  # of another version of tuner, or deleted meanwhile
                study = studies.load(name, opened)
                found += [(name, reaped) for reaped in reaper.reap(study, WorkerId.here("doctor"), is_gone=is_gone)]
    finally:
        opened.close()
    failed = [f"{name} {reaped.trial}" for name, reaped in found if reaped.is_failed]
    told = f"freed {_count(len(found) - len(failed))} of workers that are gone"
    lost = f"; failed, because their workers were lost {failure_table.MAX_LOSSES} times: {_listed(failed)}" if failed else ""
    return Finding(subject=_SUBJECT, level=Level.NOTE, found=told + lost, fixed=bool(found))


def stopped(opened: Storage) -> Iterator[Finding]:
    """Studies that stopped themselves."""
    for study_id, name in opened.read(_studies):
        why = opened.read(partial(_attribute, study_id=study_id, key=STOPPED))
        if why:
            told = " ".join(str(why).split())
            told = told if len(told) <= _SHOWN else f"{told[:_SHOWN]} …"
            yield findings.warning("studies", f"{name} stopped itself: {told}", "mend the cause, then run the study again")


def versions(opened: Storage) -> Iterator[Finding]:
    """Studies that this version cannot read, and those that were begun with other packages than are installed here."""
    recorded, unreadable = {}, []
    for study_id, name in opened.read(_studies):
        prepared = opened.read(partial(_attribute, study_id=study_id, key=PREPARED)) or {}
        if prepared.get("versions"):
            recorded[name] = differing_versions(prepared["versions"])
        if not _is_readable(opened.read(partial(_attribute, study_id=study_id, key=SPEC))):
            unreadable.append(name)
    if unreadable:
        found = f"this version of tuner cannot read: {_listed(unreadable)}"
        yield findings.warning("versions", found, "work on it with the version that made it, or begin it anew under another name")
    differing = [f"{name} ({', '.join(differences)})" for name, differences in recorded.items() if differences]
    if differing:
        found = f"begun with other versions than are installed here: {_listed(differing)}"
        yield findings.note("versions", found, "results may differ in the last digits; for exact ones install the same versions everywhere")
    elif recorded:
        yield findings.ok("versions", f"studies begun with what is installed here: {len(recorded)} of {len(recorded)}")


def differing_versions(recorded: dict[str, str]) -> list[str]:
    """`keras 3.14.0, here 3.15.1` for each package that is installed in another version than was recorded."""
    found = []
    for package, version in recorded.items():
        try:
            here = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        if here != version:
            found.append(f"{package} {version}, here {here}")
    return found


def _gone(url: str, trials: Sequence[str]) -> Finding:
    return Finding(
        subject=_SUBJECT,
        level=Level.WARNING,
        found=f"{_count(len(trials))} whose worker is gone: {_listed(trials)}",
        cure="the next worker of the study takes them up; or free them now with tuner doctor --fix",
        mend=lambda: release(url),
    )


def _studies(connection: Connection) -> list[tuple[int, str]]:
    """Id and name of each study of tuner."""
    of_tuner = select(tables.STUDIES.c.study_id, tables.STUDIES.c.study_name).join(tables.STUDY_USER).where(tables.STUDY_USER.c.key == SPEC)
    return [(study_id, name) for study_id, name in connection.execute(of_tuner.order_by(tables.STUDIES.c.study_id))]


def _look(connection: Connection) -> list[RunningTrials]:
    worker, now = WorkerId.here("doctor"), tables.clock(connection)
    return [_of_study(connection, study_id, name, worker=worker, now=now) for study_id, name in _studies(connection)]


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
    """A trial, and who holds it since when."""
    return f"{running.study} {lease.trial_number} (held by {lease.worker}, last seen {findings.age(running.now - lease.seen_at)} ago)"


def _attribute(connection: Connection, study_id: int, key: str) -> Any:
    return tables.get(connection, tables.STUDY_USER, study_id, key).get(key)


def _is_readable(spec: str) -> bool:
    try:
        StudySpec.model_validate_json(spec)
    except ValidationError:
        return False
    return True


def _count(number: int) -> str:
    return f"{number} trial{'' if number == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    return wording.listed(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
