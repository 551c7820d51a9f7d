"""Trials: what a worker does with a trial. It claims the trial, reports epochs, asks whether to continue, and ends it.

Every step is one transaction that starts with the worker's lease. A worker that was silent for too long, and whose trial another worker
has, gets LeaseLost, drops the trial and claims the next one. A result is still accepted as long as the trial is open.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from optuna.trial import FrozenTrial
from sqlalchemy import Connection

from tuner.errors import LeaseLost, UnusableTrial
from tuner.protocol import messages
from tuner.protocol.messages import Ending
from tuner.sampling import pruners
from tuner.spec import budget
from tuner.spec import hyperparameters as values
from tuner.spec.hyperparameters import Plain, TrialValues
from tuner.storage import epochs as epoch_rows
from tuner.storage import tables
from tuner.storage.attributes import HALTED, HYPERPARAMETERS, RESUMED_AT, STOPPED, STOPPED_BY, TEST
from tuner.storage.tables import STUDY_USER, TRIAL_USER
from tuner.studies import claims, continuation, endings, leases, outcomes, reaper, workers
from tuner.studies import progress as studies_progress
from tuner.studies.claims import Claim
from tuner.studies.continuation import Promotion
from tuner.studies.leases import LeaseEnding, WorkerId
from tuner.studies.outcomes import Delivery, Outcome
from tuner.studies.planning import Plan
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
    "has_trial",
    "hyperparameters",
    "keep_asked",
    "keep_test",
    "promotion",
    "reap",
    "release",
    "report",
    "resume",
    "should_prune",
    "stop_reason",
    "stopped",
    "subtract_sleep",
    "yielded",
]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class HeartbeatAnswer:
    """The answer to a heartbeat."""

    #: number of leases that the worker still has
    num_leases: int
    #: the request to the worker; None if the study does not know the worker
    request: WorkerRequest | None


def claim(
    study: Study,
    worker: WorkerId,
    *,
    num_train: int,
    num_classes: int,
    epochs: int,
    proposal: Plan | None = None,
    refused: Callable[[int, str], None] = lambda number, why: None,
) -> Claim | None:
    """Claim a trial for a worker: a running one without a worker, else a new one. Return None if there is none; see `stop_reason`.

    A resumed trial keeps its number, hyperparameters and seed. If None is returned, other workers may still be training.
    A trial that another program enqueued with values that the study does not search fails; `refused` gets its number and the reason.
    `proposal` becomes the plan of a study without trials; in a study with a plan, trials have the plan's `epochs`.

    Raises:
        Dismissed: this worker was asked to end.
        StorageError: the storage does not answer; the next call claims the same trial again.
    """
    if not study.memory.is_loaded:
        study.storage.read(lambda connection: study.memory.load(connection, study.id))
    while (held := study.storage.write(lambda connection: claims.lease(connection, study, worker, proposal=proposal))) is not None:
        rule = claims.rule(study, num_train=num_train, num_classes=num_classes)
        try:
            chosen = claims.choose(study, held, worker, claims.plan(study, held, rule), rule)
        except LeaseLost:
            continue  # the sampler took so long that another worker got the trial
        except UnusableTrial as error:
            claims.refuse(study, held, worker, error)
            refused(held.number, str(error))
            continue
        return Claim(
            number=held.number,
            trial_id=held.trial_id,
            hyperparameters=chosen,
            seed=claims.seed(study, held.number),
            attempt=held.attempt,
            epochs=held.epochs or (epochs if held.plan is None else held.plan.epochs),
            worker_key=worker.key,
            worker=worker.name,
        )
    return None


def stop_reason(study: Study) -> str | None:
    """Return why no further trial starts, or None if one may start."""

    def read(connection: Connection) -> str | None:
        known, progress = studies_progress.read(connection, study)
        return budget.decide(known.spec.budget, progress)

    return study.storage.read(read)


def has_trial(study: Study, worker: WorkerId) -> bool:
    """Return whether a study has a trial for one more worker: a new one, or a running one without a worker."""

    def read(connection: Connection) -> bool:
        known, progress = studies_progress.read(connection, study)
        if budget.decide(known.spec.budget, progress) is None:
            return True
        if budget.decide_to_end(known.spec.budget, progress) is not None:
            return False
        now, steady_seconds = tables.clock(connection), study.storage.steady_seconds()
        running = leases.of_running_trials(connection, study.id)
        return any(lease.is_vacant(worker, now, steady_seconds=steady_seconds) for lease in running)

    return study.storage.read(read)


def stopped(study: Study) -> str | None:
    """Return why the study stopped itself, or None if it did not."""
    return study.storage.read(lambda connection: tables.get(connection, STUDY_USER, study.id, STOPPED)).get(STOPPED)


def resume(study: Study) -> None:
    """Resume a study that stopped itself or was stopped; earlier failures no longer count."""

    def write(connection: Connection) -> None:
        for reason in (STOPPED, HALTED):
            tables.remove(connection, STUDY_USER, study.id, reason)
        tables.put(connection, STUDY_USER, study.id, {RESUMED_AT: tables.clock(connection)})
        workers.withdraw_suspensions(connection, study.id)

    if study.storage.read(lambda connection: tables.get(connection, STUDY_USER, study.id, STOPPED, HALTED)):
        study.storage.write(write)


def report(study: Study, claim: Claim, epochs: Sequence[messages.Epoch]) -> None:
    """Store epochs; a stored step is not overwritten.

    Raises:
        LeaseLost: another worker has the trial now.
    """
    _held(
        study,
        claim,
        lambda connection: epoch_rows.put(
            connection, study.id, number=claim.number, trial_id=claim.trial_id, epochs=epochs, spec=study.spec
        ),
    )


def promotion(study: Study, claim: Claim, probed: messages.Probed, epochs: Sequence[messages.Epoch] = ()) -> Promotion:
    """Return whether a trial is promoted from its probe to fine-tuning; this is decided once. Trial 0 is always promoted.

    The call also stores epochs that are not reported yet.

    Raises:
        LeaseLost: another worker has the trial now.
    """

    def decide(connection: Connection) -> Promotion:
        epoch_rows.put(connection, study.id, number=claim.number, trial_id=claim.trial_id, epochs=epochs, spec=study.spec)
        return continuation.decide(connection, study, claim, value=probed.value)

    return _held(study, claim, decide)


def should_prune(study: Study, claim: Claim, epochs: Sequence[messages.Epoch] = ()) -> bool:
    """Return whether a trial must be pruned, based on the reported epochs of all trials and on epochs that are not reported yet."""
    pruner = pruners.build(study.spec, epochs=claim.epochs)
    if pruner.never_prunes or (epochs and epochs[-1].step <= pruner.start):
        return False
    return study.storage.call(lambda: continuation.is_poor(study, claim, epochs, pruner))


def finish(study: Study, claim: Claim, finished: messages.Finished, curve: Sequence[messages.Epoch], *, device: str) -> None:
    """End a trial that did not fail as completed or pruned, or suspend it.

    The result of a worker that was thought lost is accepted if the trial is still open; the current worker then gets LeaseLost.

    Raises:
        LeaseLost: the trial has ended, or another worker has the suspended trial now.
    """
    if finished.ending is Ending.SUSPENDED:
        release(study, claim)
    else:
        study.storage.write(lambda connection: outcomes.finish(connection, study, claim, finished, curve, device=device))


def fail(study: Study, claim: Claim, failed: messages.Failed) -> None:
    """End a trial as failed. Three failures in a row of one kind stop the study; a mistake in the study file stops it at once.

    Raises:
        LeaseLost: another worker has the trial now, or it has ended.
    """
    study.storage.write(lambda connection: outcomes.fail(connection, study, claim, failed))


def keep_asked(study: Study, claim: Claim, asked: Mapping[str, Plain]) -> None:
    """Remove from a trial that a user stopped the values that were chosen for it beforehand, and for which it did not ask."""

    def write(connection: Connection) -> None:
        tables.lock_study(connection, study.id, study.name)
        if STOPPED_BY in tables.get(connection, TRIAL_USER, claim.trial_id, STOPPED_BY):
            outcomes.keep_asked(connection, claim, asked)

    study.storage.write(write)


def release(study: Study, claim: Claim) -> None:
    """Suspend a trial, so that the next claim resumes it; for Optuna its state stays running.

    Raises:
        LeaseLost: another worker has the trial now.
    """
    study.storage.write(lambda connection: outcomes.release(connection, study, claim))


def deliver(study: Study, claim: Claim, epochs: Sequence[messages.Epoch], outcome: Outcome | None, *, device: str) -> Delivery:
    """Store the epochs of a lost worker, and the outcome of its trial if it had ended. Repeating the call changes nothing."""
    return study.storage.write(lambda connection: outcomes.deliver(connection, study, claim, epochs, outcome, device=device))


def beat(study: Study, worker: WorkerId, status: WorkerStatus) -> HeartbeatAnswer:
    """Renew the leases of a worker, and store its status."""

    def write(connection: Connection) -> HeartbeatAnswer:
        num_leases = leases.renew(connection, study.id, worker)
        return HeartbeatAnswer(num_leases=num_leases, request=workers.beat(connection, study.id, worker, status))

    return study.storage.write(write)


def subtract_sleep(study: Study, worker: WorkerId, *, slept_seconds: float, awake_seconds: float) -> None:
    """Do not count the sleep of a worker, which woke up `awake_seconds` ago, as work."""
    study.storage.write(
        lambda connection: leases.subtract_sleep(connection, study.id, worker, slept_seconds=slept_seconds, awake_seconds=awake_seconds)
    )


def yielded(study: Study, claim: Claim) -> None:
    """Note that a worker that was thought lost has given its trial up: this loss no longer counts towards the limit of losses."""

    def write(connection: Connection) -> None:
        number, attempt = claim.number, claim.attempt
        own = leases.find(connection, study.id, trial_number=number, attempt=attempt, worker_key=claim.worker_key)
        if own is not None and own.ending == LeaseEnding.LOST:
            leases.mark(connection, study.id, trial_number=number, attempt=attempt, ending=LeaseEnding.RELEASED)

    study.storage.write(write)


def reap(study: Study, worker: WorkerId) -> list[Reaped]:
    """End the leases of other workers that are lost. Their trials wait for the next claim, or fail if they lost too many workers.

    If no worker is lost, this costs one statement.
    """
    return reaper.reap(study, worker)


def keep_test(study: Study, score: messages.Evaluated) -> None:
    """Store how a finished trial scores on the test split."""
    measured = score.model_dump(mode="json", exclude={"kind", "trial", "confusion", "by_class"})
    known = {name: value for name, value in measured.items() if value not in (None, {})}

    def write(connection: Connection) -> None:
        trial_id = tables.trial_id(connection, study.id, score.trial)
        tables.put(connection, TRIAL_USER, trial_id, {TEST: endings.finite(known)})

    study.storage.write(write)


def hyperparameters(trial: FrozenTrial) -> TrialValues | None:
    """Return the hyperparameters of a trial, or None if its worker was lost before they were chosen."""
    stored = trial.system_attrs.get(HYPERPARAMETERS)
    return None if stored is None else values.parse(stored)


def _held(study: Study, claim: Claim, work: Callable[[Connection], T]) -> T:
    def write(connection: Connection) -> T:
        if not leases.hold(connection, study.id, trial_number=claim.number, attempt=claim.attempt, worker_key=claim.worker_key):
            raise outcomes.lost(connection, claim)
        return work(connection)

    return study.storage.write(write)
