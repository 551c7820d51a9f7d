"""Moved studies: completes a study that another program renamed or copied.

Optuna and optuna-dashboard copy only the tables of Optuna. The attempts and the epochs of the trials are in tables of tuner. This module
copies them if they are in the same database. A copied trial that was running waits for the next claim. The versions of a study that was
renamed get its new name; those of a study that was copied stay with the original.
"""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Connection, Select, insert, literal, or_, select, update

from tuner.storage import optuna_private, tables
from tuner.storage.attributes import ATTEMPTS, EARLIER_NAMES, PREPARED, SPEC, WORKER
from tuner.storage.tables import EPOCHS, INTERMEDIATE, LEASES, READINGS, STAGES, STUDY_USER, TRIAL_USER, TRIALS, VERSIONS
from tuner.studies.leases import LeaseEnding

#: largest difference between the clock of a worker, which Optuna stores, and the clock of the database for one and the same end of a trial
_SKEW_SECONDS = 60.0


def is_incomplete(connection: Connection, study_id: int, name: str) -> bool:
    """Return whether another program renamed or copied the study, and `complete` has not been called since."""
    is_renamed = _stored_name(connection, study_id) != name
    return is_renamed or connection.execute(_unleased(study_id).limit(1)).first() is not None


def complete(connection: Connection, study_id: int, name: str) -> None:
    """Copy the attempts and epochs of the original study if they are in this database, and release the trials that were running."""
    tables.lock_study(connection, study_id, name)
    has_attempts = select(LEASES.c.study_id).where(LEASES.c.study_id == study_id).limit(1)
    if connection.execute(has_attempts).first() is None:
        original = _original(connection, study_id)
        if original is not None:
            _copy_attempts(connection, original, study_id)
            _copy_epochs(connection, original, study_id)
    for trial_id, number in connection.execute(_unleased(study_id)).all():
        _release(connection, study_id, trial_id=trial_id, number=number)
    spec = json.loads(tables.get(connection, STUDY_USER, study_id, SPEC)[SPEC])
    tables.put(connection, STUDY_USER, study_id, {SPEC: json.dumps(spec | {"name": name})})
    before = spec.get("name")
    if isinstance(before, str) and before != name and not _is_study(connection, before):
        earlier = _earlier_names(tables.get(connection, STUDY_USER, study_id, EARLIER_NAMES).get(EARLIER_NAMES))
        tables.put(connection, STUDY_USER, study_id, {EARLIER_NAMES: [before, *earlier]})
        _rename_in_retrainings(connection, before, name)
        _rename_versions(connection, study_id, before, name)


def with_orphaned_versions(connection: Connection) -> list[str]:
    """Return the names of the studies that were renamed and not opened since, if there are versions of a study that does not exist."""
    known = select(tables.STUDIES.c.study_name)
    orphans = select(VERSIONS.c.name).where(or_(VERSIONS.c.name.not_in(known), VERSIONS.c.study.not_in(known))).limit(1)
    if connection.execute(orphans).first() is None:
        return []
    return [name for name, spec in _specs(connection) if isinstance(spec, dict) and spec.get("name") not in (None, name)]


def current_name(connection: Connection, name: str) -> str:
    """Return the name that a study has now, given its name before another program renamed it; any other name as it is."""
    if _is_study(connection, name):
        return name
    query = select(tables.STUDIES.c.study_name, STUDY_USER.c.value_json).join(STUDY_USER).where(STUDY_USER.c.key == EARLIER_NAMES)
    found = {now for now, earlier in connection.execute(query) if name in _earlier_names(optuna_private.decoded(earlier))}
    # and those that were not opened since
    found |= {now for now, spec in _specs(connection) if isinstance(spec, dict) and spec.get("name") == name}
    return str(found.pop()) if len(found) == 1 else name


def _stored_name(connection: Connection, study_id: int) -> Any:
    return json.loads(tables.get(connection, STUDY_USER, study_id, SPEC)[SPEC]).get("name")


def _is_study(connection: Connection, name: str) -> bool:
    return connection.execute(select(tables.STUDIES.c.study_id).where(tables.STUDIES.c.study_name == name)).first() is not None


def _earlier_names(stored: Any) -> list[str]:
    return [name for name in stored if isinstance(name, str)] if isinstance(stored, list) else []


def _specs(connection: Connection) -> list[tuple[str, Any]]:
    """Return the name and the stored spec of each study of tuner; None for a spec that is something else."""
    query = select(tables.STUDIES.c.study_name, STUDY_USER.c.value_json).join(STUDY_USER).where(STUDY_USER.c.key == SPEC)
    found = []
    for name, text in connection.execute(query).all():
        try:
            found.append((name, json.loads(optuna_private.decoded(text))))
        except (TypeError, ValueError):
            found.append((name, None))
    return found


def _rename_in_retrainings(connection: Connection, before: str, name: str) -> None:
    """Let the retrainings of a study name it by its new name."""
    for own, spec in _specs(connection):
        again = spec.get("retraining") if isinstance(spec, dict) else None
        if isinstance(again, dict) and again.get("study") == before:
            study_id = connection.execute(select(tables.STUDIES.c.study_id).where(tables.STUDIES.c.study_name == own)).scalar_one()
            tables.put(connection, STUDY_USER, study_id, {SPEC: json.dumps(spec | {"retraining": again | {"study": name}})})


def _rename_versions(connection: Connection, study_id: int, before: str, name: str) -> None:
    """Give the versions of a study its new name, unless they are of other images, or the name has versions already."""
    prepared = tables.get(connection, STUDY_USER, study_id, PREPARED).get(PREPARED)
    fingerprint = prepared.get("fingerprint") if isinstance(prepared, dict) else None
    named = select(VERSIONS.c.fingerprint).where(or_(VERSIONS.c.name == before, VERSIONS.c.study == before))
    is_taken = connection.execute(select(VERSIONS.c.number).where(VERSIONS.c.name == name).limit(1)).first() is not None
    if is_taken or set(connection.execute(named).scalars()) != {fingerprint}:
        return
    for row in connection.execute(select(VERSIONS).where(or_(VERSIONS.c.name == before, VERSIONS.c.study == before))).mappings().all():
        is_it = (VERSIONS.c.name == row["name"], VERSIONS.c.number == row["number"])
        connection.execute(update(VERSIONS).where(*is_it).values(**renamed_version(dict(row), {before: name})))
    for table in (STAGES, READINGS):
        connection.execute(update(table).where(table.c.name == before).values(name=name))


def renamed_version(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of a version that name studies, with new names; the verdict in its metrics names the retraining, too."""
    metrics = json.loads(row["metrics"])
    new = metrics | {key: names.get(metrics[key], metrics[key]) for key in ("study", "retraining") if key in metrics}
    return {key: names.get(row[key], row[key]) for key in ("name", "study")} | {"metrics": json.dumps(new)}


def _unleased(study_id: int) -> Select[int, int]:
    """Return the query for id and number of the running trials that a worker of tuner had, and of which no attempt is stored."""
    leased = select(LEASES.c.trial_number).where(LEASES.c.study_id == study_id)
    query = select(TRIALS.c.trial_id, TRIALS.c.number).join(TRIAL_USER, TRIAL_USER.c.trial_id == TRIALS.c.trial_id)
    is_ours = (TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.RUNNING, TRIAL_USER.c.key == WORKER)
    return query.where(*is_ours, TRIALS.c.number.not_in(leased)).order_by(TRIALS.c.number)


def _original(connection: Connection, study_id: int) -> int | None:
    """Return the id under which the attempts at the trials of a study are stored: each trial has the same worker and the same end there."""
    query = select(TRIALS.c.number, TRIALS.c.datetime_complete, TRIAL_USER.c.value_json)
    query = query.join(TRIAL_USER, TRIAL_USER.c.trial_id == TRIALS.c.trial_id)
    is_ended = (TRIALS.c.study_id == study_id, TRIAL_USER.c.key == WORKER, TRIALS.c.datetime_complete.is_not(None))
    ended = {number: (optuna_private.decoded(worker), moment) for number, moment, worker in connection.execute(query.where(*is_ended))}
    others = select(LEASES.c.study_id).where(LEASES.c.study_id != study_id).distinct().order_by(LEASES.c.study_id.desc())
    candidates: Sequence[int] = connection.execute(others).scalars().all() if ended else []
    return next((other for other in candidates if _has_same_ends(connection, other, ended)), None)


def _has_same_ends(connection: Connection, other: int, ended: Mapping[int, tuple[str, dt.datetime]]) -> bool:
    query = select(LEASES.c.trial_number, LEASES.c.worker, LEASES.c.ended_at).where(LEASES.c.study_id == other)
    last = {row[0]: (row[1], row[2]) for row in connection.execute(query.order_by(LEASES.c.attempt))}
    return all(
        number in last
        and last[number][0] == worker
        and last[number][1] is not None
        and abs(last[number][1] - moment.replace(tzinfo=dt.UTC).timestamp()) <= _SKEW_SECONDS
        for number, (worker, moment) in ended.items()
    )


def _copy_attempts(connection: Connection, original: int, study_id: int) -> None:
    """Copy the attempts that the trials had when the study was copied; the original may have continued since."""
    query = select(TRIALS.c.number, TRIALS.c.trial_id, TRIALS.c.state).where(TRIALS.c.study_id == study_id)
    rows = []
    for number, trial_id, state in connection.execute(query).all():
        known = tables.get(connection, TRIAL_USER, trial_id, WORKER, ATTEMPTS)
        is_it = (LEASES.c.study_id == original, LEASES.c.trial_number == number, LEASES.c.attempt <= known.get(ATTEMPTS, 1))
        for row in connection.execute(select(LEASES).where(*is_it)).mappings() if WORKER in known else ():
            is_open = row["ended_at"] is None or (not state.is_finished() and LeaseEnding(row["ending"]).is_result)
            ending = {"ended_at": row["seen_at"], "ending": LeaseEnding.RELEASED, "error": ""} if is_open else {}
            rows.append(dict(row) | {"study_id": study_id, "trial_id": trial_id} | ending)
    if rows:
        connection.execute(insert(LEASES), rows)


def _copy_epochs(connection: Connection, original: int, study_id: int) -> None:
    columns = [literal(study_id) if column is EPOCHS.c.study_id else column for column in EPOCHS.c]
    rows = select(*columns).join(TRIALS, (TRIALS.c.study_id == study_id) & (TRIALS.c.number == EPOCHS.c.trial_number))
    rows = rows.join(INTERMEDIATE, (INTERMEDIATE.c.trial_id == TRIALS.c.trial_id) & (INTERMEDIATE.c.step == EPOCHS.c.step))
    rows = rows.where(EPOCHS.c.study_id == original)
    connection.execute(insert(EPOCHS).from_select([column.name for column in EPOCHS.c], rows))


def _release(connection: Connection, study_id: int, *, trial_id: int, number: int) -> None:
    """Store an ended attempt of a running trial, so that the next claim resumes it."""
    known = tables.get(connection, TRIAL_USER, trial_id, WORKER, ATTEMPTS)
    attempt, now = known.get(ATTEMPTS), tables.clock(connection)
    row = {
        "study_id": study_id,
        "trial_number": number,
        "trial_id": trial_id,
        "attempt": attempt if isinstance(attempt, int) and attempt > 0 else 1,
        "worker_key": "",
        "worker": str(known[WORKER])[:200],
        "namespace": "",
        "pid": 0,
        "process_started": 0.0,
        "started_at": now,
        "seen_at": now,
        "ended_at": now,
        "ending": LeaseEnding.RELEASED,
    }
    connection.execute(insert(LEASES).values(**row))
