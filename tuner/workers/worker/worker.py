"""Worker: claims trials, trains them and stores their results until the study needs no more or someone stops the worker."""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tuner import wording
from tuner.errors import Dismissed, LeaseLost, StorageError, TrialStopped
from tuner.machine import SleepWatch
from tuner.protocol import failure_table, messages
from tuner.protocol.messages import Ending
from tuner.spec.objective import exceeded, is_near
from tuner.storage import retry
from tuner.storage.retry import Schedule
from tuner.studies import data_check, leases, pictures, planning, retention, trials
from tuner.studies.study import Study
from tuner.studies.trials import Claim, WorkerId
from tuner.studies.workers import WorkerRequest
from tuner.trust import at_rest, user_code
from tuner.workers.bucket import transfer
from tuner.workers.bucket.transfer import Folders
from tuner.workers.worker.events import Event, EventEmitter, EventKind, Tell
from tuner.workers.worker.heartbeat import Heartbeat, RosterEntry
from tuner.workers.worker.outbox import AbandonedReports, Outbox, Outcome, Spool, SpoolHeader
from tuner.workers.worker.stopping import Stopping
from tuner.workers.worker.supervision import REPORT_SECONDS, Supervision
from tuner.workers.worker.trainer import TrainerDied, TrainerHung, WarmTrainer, request_error


@dataclass(frozen=True, kw_only=True)
class WorkerTiming:
    """Intervals of a worker's recurring tasks, and its longest waits."""

    #: time between two heartbeats
    beat_seconds: float = field(default_factory=lambda: leases.timing().beat_seconds)
    #: minimum time between two reports of a probe
    report_seconds: float = REPORT_SECONDS
    #: minimum time between two searches for workers that are lost
    reap_seconds: float = field(default_factory=lambda: leases.timing().lease_seconds / 2)
    #: how long it waits for a storage that does not answer
    storage_patience_seconds: float = failure_table.STORAGE_PATIENCE_SECONDS


T = TypeVar("T")


class Worker:
    """One worker of a study."""

    def __init__(self, study: Study, trainer: WarmTrainer, *, identity: WorkerId, folders: Folders, stopping: Stopping, tell: Tell) -> None:
        """`tell` receives every event of the worker."""
        self._timing = WorkerTiming()
        least_seconds = leases.timing().least_sleep_seconds
        self._sleep = SleepWatch(period_seconds=min(1.0, least_seconds / 5), least_seconds=least_seconds)
        self._sleep_lock = threading.Lock()
        self._subtracted_seconds = 0.0
        self._study = study
        self._trainer = trainer
        self._identity = identity
        self._folders = folders
        self._stopping = stopping
        self._tell_caller = tell
        self._roster_entry = RosterEntry(study, identity, trainer)
        self._events = EventEmitter(study.name, identity.name, self._tell)
        self._prepare = messages.Prepare(spec=study.spec.model_dump_json(), cache=str(folders.cache))
        self._prepared: messages.Prepared | None = None
        self._files = transfer.start(folders, study.name, self._events, stopping)
        self._abandoned = AbandonedReports(study, folders.of_spool(study.name), self._events)
        self._pictures = TrialPictures(study, folders.artifacts, self._events)
        self._reaped_at = time.monotonic()
        self._supervision: Supervision | None = None
        self._accepts_code = False
        #: why this worker was asked to end, with the user who asked; "" if it was not
        self._dismissed = ""

    def run(self, timing: WorkerTiming | None = None, *, accept_code: bool = False, stays: Callable[[], bool] = lambda: True) -> None:
        """Train trials until there is nothing more to do, or `stays`, which is called after each trial, returns False.

        `accept_code`: continue with code that differs from what the study recorded, and record it.

        Raises what `WarmTrainer.warm_up`, `data_check.admit` and `trials.claim` raise.
        """
        self._timing = timing or self._timing
        self._accepts_code = accept_code
        self._register()
        self._study.storage.heed_sleep(lambda: self._sleep.passing.slept()[1])
        self._trainer.heed_sleep(self._sleep.running)
        try:
            with self._sleep.on(), Heartbeat(self._beat, self._events.warn, every_seconds=self._timing.beat_seconds):
                self._train_trials(stays)
        finally:
            if self._trainer.is_busy:
                self._trainer.kill()  # nobody waits for its current work
            self._trainer.close()
            self._files.close()
        why = self._why_ended()
        self._roster_entry.close(why)
        self._events.emit(EventKind.ENDED, message=why)

    def _tell(self, event: Event) -> None:
        self._roster_entry.update(event)
        self._tell_caller(event)

    def _register(self) -> None:
        try:
            self._roster_entry.register()
        except StorageError:
            pass  # the heartbeat tries again

    def _why_ended(self) -> str:
        if self._dismissed:
            return self._dismissed
        if self._stopping.is_asked:
            return "asked to stop"
        try:
            return trials.stop_reason(self._study) or ""
        except StorageError:
            return ""  # every result is stored

    def _train_trials(self, stays: Callable[[], bool]) -> None:
        while not self._stopping.is_asked and self._is_ready():
            claim = self._claim()
            if claim is None:
                return
            self._train(claim)
            if not stays():
                self._dismissed = "left the study"
                return

    def _is_ready(self) -> bool:
        """Prepare the trainer, after replacing one that uses too much memory; return False if the worker is asked to stop meanwhile."""
        excess = self._trainer.excess_memory()
        if excess:
            self._events.emit(EventKind.REPLACED, message=excess)
            self._trainer.kill()
        if not self._trainer.is_warm:
            self._prepared = prepared = self._trainer.warm_up(self._prepare)
            if prepared is not None:
                accepted = self._retry(
                    lambda: data_check.admit(self._study, prepared, accept_code=self._accepts_code), lambda: "the first trial waits"
                )
                for change in accepted:
                    self._events.warn(change)
                self._roster_entry.set_prepared(prepared)
                self._events.ready(prepared, data_check.departures(self._study.spec, prepared))
        return self._trainer.is_warm

    def _claim(self) -> Claim | None:
        """Claim the next trial; return None if there is none or the worker is asked to stop."""
        assert self._prepared is not None
        sizes = {"num_train": self._prepared.num_train, "num_classes": len(self._prepared.classes), "epochs": self._prepared.epochs}
        proposal = planning.propose(self._study.spec, self._prepared)

        def claim() -> Claim | None:
            self._subtract_sleep()
            self._abandoned.deliver()
            return trials.claim(self._study, self._identity, **sizes, proposal=proposal, refused=self._report_refused)

        try:
            return self._retry(
                claim,
                lambda: "the next trial waits",
                unless=lambda: self._stopping.is_asked,
            )
        except Dismissed as dismissed:
            self._dismiss(str(dismissed))
            return None
        except StorageError:
            if self._stopping.is_asked:
                return None
            raise

    def _report_refused(self, number: int, why: str) -> None:
        self._events.emit(EventKind.FAILED, number, message=why)

    def _dismiss(self, why: str) -> None:
        """Stop after the current trial was released, in a way that tells the engine not to start the worker again."""
        if not self._stopping.is_asked:
            self._dismissed = why
            self._stopping.ask()

    def _train(self, claim: Claim) -> None:
        """Train a claimed trial and store its result."""
        began = time.monotonic()
        self._events.emit(EventKind.STARTED if claim.attempt == 1 else EventKind.RESUMED, claim.number)
        outbox = self._outbox(claim)
        try:
            fetched = self._files.fetch(claim.number) if claim.attempt > 1 else None
            outcome = self._supervise(outbox, fetched)
            self._store_outcome(outbox, outcome, time.monotonic() - began)
        except LeaseLost as error:
            self._yield(claim)
            outbox.clear()
            if isinstance(error, TrialStopped):
                self._files.ended(claim.number)
            else:
                self._files.lost(claim.number)
            what = EventKind.PRUNED if isinstance(error, TrialStopped) else EventKind.LOST
            self._events.emit(what, claim.number, seconds=time.monotonic() - began, message=str(error))
        finally:
            outbox.close()

    def _yield(self, claim: Claim) -> None:
        """Give up a trial that another worker has, which is no failure of this worker: it may have slept, or lost its network."""
        with contextlib.suppress(StorageError):
            trials.yielded(self._study, claim)

    def _outbox(self, claim: Claim) -> Outbox:
        assert self._prepared is not None
        header = SpoolHeader(study=self._study.name, worker=self._identity.name, device=self._prepared.device, claim=claim)
        return Outbox(claim, Spool(self._folders.of_spool(self._study.name), header), self._events)

    def _supervise(self, outbox: Outbox, fetched: Path | None) -> Outcome | None:
        """Train a trial and return its outcome; a trainer that dies or hangs is replaced, and the trial is tried again.

        `fetched`: the checkpoint that another machine left in the bucket.
        """
        number, num_tries, spent_seconds = outbox.claim.number, 0, 0.0
        folder = self._folders.of_trial(self._study.name, number)
        while self._is_ready():
            supervision = Supervision(
                self._study, outbox, self._trainer, self._stopping, self._events, self._files, report_seconds=self._timing.report_seconds
            )
            self._supervision = supervision
            try:
                return self._completed(supervision.run(folder, fetched, spent_seconds=spent_seconds))
            except (TrainerDied, TrainerHung) as error:
                num_tries, spent_seconds = num_tries + 1, supervision.spent_seconds()
                last_lines = error.last_lines or self._trainer.last_lines()
                self._trainer.kill()
                supervision.deliver()  # the next trainer may resume from an earlier checkpoint
                if self._stopping.is_asked:
                    return None
                self._events.emit(EventKind.REPLACED, number, message=str(error))
                if num_tries >= failure_table.TREATMENTS[error.failure].tries:
                    return self._completed(messages.Failed(trial=number, error=error.cause, message=str(error), log=last_lines))
            finally:
                self._supervision = None
        return None

    def _completed(self, outcome: Outcome | None) -> Outcome | None:
        """Add the code that the trial ran, and to a failure the last lines of the log, or what user code printed."""
        if outcome is None:
            return None
        code = "" if self._prepared is None else user_code.digits(self._prepared.code)
        if isinstance(outcome, messages.Finished):
            return outcome.model_copy(update={"code": code})
        log = outcome.log or ("" if outcome.is_users else self._trainer.last_lines())
        return outcome.model_copy(update={"code": code, "log": "\n".join(filter(None, (log.rstrip(), outcome.traceback)))})

    def _store_outcome(self, outbox: Outbox, outcome: Outcome | None, seconds: float) -> None:
        """End the trial in the storage: with its result, as failed, or released for another worker."""
        claim = outbox.claim
        with contextlib.suppress(StorageError):  # the next heartbeat tries again
            self._subtract_sleep()
        match outcome:
            case messages.Finished() if outcome.ending is not Ending.SUSPENDED:
                self._store_result(outbox, outcome)
                what = EventKind.COMPLETED if outcome.ending is Ending.COMPLETED else EventKind.PRUNED
                over = exceeded(self._study.spec.limits, outcome.costs) if what is EventKind.COMPLETED else ""
                self._events.emit(what, claim.number, value=outcome.value, seconds=seconds, message=outcome.reason or over)
            case messages.Failed() if outcome.error != at_rest.NoKey.__name__:
                self._deliver(outbox, lambda: trials.fail(self._study, claim, outcome), outcome)
                self._files.ended(claim.number)
                self._events.emit(EventKind.FAILED, claim.number, seconds=seconds, message=outcome.words)
                if outcome.is_request:
                    raise request_error(outcome)
            case _:
                self._files.released(claim.number)
                self._deliver(outbox, lambda: trials.release(self._study, claim))
                self._events.emit(EventKind.SUSPENDED, claim.number, message="" if outcome else "from its last checkpoint")
                if isinstance(outcome, messages.Failed):  # a worker that has the key resumes the trial
                    raise request_error(outcome)

    def _store_result(self, outbox: Outbox, finished: messages.Finished) -> None:
        """Store a result with its curve, and its weights and pictures if it is among the best."""
        assert self._prepared is not None
        device, path, logits = self._prepared.device, finished.weights, finished.logits
        finished = self._files.with_urls(finished.model_copy(update={"weights_bytes": _size(path)}))
        if outbox.is_waiting:
            outbox.save(finished.model_copy(update={"pictures": {}}))
        stored = self._pictures.store(self._without_inferior_weights(finished))
        for sent in ([] if stored.weights is None else [path]) + [logits]:
            if sent is not None:
                self._files.send(finished.trial, sent)
        try:
            with_pictures = finished.model_copy(update={"pictures": stored.pictures})
            self._deliver(outbox, lambda: trials.finish(self._study, outbox.claim, stored, outbox.curve, device=device), with_pictures)
        except LeaseLost:
            self._pictures.discard(stored)
            raise
        self._pictures.discard_overtaken(stored)
        self._delete_overtaken_weights(stored)
        if path is not None and stored.weights is None:  # not earlier: now the trial is certainly this worker's
            Path(path).unlink(missing_ok=True)
        self._files.ended(finished.trial)

    def _without_inferior_weights(self, finished: messages.Finished) -> messages.Finished:
        """Remove the weights from a result that is not the best so far, but never from trial 0 or from a retraining."""
        if finished.weights is None or finished.value is None or finished.trial == 0 or self._study.spec.retraining is not None:
            return finished
        limits, costs = self._study.spec.limits, finished.costs
        if exceeded(limits, costs) and not is_near(limits, costs):
            return finished.model_copy(update={"weights": None})
        try:
            if exceeded(limits, costs):
                return finished if retention.is_finalist(self._study, finished.value) else finished.model_copy(update={"weights": None})
            is_fine_tuned = finished.logits is not None or not self._study.is_of_images  # other tasks have one stage
            num_bytes = finished.weights_bytes or 0
            is_kept = retention.is_among_best(self._study, finished.value, is_fine_tuned=is_fine_tuned, num_bytes=num_bytes)
        except StorageError:
            return finished
        return finished if is_kept else finished.model_copy(update={"weights": None})

    def _delete_overtaken_weights(self, finished: messages.Finished) -> None:
        """Delete the weights of trials that are no longer among the best, where this machine can; other machines delete theirs."""
        if finished.weights is None or self._study.spec.retraining is not None:
            return
        try:
            for one in retention.overtaken(self._study):
                if self._files.can_delete(one.weights):
                    retention.forget(self._study, one.trial_id)
                    self._files.delete(one.weights)
        except (StorageError, OSError) as error:
            self._events.warn(f"the weights of trials that are no longer among the best cannot be deleted: {error}", finished.trial)

    def _deliver(self, outbox: Outbox, end: Callable[[], None], outcome: Outcome | None = None) -> None:
        """Send the unsent reports of a trial to the storage, then end the trial; on disk, both wait until the storage can be reached.

        Raises:
            StorageError: the storage cannot be reached; the next worker of this machine delivers what is on disk.
            LeaseLost: the trial is not this worker's any more.
        """
        number = outbox.claim.number

        def deliver() -> None:
            if outbox.unsent and not isinstance(outcome, messages.Finished):  # a result is stored with its curve
                trials.report(self._study, outbox.claim, outbox.unsent)
            end()

        def save() -> str:
            outbox.save(outcome)
            has_reports = outcome is not None or outbox.unsent
            return (
                f"the reports of trial {number} are stored in {outbox.location}" if has_reports else f"the release of trial {number} waits"
            )

        try:
            self._retry(deliver, save)
        except StorageError as error:
            if not outbox.is_on_disk:
                raise
            raise StorageError(f"{error}. {save()}; the next worker of this machine delivers them") from error
        outbox.clear()

    def _beat(self) -> None:
        """Renew the lease, obey requests to this worker, and release the trials of lost workers from time to time."""
        self._subtract_sleep()
        supervision = self._supervision
        answer = self._roster_entry.beat()
        if supervision is not None and supervision is self._supervision and not answer.num_leases:
            supervision.check_lease()
        if answer.request is WorkerRequest.SUSPEND:
            self._dismiss(f"asked to end by {self._roster_entry.request()[1]}")
        if time.monotonic() - self._reaped_at >= self._timing.reap_seconds:
            self._reaped_at = time.monotonic()
            self._abandoned.deliver()  # first: it may hold the result of a trial that would be lost otherwise
            for reaped in trials.reap(self._study, self._identity):
                what = "it has failed" if reaped.is_failed else "it waits for a worker to resume it"
                self._events.warn(f"trial {reaped.trial} lost {reaped.worker}, last seen {reaped.silent_seconds:.0f} s ago; {what}")

    def _subtract_sleep(self) -> None:
        """Take sleep that is over out of the time of the current attempt; the heartbeat's thread calls this, too."""
        with self._sleep_lock:
            slept, awake = self._sleep.passing.slept()
            more = slept - self._subtracted_seconds
            if more:
                trials.subtract_sleep(self._study, self._identity, slept_seconds=more, awake_seconds=awake)
                self._subtracted_seconds = slept
                self._events.warn(f"this worker slept for {wording.duration(more)}, which does not count as work")

    def _retry(self, work: Callable[[], T], waiting: Callable[[], str], *, unless: Callable[[], bool] | None = None) -> T:
        """Return the result of `work`; while the storage cannot be reached, retry it until `unless` is true.

        `waiting` is called after each failed try and returns a text on what waits.
        """
        try:
            return retry.call(
                work,
                may_pass=lambda error: isinstance(error, StorageError),
                schedule=Schedule(seconds=self._timing.storage_patience_seconds, pauses=(0.5, 10.0)),
                is_unwanted=unless or (lambda: self._stopping.is_urgent),
                before_pause=lambda error: self._events.warn(f"{waiting()} until the storage answers: {error}"),
                pause=self._stopping.wait_for_more,
            )
        except StorageError:
            waiting()
            raise


def _size(path: str | None) -> int | None:
    """Return the size of a file; None if it does not exist."""
    try:
        return None if path is None else Path(path).stat().st_size
    except FileNotFoundError:
        return None


class TrialPictures:
    """The pictures of a worker's trials, kept in the artifact store for the best trials only."""

    def __init__(self, study: Study, artifacts: Path, events: EventEmitter) -> None:
        self._study = study
        self._artifacts = artifacts
        self._events = events

    def store(self, finished: messages.Finished) -> messages.Finished:
        """Move the pictures of a trial with weights into the store, delete those of others, and return the result with their ids."""
        ids: dict[messages.PictureKind, str] = {}
        try:
            if finished.weights is not None and finished.pictures:
                ids = pictures.keep(pictures.store(self._artifacts), finished.pictures)
        except OSError as error:
            self._events.warn(f"the pictures of the trial are lost, because they cannot be stored: {error}", finished.trial)
        for name in finished.pictures.values():
            Path(name).unlink(missing_ok=True)
        return finished.model_copy(update={"pictures": ids})

    def discard(self, finished: messages.Finished) -> None:
        """Delete the stored pictures of a trial that another worker has taken over."""
        if finished.pictures:
            pictures.drop(pictures.store(self._artifacts), finished.pictures)

    def discard_overtaken(self, finished: messages.Finished) -> None:
        """Delete the stored pictures of trials that are no longer among the best."""
        if finished.pictures:
            try:
                pictures.tidy(self._study, pictures.store(self._artifacts))
            except (StorageError, OSError) as error:
                self._events.warn(f"the pictures of trials that are no longer among the best cannot be deleted: {error}", finished.trial)
