"""Outcomes: stores the result of an attempt as the end of its trial. A late result counts as long as the trial is open.

A result does not depend on the worker, because hyperparameters and seed belong to the trial. The result of a worker that was thought
lost is therefore stored, and the worker that has the trial now loses its lease.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum

from sqlalchemy import Connection

from tuner.errors import LeaseLost, TrialStopped
from tuner.protocol import messages
from tuner.protocol.messages import Ending
from tuner.spec.hyperparameters import ChosenValues, Hyperparameters, Plain
from tuner.storage import epochs as epoch_rows
from tuner.storage import tables
from tuner.storage.attributes import COPIED, HYPERPARAMETERS, STOPPED_BY, WORKER
from tuner.storage.epochs import EpochRow
from tuner.storage.tables import STUDY_USER, TRIAL_SYSTEM, TRIAL_USER
from tuner.studies import endings, leases
from tuner.studies.claims import Claim
from tuner.studies.leases import Lease, LeaseEnding
from tuner.studies.study import Study

Outcome = messages.Finished | messages.Failed


class Delivery(StrEnum):
    """Result of delivering the stored work of a lost worker."""

    STORED = "stored"
    #: the trial had already ended
    TOO_LATE = "too late"
    #: the storage has no such attempt: it belongs to another database, or the study was deleted
    UNKNOWN = "unknown"


def deliver(
    connection: Connection, study: Study, claim: Claim, epochs: Sequence[messages.Epoch], outcome: Outcome | None, *, device: str
) -> Delivery:
    """Store the epochs and the outcome that a lost worker could not deliver. Repeating the call changes nothing."""
    tables.lock_study(connection, study.id, study.name)
    own = _lease(connection, study, claim)
    if own is not None and own.trial_id != claim.trial_id and tables.get(connection, STUDY_USER, study.id, COPIED):
        claim = replace(claim, trial_id=own.trial_id)  # the same attempt, whose trial has another id in this database
    if own is None or own.trial_id != claim.trial_id:
        return Delivery.UNKNOWN
    if not tables.is_running(connection, study.id, claim.trial_id):
        return Delivery.STORED if LeaseEnding(own.ending or LeaseEnding.LOST).is_result else Delivery.TOO_LATE
    epoch_rows.put(connection, study.id, number=claim.number, trial_id=claim.trial_id, epochs=epochs, spec=study.spec)
    if outcome is None:
        return Delivery.STORED  # the next worker of the trial ends the lease
    # the lease ends when its worker was last seen: it did no work afterwards
    _end(connection, study, claim, LeaseEnding.LOST)
    try:
        _store(connection, study, claim, epochs, outcome, device)
    except LeaseLost:
        return Delivery.TOO_LATE  # a failure, and another worker has the trial
    return Delivery.STORED


def finish(
    connection: Connection,
    study: Study,
    claim: Claim,
    finished: messages.Finished,
    curve: Sequence[messages.Epoch],
    *,
    device: str,
    is_delivered: bool = False,
) -> None:
    """End a trial that did not fail as completed or pruned. Repeating the call changes nothing.

    `is_delivered`: another worker does so, which knows only the epochs that were not stored yet.

    Raises:
        LeaseLost: the trial has ended in another way.
    """
    value = finished.value
    is_completed = finished.ending is Ending.COMPLETED and value is not None
    if not _is_due(connection, study, claim, LeaseEnding.COMPLETED if is_completed else LeaseEnding.PRUNED):
        return
    epoch_rows.put(connection, study.id, number=claim.number, trial_id=claim.trial_id, epochs=curve, spec=study.spec)
    endings.put_findings(connection, claim.trial_id, finished)
    if finished.asked is not None:
        keep_asked(connection, claim, finished.asked)
    is_whole = bool(curve) and curve[0].step == _first_step(study, claim)  # otherwise the trial was resumed from a checkpoint
    has_none = not is_delivered and not curve and claim.attempt == 1 and finished.best_step is None
    whole = [EpochRow.of(epoch) for epoch in curve] if is_whole or has_none else epoch_rows.read(connection, study.id, claim.number)
    known = endings.of_finished(finished, whole, device=device)
    if is_completed and study.spec.limits:
        measured, constraints = endings.of_constraints(study.spec.limits, finished.costs)
        known |= measured
        tables.put(connection, TRIAL_SYSTEM, claim.trial_id, constraints)
    if is_completed and value is not None:
        endings.mark_completed(connection, study, number=claim.number, trial_id=claim.trial_id, value=value, known=known)
    else:
        endings.mark_pruned(connection, study, trial_id=claim.trial_id, value=value, known=known)


def fail(connection: Connection, study: Study, claim: Claim, failed: messages.Failed) -> None:
    """End a trial as failed, unless another worker has it now.

    Raises:
        LeaseLost: another worker has the trial now, or it has ended in another way.
    """
    if _is_due(connection, study, claim, LeaseEnding.FAILED, failed.error):
        endings.mark_failed(connection, study, trial_id=claim.trial_id, known=endings.of_failed(failed))
        endings.put_log(connection, claim.trial_id, failed)
        endings.stop_if_hopeless(connection, study, failed)


def release(connection: Connection, study: Study, claim: Claim) -> None:
    """Suspend a trial, so that another worker can resume it. Repeating the call changes nothing.

    Raises:
        LeaseLost: another worker has the trial now.
    """
    if not _end(connection, study, claim, LeaseEnding.RELEASED):
        own = _lease(connection, study, claim)
        if own is None or own.ending != LeaseEnding.RELEASED:
            raise lost(connection, claim)


def lost(connection: Connection, claim: Claim) -> LeaseLost:
    """Return the error for a worker whose attempt no longer counts."""
    stopped_by = tables.get(connection, TRIAL_USER, claim.trial_id, STOPPED_BY).get(STOPPED_BY)
    if stopped_by is not None:
        return TrialStopped(f"stopped by {stopped_by}")
    return LeaseLost(f"trial {claim.number} was given to another worker; attempt {claim.attempt} no longer counts")


def _first_step(study: Study, claim: Claim) -> int:
    """Return the number of the first epoch of a trial."""
    chosen = claim.hyperparameters
    return study.spec.probe_epochs if isinstance(chosen, Hyperparameters) and chosen.is_probed_exactly else 1


def keep_asked(connection: Connection, claim: Claim, asked: Mapping[str, Plain]) -> None:
    """Remove the values that were chosen for a trial because earlier trials had asked for them, and for which it did not ask."""
    chosen = claim.hyperparameters
    if not isinstance(chosen, ChosenValues) or chosen.values != dict(asked):
        tables.remove_parameters(connection, claim.trial_id, besides=tuple(asked))
        tables.put(connection, TRIAL_SYSTEM, claim.trial_id, {HYPERPARAMETERS: ChosenValues(values=dict(asked)).model_dump(mode="json")})


def _store(connection: Connection, study: Study, claim: Claim, epochs: Sequence[messages.Epoch], outcome: Outcome, device: str) -> None:
    if isinstance(outcome, messages.Finished):
        finish(connection, study, claim, outcome, epochs, device=device, is_delivered=True)
    else:
        fail(connection, study, claim, outcome)


def _is_due(connection: Connection, study: Study, claim: Claim, ending: LeaseEnding, error: str = "") -> bool:
    """End the lease with the trial's result, and return False if the result is stored already."""
    return _end(connection, study, claim, ending, error) or _accept_late(connection, study, claim, ending, error)


def _end(connection: Connection, study: Study, claim: Claim, ending: LeaseEnding, error: str = "") -> bool:
    return leases.end(
        connection, study.id, trial_number=claim.number, attempt=claim.attempt, worker_key=claim.worker_key, ending=ending, error=error
    )


def _lease(connection: Connection, study: Study, claim: Claim) -> Lease | None:
    return leases.find(connection, study.id, trial_number=claim.number, attempt=claim.attempt, worker_key=claim.worker_key)


def _accept_late(connection: Connection, study: Study, claim: Claim, ending: LeaseEnding, error: str) -> bool:
    """Accept the result of an attempt whose lease has ended, and return False if it was stored before.

    Raises:
        LeaseLost: the trial has ended, or the result is a failure and another worker has the trial.
    """
    tables.lock_study(connection, study.id, study.name)
    own = _lease(connection, study, claim)
    if own is not None and own.ending == ending:
        return False  # an earlier call succeeded without an acknowledgement
    if own is None or not tables.is_running(connection, study.id, claim.trial_id):
        raise lost(connection, claim)
    if ending is LeaseEnding.FAILED and leases.is_held(connection, study.id, claim.number):
        raise lost(connection, claim)  # the other worker may succeed
    leases.close(connection, study.id, claim.number, LeaseEnding.SUPERSEDED)
    leases.mark(connection, study.id, trial_number=claim.number, attempt=claim.attempt, ending=ending, error=error)
    tables.put(connection, TRIAL_USER, claim.trial_id, {WORKER: own.worker})
    return True
