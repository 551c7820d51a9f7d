"""Endings: stores the final state of a trial with its attributes and notes, and stops a study after repeated failures."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Connection

from tuner import wording
from tuner.errors import LeaseLost
from tuner.protocol import failure_table, messages
from tuner.protocol.messages import Stage
from tuner.spec.objective import exceeded
from tuner.storage import attributes, optuna_private, queries, tables
from tuner.storage.attributes import (
    BEST_EPOCH,
    BY_CLASS,
    CODE,
    CONFUSION,
    CONSTRAINED,
    DEVICE,
    ERROR,
    FINE_TUNE_SECONDS,
    INFEASIBLE,
    LOG,
    LOGITS,
    MEASURED_ALONE,
    MESSAGE,
    METRICS,
    MISTAKES,
    NUM_EPOCHS,
    PROBE_SECONDS,
    REASON,
    RESUMED_AT,
    SECONDS,
    STAGE,
    STOPPED,
    TRAIN_ACCURACY,
    VALIDATION_LOSS,
    WEIGHTS,
    WEIGHTS_BYTES,
)
from tuner.storage.epochs import EpochRow
from tuner.storage.queries import ValuedTrial
from tuner.storage.tables import STUDY_SYSTEM, STUDY_USER, TRIAL_SYSTEM, TRIAL_USER
from tuner.studies import leases, notes, pictures
from tuner.studies import study as studies
from tuner.studies.leases import LeaseEnding
from tuner.studies.notes import BestNote
from tuner.studies.study import Study

#: maximum length of a log
LOG_BYTES = 4096
#: a longer message is cut
_MESSAGE_LENGTH = 2000
#: a confusion matrix of more classes is not stored: databases limit the length of an attribute
_CONFUSED_CLASSES = 100
#: final states in words
OUTCOMES = {TrialState.COMPLETE: "completed", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def mark_completed(connection: Connection, study: Study, *, number: int, trial_id: int, value: float, known: Mapping[str, Any]) -> None:
    """Set a trial to completed, and update the study's note if it is the best trial. `known` are its attributes."""
    leader = queries.best(connection, study.id)
    _close(connection, study, trial_id=trial_id, state=TrialState.COMPLETE, value=value, known=known)
    if INFEASIBLE in known:
        tables.put(connection, STUDY_SYSTEM, study.id, {CONSTRAINED: True})
        return
    if leader is None or study.spec.objective.is_better(value, leader.value):
        _put_best(connection, study, ValuedTrial(trial_id=trial_id, number=number, value=value))


def _put_best(connection: Connection, study: Study, best: ValuedTrial | None) -> None:
    """Store the note of a study with its best trial."""
    note = None
    if best is not None:
        note = BestNote(number=best.number, value=best.value, parameters=tables.parameters(connection, best.trial_id))
    notes.put(connection, study.id, notes.of_study(studies.up_to_date(connection, study).spec, best=note))


def correct_costs(study: Study, number: int, costs: Mapping[str, float]) -> str:
    """Store what was measured of a completed trial again, and return which constraints it exceeds; the best trial may change."""

    def write(connection: Connection) -> str:
        tables.lock_study(connection, study.id, study.name)
        leader, trial_id = queries.best(connection, study.id), tables.trial_id(connection, study.id, number)
        known, constraints = of_constraints(study.spec.limits, costs)
        if INFEASIBLE in known:
            tables.put(connection, STUDY_SYSTEM, study.id, {CONSTRAINED: True})
        else:
            tables.remove(connection, TRIAL_USER, trial_id, INFEASIBLE)
        tables.put(connection, TRIAL_USER, trial_id, {**known, MEASURED_ALONE: True})
        tables.put(connection, TRIAL_SYSTEM, trial_id, constraints)
        value = queries.values(connection, study.id)[number]
        attributes_now = tables.all_of(connection, TRIAL_USER, trial_id)
        notes.replace(connection, study.id, _note(TrialState.COMPLETE, value, attributes_now), trial_id=trial_id)
        best = queries.best(connection, study.id)
        if best != leader:
            _put_best(connection, study, best)
        return str(known.get(INFEASIBLE, ""))

    return study.storage.write(write)


def mark_pruned(connection: Connection, study: Study, *, trial_id: int, value: float | None, known: Mapping[str, Any]) -> None:
    """Set a trial to pruned; its value is the one so far."""
    _close(connection, study, trial_id=trial_id, state=TrialState.PRUNED, value=value, known=known)


def mark_failed(connection: Connection, study: Study, *, trial_id: int, known: Mapping[str, Any]) -> None:
    """Set a trial to failed."""
    _close(connection, study, trial_id=trial_id, state=TrialState.FAIL, value=None, known=known)


def of_finished(finished: messages.Finished, curve: Sequence[EpochRow], *, device: str) -> dict[str, Any]:
    """Return the user attributes of a trial that did not fail."""
    best = next((epoch for epoch in curve if epoch.step == finished.best_step), None)
    # only user code is asked for values, and its trials have one stage
    stage = curve[-1].stage if curve else Stage.PROBE if finished.asked is None else Stage.TRAIN
    known: dict[str, Any] = {
        STAGE: stage.value,
        NUM_EPOCHS: len(curve),
        BEST_EPOCH: finished.best_step,
        TRAIN_ACCURACY: None if best is None or best.accuracy is None else round(best.accuracy, 5),
        VALIDATION_LOSS: None if best is None or best.validation_loss is None else round(best.validation_loss, 5),
        METRICS: {name: round(value, 6) for name, value in finished.metrics.items() if math.isfinite(value)} or None,
        SECONDS: round(finished.probe_seconds + finished.fine_tune_seconds, 3),
        PROBE_SECONDS: None if stage is Stage.TRAIN else round(finished.probe_seconds, 3),
        FINE_TUNE_SECONDS: None if stage is Stage.TRAIN else round(finished.fine_tune_seconds, 3),
        CODE: finished.code,
        DEVICE: device,
        REASON: finished.reason,
        WEIGHTS: finished.weights,
        WEIGHTS_BYTES: None if finished.weights is None else finished.weights_bytes,
        LOGITS: finished.logits,
    }
    ours = finite({name: value for name, value in known.items() if value not in (None, "")})
    return {(f"user.{name}" if name in attributes.RESERVED else name): value for name, value in finished.attributes.items()} | ours


def of_constraints(limits: Mapping[str, float], costs: Mapping[str, float]) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the user attributes of a completed trial of a study with limits, and the system attributes that Optuna's samplers read."""
    over = exceeded(limits, costs)
    known = {**costs, **({INFEASIBLE: over} if over else {})}
    return known, {f"{optuna_private.CONSTRAINTS}{name}": costs[name] - limit for name, limit in limits.items() if name in costs}


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values without those that are infinite or NaN, which JSON cannot hold."""
    return {name: value for name, value in values.items() if not isinstance(value, float) or math.isfinite(value)}


def of_failed(failed: messages.Failed) -> dict[str, Any]:
    """Return the user attributes of a failed trial."""
    return {ERROR: failed.error, MESSAGE: failed.message[:_MESSAGE_LENGTH]} | ({CODE: failed.code} if failed.code else {})


def put_findings(connection: Connection, trial_id: int, finished: messages.Finished) -> None:
    """Store the confusion of the best epoch or its labels, its worst mistakes, the ids of the pictures, and what user code printed."""
    found: dict[str, Any] = pictures.attributes(finished.pictures)
    if 0 < len(finished.confusion) <= _CONFUSED_CLASSES:
        found[CONFUSION] = finished.confusion
    if finished.by_class:  # a bundle needs the threshold of each
        found[BY_CLASS] = [each.model_dump() for each in finished.by_class]
    if finished.mistakes:
        found[MISTAKES] = [mistake.model_dump() for mistake in finished.mistakes]
    if finished.printed:
        found[LOG] = _stored_text(finished.printed)
    tables.put(connection, TRIAL_SYSTEM, trial_id, found)


def put_log(connection: Connection, trial_id: int, failed: messages.Failed) -> None:
    """Store the last lines of the log of a failed trial."""
    if failed.log:
        tables.put(connection, TRIAL_SYSTEM, trial_id, {LOG: _stored_text(failed.log)})


def _stored_text(text: str) -> str:
    return text.encode()[-LOG_BYTES:].decode(errors="ignore").replace("\0", "")


def stop_if_hopeless(connection: Connection, study: Study, failed: messages.Failed) -> None:
    """Stop a study if its last trials all failed with the same error, or if its study file is wrong."""
    message = failed.message[:_MESSAGE_LENGTH]
    if failed.is_request:
        tables.put(connection, STUDY_USER, study.id, {STOPPED: f"no worker can train this study: {message}"})
        return
    since = tables.get(connection, STUDY_USER, study.id, RESUMED_AT).get(RESUMED_AT, 0.0)
    last = leases.last_results(connection, study.id, count=failure_table.MAX_FAILURES, since=since)
    if len(last) == failure_table.MAX_FAILURES and all(result == (LeaseEnding.FAILED, failed.error) for result in last):
        reason = f"{failure_table.MAX_FAILURES} trials in a row failed with {failed.model_copy(update={'message': message}).words}"
        tables.put(connection, STUDY_USER, study.id, {STOPPED: f"{reason}. Fix the cause, then run the study again."})


def _close(
    connection: Connection, study: Study, *, trial_id: int, state: TrialState, value: float | None, known: Mapping[str, Any]
) -> None:
    if not tables.finish_trial(connection, trial_id, state, value):
        raise LeaseLost("the trial was ended by someone else")
    tables.put(connection, TRIAL_USER, trial_id, known)
    notes.put(connection, study.id, _note(state, value, known), trial_id=trial_id)


def _note(state: TrialState, value: float | None, known: Mapping[str, Any]) -> str:
    """Return the note of a trial that ended."""
    reason = str(known.get(REASON, known.get(MESSAGE, "")))
    figures = {name: figure for name, figure in known.items() if name not in (REASON, MESSAGE)}
    outcome = OUTCOMES[state] + ("" if value is None else f" with {wording.figure(value)}")
    return notes.of_trial(outcome=outcome, reason=reason, attributes=figures)
