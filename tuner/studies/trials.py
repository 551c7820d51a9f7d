"""What a worker does with a trial: claim it, report on it, ask what is to become of it, end it.

Every step is one transaction that begins with the worker's lease. A worker that was not seen for too long, and whose trial went to another,
gets LeaseLost, drops the trial and claims the next. Only with the trial's result it is not too late as long as the trial is open.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from optuna.trial import FrozenTrial
from sqlalchemy import Connection

from tuner.errors import LeaseLost
from tuner.protocol import messages
from tuner.protocol.messages import Ending
from tuner.sampling import pruners
from tuner.spec import budget
from tuner.spec.hyperparameters import Hyperparameters
from tuner.storage import epochs as epoch_rows
from tuner.storage import tables
from tuner.storage.attributes import HALTED, HYPERPARAMETERS, RESUMED_AT, STOPPED, TEST
from tuner.storage.tables import STUDY_USER, TRIAL_USER
from tuner.studies import claims, continuation, endings, leases, outcomes, reaper, workers
from tuner.studies import progress as studies_progress
from tuner.studies.claims import Claim
from tuner.studies.leases import WorkerId
from tuner.studies.outcomes import Delivery, Outcome
from tuner.studies.reaper import Reaped
from tuner.studies.study import Study
from tuner.studies.workers import WorkerRequest, WorkerStatus

__all__ = [
    "Claim",
    "Delivery",
    "HeartbeatAnswer",
    "Reaped",
    "WorkerId",
    "beat",
    "claim",
    "deliver",
    "fail",
    "finish",
    "hyperparameters",
    "keep_test",
    "promoted",
    "reap",
    "release",
    "report",
    "resume",
    "should_prune",
    "stop_reason",
    "stopped",
]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class HeartbeatAnswer:
    """What a worker hears when it says that it lives."""

    #: trials that it is still entitled to
    num_leases: int
    #: what someone asks of it; None: it is not known here
    wish: WorkerRequest | None


def claim(study: Study, worker: WorkerId, *, num_train: int, num_classes: int, epochs: int) -> Claim | None:
    """A trial to work on: one that was begun and is left alone, else a new one. None if there is none: `stop_reason` says why.

    A trial that is taken up has the number, hyperparameters and seed that it had. Where None is returned, others may still be at work.

    Raises:
        Dismissed: someone asked this worker to end.
        StorageError: the storage is away; what was claimed by then is claimed again by the next call.
    """
    if not study.memory.is_begun:
        study.storage.read(lambda connection: study.memory.begin(connection, study.id))
    while (place := study.storage.write(lambda connection: claims.lease(connection, study, worker))) is not None:
        given = claims.plan(study, place.number, num_train=num_train, num_classes=num_classes)
        try:
            chosen = claims.choose(study, place, worker, given)
        except LeaseLost:
            continue  # the sampler took so long that another worker was given the trial
        return Claim(
            number=place.number,
            trial_id=place.trial_id,
            hyperparameters=chosen,
            seed=claims.seed(study, place.number),
            attempt=place.attempt,
            epochs=epochs,
            worker_key=worker.key,
        )
    return None


def stop_reason(study: Study) -> str | None:
    """Why no further trial starts; None if one may."""

    def read(connection: Connection) -> str | None:
        known, progress = studies_progress.read(connection, study)
        return budget.decide(known.spec.budget, progress)

    return study.storage.read(read)


def stopped(study: Study) -> str | None:
    """Why the study stopped itself; None if it did not."""
    return study.storage.read(lambda connection: tables.get(connection, STUDY_USER, study.id, STOPPED)).get(STOPPED)


def resume(study: Study) -> None:
    """Let a study that stopped itself, or that someone stopped, go on; the failures so far count no more."""

    def write(connection: Connection) -> None:
        for reason in (STOPPED, HALTED):
            tables.remove(connection, STUDY_USER, study.id, reason)
        tables.put(connection, STUDY_USER, study.id, {RESUMED_AT: tables.clock(connection)})
        workers.forgive(connection, study.id)

    if study.storage.read(lambda connection: tables.get(connection, STUDY_USER, study.id, STOPPED, HALTED)):
        study.storage.write(write)


def report(study: Study, claim: Claim, epochs: Sequence[messages.Epoch]) -> None:
    """Store epochs; a step that is stored already stays as it is. The value is the best validation accuracy so far over both stages.

    Raises:
        LeaseLost: another worker has the trial now.
    """
    _held(
        study, claim, lambda connection: epoch_rows.put(connection, study.id, number=claim.number, trial_id=claim.trial_id, epochs=epochs)
    )


def promoted(study: Study, claim: Claim, probed: messages.Probed, epochs: Sequence[messages.Epoch] = ()) -> bool:
    """Whether a trial goes on from its probe to fine-tuning, among the best of all probes so far; decided once. Trial 0 always does.

    Epochs that are not reported yet are stored by the way.

    Raises:
        LeaseLost: another worker has the trial now.
    """

    def decide(connection: Connection) -> bool:
        epoch_rows.put(connection, study.id, number=claim.number, trial_id=claim.trial_id, epochs=epochs)
        return continuation.decide(connection, study, number=claim.number, trial_id=claim.trial_id, value=probed.value)

    return _held(study, claim, decide)


def should_prune(study: Study, claim: Claim, epochs: Sequence[messages.Epoch] = ()) -> bool:
    """Whether a trial is to be stopped, by what is reported of it and of others, and by epochs that are not reported yet."""
    pruner = pruners.build(study.spec, epochs=claim.epochs)
    if pruner.is_silent or (epochs and epochs[-1].step <= pruner.start):
        return False
    return study.storage.call(lambda: continuation.is_poor(study, claim.trial_id, epochs, pruner))


def finish(study: Study, claim: Claim, finished: messages.Finished, curve: Sequence[messages.Epoch], *, device: str) -> None:
    """End a trial that did not fail: completed with its value, or pruned. One that was suspended is handed back.

    The result of a worker that was given up is kept if the trial is still open; whoever has the trial then gets LeaseLost.

    Raises:
        LeaseLost: the trial has ended; or it was suspended, and another worker has it now.
    """
    if finished.ending is Ending.SUSPENDED:
        release(study, claim)
    else:
        study.storage.write(lambda connection: outcomes.finish(connection, study, claim, finished, curve, device=device))


def fail(study: Study, claim: Claim, failed: messages.Failed) -> None:
    """End a trial that failed. Three failures in a row of the same kind stop the study; a wrong request stops it at once.

    Raises:
        LeaseLost: another worker has the trial now, or it has ended.
    """
    study.storage.write(lambda connection: outcomes.fail(connection, study, claim, failed))


def release(study: Study, claim: Claim) -> None:
    """Hand a suspended trial back, for whoever claims next; it stays running to Optuna.

    Raises:
        LeaseLost: another worker has the trial now.
    """
    study.storage.write(lambda connection: outcomes.release(connection, study, claim))


def deliver(study: Study, claim: Claim, epochs: Sequence[messages.Epoch], outcome: Outcome | None, *, device: str) -> Delivery:
    """Store what a worker that is gone has left: epochs, then what came of its trial if that had ended. Repeating it changes nothing."""
    return study.storage.write(lambda connection: outcomes.deliver(connection, study, claim, epochs, outcome, device=device))


def beat(study: Study, worker: WorkerId, pulse: WorkerStatus) -> HeartbeatAnswer:
    """Renew the leases of a worker, and note how it is."""

    def write(connection: Connection) -> HeartbeatAnswer:
        num_leases = leases.renew(connection, study.id, worker)
        return HeartbeatAnswer(num_leases=num_leases, wish=workers.beat(connection, study.id, worker, pulse))

    return study.storage.write(write)


def reap(study: Study, worker: WorkerId) -> list[Reaped]:
    """End the leases of other workers that are gone, so that their trials wait for the next claim, or fail if that came too often.

    Costs one statement where there is none.
    """
    return reaper.reap(study, worker)


def keep_test(study: Study, score: messages.Evaluated) -> None:
    """Keep how a finished trial does on the test split."""
    known = score.model_dump(mode="json", exclude={"kind", "trial", "confusion"})

    def write(connection: Connection) -> None:
        trial_id = tables.trial_id(connection, study.id, score.trial)
        tables.put(connection, TRIAL_USER, trial_id, {TEST: endings.finite(known)})

    study.storage.write(write)


def hyperparameters(trial: FrozenTrial) -> Hyperparameters | None:
    """What a trial trains with; None if its worker was lost before that was chosen."""
    stored = trial.system_attrs.get(HYPERPARAMETERS)
    return None if stored is None else Hyperparameters.model_validate(stored)


def _held(study: Study, claim: Claim, work: Callable[[Connection], T]) -> T:
    def write(connection: Connection) -> T:
        if not leases.hold(connection, study.id, trial_number=claim.number, attempt=claim.attempt, worker_key=claim.worker_key):
            raise outcomes.lost(connection, claim)
        return work(connection)

    return study.storage.write(write)
