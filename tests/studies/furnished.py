"""A study that has everything that a study can have in a storage, and what of it must be the same in a copy."""

import dataclasses
import json
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.artifacts import ArtifactMeta
from optuna_dashboard import _note
from sqlalchemy import Connection, insert, select

from tests.results.new_versions import new_version
from tests.studies import by_hand
from tuner.protocol.messages import Ending
from tuner.results.versions import stages, versions
from tuner.results.versions.versions import NewReading, VersionStage, WeightsSource
from tuner.storage import audit, optuna_private, tables
from tuner.storage.attributes import PREPARED
from tuner.storage.audit import AuditEvent
from tuner.storage.engine import Storage
from tuner.studies import control, leases, retraining, trials, workers
from tuner.studies import enqueue as studies_enqueue
from tuner.studies import study as studies
from tuner.studies.study import Study
from tuner.studies.workers import WorkerStatus

NAME = "flowers"
#: what a person wrote in optuna-dashboard beside trial 1
NOTE = "ä 🦊 looks odd, line\n" * 200
_LOST = dataclasses.replace(trials.WorkerId.here("lost"), namespace="another boot")
#: tables of tuner with rows of a study by its id
_OURS = (tables.LEASES, tables.EPOCHS, tables.WORKERS)


def begin(storage: Storage, name: str = NAME) -> Study:
    """Create the study: completed, pruned, failed, suspended, lost and enqueued trials, a retraining, versions, notes and an audit."""
    study = studies.join(by_hand.spec(name=name, sampler={"name": "tpe", "startup_trials": 2}, budget={"trials": 12}), storage)
    prepared = by_hand.PREPARED.model_dump(mode="json")
    storage.write(lambda connection: tables.put(connection, tables.STUDY_USER, study.id, {PREPARED: prepared}))
    for number in range(6):
        claimed = by_hand.must_claim(study)
        if number == 4:
            trials.fail(study, claimed, by_hand.failed(claimed))
            continue
        trials.report(study, claimed, by_hand.epochs(claimed, [0.3, 0.1 + 0.2, 0.5 + number / 100]))
        by_hand.finish(study, claimed, 0.5 + number / 300, ending=Ending.STOPPED if number == 3 else Ending.COMPLETED)
    suspended, lost = by_hand.must_claim(study), by_hand.must_claim(study, _LOST)
    trials.report(study, lost, by_hand.epochs(lost, [0.2]))
    trials.release(study, suspended)
    by_hand.grow_old(study, leases.LEASE_SECONDS + 1)
    studies_enqueue.enqueue(study, {"dropout": 0.3}, by="ada", origin="--set")
    _add_worker(study)
    _add_notes(study)
    again = retraining.begin(study, retraining.configs(study, 1), retraining.seeds(study, 2), top=1)
    by_hand.finish(again, by_hand.must_claim(again), 0.75)
    _add_versions(study, again)
    control.set_budget(study, trials=20)
    control.stop(study, by="ada")
    event = AuditEvent(who="ada", role="editor", method="POST", path="/tuner/stop", status=200, study=name, address="127.0.0.1")
    audit.write(storage, event)
    audit.write(storage, dataclasses.replace(event, study="another", path="/other"))
    return study


def _add_worker(study: Study) -> None:
    """Add a worker that has ended."""
    status = WorkerStatus(device="cpu, 2 threads", versions={"keras": "3"}, memory_bytes=5_000_000_000, trial=1)

    def write(connection: Connection) -> None:
        workers.register(connection, study, _LOST, status, threads=2)
        workers.leave(connection, study.id, _LOST, "nothing left to do")

    study.storage.write(write)


def _add_notes(study: Study) -> None:
    """Add what optuna-dashboard and Optuna's samplers keep with the ids of trials."""
    theirs = optuna.load_study(study_name=study.name, storage=study.storage.rdb)
    one, two = theirs.get_trials()[1:3]
    ids = [optuna_private.trial_id(trial) for trial in (one, two)]
    _note.save_note_with_version(study.storage.rdb, study.id, ids[0], 7, NOTE)
    meta = json.dumps(dataclasses.asdict(ArtifactMeta(artifact_id="a1", filename="x.png", mimetype="image/png", encoding=None)))
    study.storage.rdb.set_study_system_attr(study.id, f"dashboard:artifacts:{ids[0]}:a1", meta)
    study.storage.rdb.set_study_system_attr(study.id, "NSGAIISampler:parent:1", ids)

    def write(connection: Connection) -> None:
        tables.put(connection, tables.TRIAL_SYSTEM, ids[0], {"cma:optimizer:0": "80049500"})
        # a value that plain Optuna writes, but not tuner
        kept = {"trial_id": ids[1], "step": 99, "intermediate_value": None, "intermediate_value_type": "NAN"}
        connection.execute(insert(tables.INTERMEDIATE).values(**kept))

    study.storage.write(write)


def _add_versions(study: Study, again: Study) -> None:
    reading = NewReading(splits="5" * 64, by="ada", purpose="retrain", accuracy=0.1 + 0.2, num_images=200)
    verdict = {"study": study.name, "retraining": again.name, "test_accuracy": 0.9}
    versions.add(study.storage, new_version(name=study.name, study=again.name, metrics=verdict), reading=reading)
    of_trial = new_version(name=study.name, study=study.name, origin=WeightsSource.TRIAL, artifact="/w/flowers/trial-1/w.h5")
    versions.add(study.storage, of_trial)
    versions.add(study.storage, new_version(name=study.name, study=study.name))
    for number in (1, 2):
        stages.promote(study.storage, study.name, number, by="ada")
    stages.rollback(study.storage, study.name, by="ben")
    stages.promote(study.storage, study.name, 2, stage=VersionStage.STAGING, by="ben")
    versions.delete(study.storage, study.name, 3, by="ada")


def contents(study: Study, *, rounds: bool = False) -> dict[str, Any]:
    """Return everything that a storage has about a study without the ids of its database; `rounds`: times of trials in whole seconds."""
    storage, name = study.storage, study.name
    known = storage.rdb.get_all_trials(study.id)
    attributes = storage.rdb.get_study_system_attrs(study.id)
    numbers = {optuna_private.trial_id(trial): trial.number for trial in known}
    theirs = optuna.load_study(study_name=name, storage=storage.rdb)
    return {
        "trials": [_trial(trial, rounds=rounds) for trial in known],
        "user": {key: value for key, value in theirs.user_attrs.items() if key != "copied"},
        "directions": theirs.directions,
        "metrics": theirs.metric_names,
        "parents": [numbers[trial_id] for trial_id in attributes.get("NSGAIISampler:parent:1", ())],
        "notes": [_note.get_note_from_system_attrs(attributes, trial_id)["body"] for trial_id in numbers],
        "attachments": [numbers[int(key.split(":")[2])] for key in attributes if key.startswith("dashboard:artifacts:")],
        "keys": len(attributes),
        "versions": versions.all(storage, name, deleted=True),
        "stages": stages.history(storage, name),
        "readings": versions.readings(storage, name),
        "audit": [(record.at, record.event) for record in audit.read(storage, limit=100) if record.event.study == name],
    } | {table.name: _rows(study, table) for table in _OURS}


def _trial(trial: optuna.trial.FrozenTrial, *, rounds: bool) -> dict[str, Any]:
    fields = ("number", "state", "values", "params", "distributions", "intermediate_values", "user_attrs", "system_attrs")
    moments = {name: _moment(getattr(trial, name), rounds=rounds) for name in ("datetime_start", "datetime_complete")}
    return {name: _comparable(getattr(trial, name)) for name in fields} | moments


def _comparable(value: Any) -> Any:
    """Return a value with which a NaN is equal to itself, and without an order where databases promise none."""
    return {key: repr(item) for key, item in value.items()} if isinstance(value, dict) else repr(value)


def _moment(at: datetime | None, *, rounds: bool) -> datetime | None:
    return None if at is None else at - timedelta(microseconds=at.microsecond) if rounds else at


def _rows(study: Study, table: Any) -> list[Any]:
    names = [column.name for column in table.columns if column.name not in ("study_id", "trial_id")]
    query = select(*(table.c[name] for name in names)).where(table.c.study_id == study.id)
    return sorted(tuple(row) for row in study.storage.read(lambda connection: connection.execute(query).all()))
