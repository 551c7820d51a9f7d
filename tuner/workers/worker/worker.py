"""The pictures that a trainer drew of a trial into the artifact store, if the trial is worth keeping, and off the disk in any case.

The loop of one worker: claim a trial, train it, keep what came of it, until the budget is spent or someone says stop.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tuner.errors import Dismissed, LeaseLost, StorageError, TrialStopped
from tuner.protocol import failure_table, messages
from tuner.protocol.messages import Ending
from tuner.studies import data_check, pictures, reaper, trials
from tuner.studies.study import Study
from tuner.studies.trials import Claim, WorkerId
from tuner.studies.workers import WorkerRequest
from tuner.trust import at_rest
from tuner.views import status
from tuner.workers.bucket import transfer
from tuner.workers.worker.events import Event, EventEmitter, EventKind, Tell
from tuner.workers.worker.heartbeat import BEAT_SECONDS, Heartbeat, Presence
from tuner.workers.worker.outbox import Leftovers, Outbox
from tuner.workers.worker.places import Places
from tuner.workers.worker.spool import Outcome, Spool, SpoolHeader
from tuner.workers.worker.stopping import Stopping
from tuner.workers.worker.supervision import Supervision
from tuner.workers.worker.trainer import TrainerDied, TrainerHung, WarmTrainer, request_error


class Gallery:
    """The pictures of a study's trials, as one worker keeps them."""

    def __init__(self, study: Study, artifacts: Path, narrator: EventEmitter) -> None:
        self._study = study
        self._artifacts = artifacts
        self._narrator = narrator

    def hang(self, finished: messages.Finished) -> messages.Finished:
        """The same with the names of its pictures in the store, where its weights are kept; else without pictures."""
        ids: dict[messages.PictureKind, str] = {}
        try:
            if finished.weights is not None and finished.pictures:
                ids = pictures.keep(pictures.store(self._artifacts), finished.pictures)
        except OSError as error:
            self._narrator.trouble(f"the pictures of the trial are not kept: {error}", finished.trial)
        for name in finished.pictures.values():
            Path(name).unlink(missing_ok=True)
        return finished.model_copy(update={"pictures": ids})

    def take_down(self, finished: messages.Finished) -> None:
        """Drop the pictures of a trial that was not ours any more."""
        if finished.pictures:
            pictures.drop(pictures.store(self._artifacts), finished.pictures)

    def tidy(self, finished: messages.Finished) -> None:
        """Drop the pictures of trials that this one has overtaken."""
        if finished.pictures:
            try:
                pictures.tidy(self._study, pictures.store(self._artifacts))
            except (StorageError, OSError) as error:
                self._narrator.trouble(f"pictures of overtaken trials stay: {error}", finished.trial)


_STORAGE_PATIENCE_SECONDS = failure_table.STORAGE_PATIENCE_SECONDS

T = TypeVar("T")


class Worker:
    """One pair of hands of a study."""

    def __init__(self, study: Study, trainer: WarmTrainer, *, identity: WorkerId, places: Places, stopping: Stopping, tell: Tell) -> None:
        self._study = study
        self._trainer = trainer
        self._identity = identity
        self._places = places
        self._stopping = stopping
        self._told = tell
        self._presence = Presence(study, identity, trainer)
        self._narrator = EventEmitter(study.name, identity.name, self._tell)
        self._prepare = messages.Prepare(spec=study.spec.model_dump_json(), cache=str(places.cache))
        self._prepared: messages.Prepared | None = None
        self._shipping = transfer.begin(places, study.name, self._narrator, stopping)
        self._leftovers = Leftovers(study, places.of_spool(study.name), self._narrator)
        self._gallery = Gallery(study, places.artifacts, self._narrator)
        self._reaped_at = time.monotonic()
        self._attempt: Supervision | None = None
        #: who asked this worker alone to end, in words
        self._dismissed = ""

    def run(self, *, beat_seconds: float = BEAT_SECONDS) -> None:
        """Work until there is nothing more to do; raises what `WarmTrainer.warm_up`, `admission.admit` and `trials.claim` raise."""
        self._appear()
        try:
            with Heartbeat(self._beat, self._narrator.trouble, every_seconds=beat_seconds):
                self._work_until_done()
        finally:
            if self._stopping.is_asked:
                self._trainer.drop()  # what it is doing now, no one waits for
            self._trainer.close()
            self._shipping.close()
        why = self._why_ended()
        self._presence.leave(why)
        self._narrator.say(EventKind.ENDED, message=why)

    def _tell(self, event: Event) -> None:
        self._presence.note(event)
        self._told(event)

    def _appear(self) -> None:
        try:
            self._presence.appear()
        except StorageError:
            pass  # the heart tries again

    def _why_ended(self) -> str:
        if self._dismissed:
            return self._dismissed
        if self._stopping.is_asked:
            return "asked to stop"
        try:
            return trials.stop_reason(self._study) or ""
        except StorageError:
            return ""  # all that was to be written is written

    def _work_until_done(self) -> None:
        while not self._stopping.is_asked and self._is_ready():
            claim = self._claim()
            if claim is None:
                return
            self._work_on(claim)

    def _is_ready(self) -> bool:
        """Have a trainer that is prepared and not too big; False if the worker is asked to stop meanwhile."""
        outgrown = self._trainer.outgrown()
        if outgrown:
            self._narrator.say(EventKind.REPLACED, message=outgrown)
            self._trainer.drop()
        if not self._trainer.is_warm:
            self._prepared = prepared = self._trainer.warm_up(self._prepare)
            if prepared is not None:
                self._insist(lambda: data_check.admit(self._study, prepared), lambda: "the first trial waits")
                self._presence.is_ready(prepared)
                self._narrator.ready(prepared, data_check.departures(self._study.spec, prepared))
        return self._trainer.is_warm

    def _claim(self) -> Claim | None:
        assert self._prepared is not None
        sizes = {"num_train": self._prepared.num_train, "num_classes": len(self._prepared.classes), "epochs": self._prepared.epochs}

        def claim() -> Claim | None:
            self._leftovers.deliver()
            return trials.claim(self._study, self._identity, **sizes)

        try:
            return self._insist(
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

    def _dismiss(self, why: str) -> None:
        """End in order, and let whoever started this worker not start it again."""
        if not self._stopping.is_asked:
            self._dismissed = why
            self._stopping.ask()

    def _work_on(self, claim: Claim) -> None:
        began = time.monotonic()
        self._narrator.say(EventKind.STARTED if claim.attempt == 1 else EventKind.RESUMED, claim.number)
        outbox = self._outbox(claim)
        try:
            fetched = self._shipping.fetch(claim.number) if claim.attempt > 1 else None
            outcome = self._play(outbox, fetched)
            self._settle(outbox, outcome, time.monotonic() - began)
        except LeaseLost as error:
            outbox.clear()
            if isinstance(error, TrialStopped):
                self._shipping.ended(claim.number)
            else:
                self._shipping.lost(claim.number)
            what = EventKind.PRUNED if isinstance(error, TrialStopped) else EventKind.LOST
            self._narrator.say(what, claim.number, seconds=time.monotonic() - began, message=str(error))
        finally:
            outbox.close()

    def _outbox(self, claim: Claim) -> Outbox:
        assert self._prepared is not None
        origin = SpoolHeader(study=self._study.name, worker=self._identity.name, device=self._prepared.device, claim=claim)
        return Outbox(claim, Spool(self._places.of_spool(self._study.name), origin), self._narrator)

    def _settle(self, outbox: Outbox, outcome: Outcome | None, seconds: float) -> None:
        claim = outbox.claim
        match outcome:
            case messages.Finished() if outcome.ending is not Ending.SUSPENDED:
                self._finish(outbox, outcome)
                what = EventKind.COMPLETED if outcome.ending is Ending.COMPLETED else EventKind.PRUNED
                self._narrator.say(what, claim.number, value=outcome.value, seconds=seconds, message=outcome.reason)
            case messages.Failed() if outcome.error != at_rest.NoKey.__name__:
                self._deliver(outbox, lambda: trials.fail(self._study, claim, outcome), outcome)
                self._shipping.ended(claim.number)
                self._narrator.say(EventKind.FAILED, claim.number, seconds=seconds, message=f"{outcome.error}: {outcome.message}")
                if outcome.is_request:
                    raise request_error(outcome)
            case _:
                self._shipping.handed_back(claim.number)
                self._deliver(outbox, lambda: trials.release(self._study, claim))
                self._narrator.say(EventKind.SUSPENDED, claim.number, message="" if outcome else "from its last checkpoint")
                if isinstance(outcome, messages.Failed):  # who has the key goes on with the trial
                    raise request_error(outcome)

    def _play(self, outbox: Outbox, fetched: Path | None) -> Outcome | None:
        """The outcome of a trial; a trainer that dies or hangs is given a second chance."""
        number, num_tries = outbox.claim.number, 0
        folder = self._places.of_trial(self._study.name, number)
        while self._is_ready():
            attempt = self._attempt = Supervision(self._study, outbox, self._trainer, self._stopping, self._narrator, self._shipping)
            try:
                return self._with_log(attempt.play(folder, fetched))
            except (TrainerDied, TrainerHung) as error:
                num_tries += 1
                last_words = error.last_words if isinstance(error, TrainerDied) else self._trainer.last_words()
                self._trainer.drop()
                attempt.deliver()  # the next one goes on from a checkpoint that may lie behind them
                if self._stopping.is_asked:
                    return None
                self._narrator.say(EventKind.REPLACED, number, message=str(error))
                if num_tries >= failure_table.TREATMENTS[error.failure].tries:
                    return messages.Failed(trial=number, error=error.cause, message=str(error), log=last_words)
            finally:
                self._attempt = None
        return None

    def _with_log(self, outcome: Outcome | None) -> Outcome | None:
        """The trainer does not read its own log."""
        if not isinstance(outcome, messages.Failed):
            return outcome
        return outcome.model_copy(update={"log": "\n".join(filter(None, (self._trainer.last_words(), outcome.traceback)))})

    def _finish(self, outbox: Outbox, finished: messages.Finished) -> None:
        """Keep a result with its curve, and its weights if they are wanted."""
        assert self._prepared is not None
        device, path = self._prepared.device, finished.weights
        finished = self._shipping.named(finished)
        if outbox.is_held_up:
            outbox.hold_up(finished.model_copy(update={"pictures": {}}))
        kept = self._gallery.hang(self._keep_if_best(finished))
        if path is not None and kept.weights is not None:
            self._shipping.send_weights(finished.trial, path)
        try:
            told = finished.model_copy(update={"pictures": kept.pictures})
            self._deliver(outbox, lambda: trials.finish(self._study, outbox.claim, kept, outbox.curve, device=device), told)
        except LeaseLost:
            self._gallery.take_down(kept)
            raise
        self._gallery.tidy(kept)
        if path is not None and kept.weights is None:  # only now it is sure that the trial was still ours
            Path(path).unlink(missing_ok=True)
        self._shipping.ended(finished.trial)

    def _deliver(self, outbox: Outbox, end: Callable[[], None], outcome: Outcome | None = None) -> None:
        """End a trial, after what is not reported of it; while the storage is away, all of that waits on disk."""
        number = outbox.claim.number

        def deliver() -> None:
            if outbox.unsent and not isinstance(outcome, messages.Finished):  # a result is stored with its curve
                trials.report(self._study, outbox.claim, outbox.unsent)
            end()

        def hold_up() -> str:
            outbox.hold_up(outcome)
            is_more = outcome is not None or outbox.unsent
            return f"what came of trial {number} is kept in {outbox.where}" if is_more else f"trial {number} waits to be handed back"

        try:
            self._insist(deliver, hold_up)
        except StorageError as error:
            if not outbox.is_on_disk:
                raise
            raise StorageError(f"{error}. {hold_up()}; the next worker of this machine delivers it") from error
        outbox.clear()

    def _keep_if_best(self, finished: messages.Finished) -> messages.Finished:
        """The same without weights for a trial that is not the best so far; trial 0's stay, and all of a retraining."""
        if finished.weights is None or finished.value is None or finished.trial == 0 or self._study.spec.retraining is not None:
            return finished
        try:
            best = status.snapshot(self._study).best_value
        except StorageError:
            return finished
        if best is None or finished.value >= best:
            return finished
        return finished.model_copy(update={"weights": None})

    def _beat(self) -> None:
        attempt = self._attempt
        heard = self._presence.beat()
        if attempt is not None and attempt is self._attempt and not heard.num_leases:
            attempt.doubt()
        if heard.wish is WorkerRequest.SUSPEND:
            self._dismiss(f"asked to end by {self._presence.wish()[1]}")
        if time.monotonic() - self._reaped_at >= reaper.REAP_SECONDS:
            self._reaped_at = time.monotonic()
            self._leftovers.deliver()  # first: what it has left may be the result of a trial that is lost otherwise
            for reaped in trials.reap(self._study, self._identity):
                what = "it has failed" if reaped.is_failed else "it waits to be gone on with"
                self._narrator.trouble(f"trial {reaped.trial} lost {reaped.worker}, last seen {reaped.silent_seconds:.0f} s ago; {what}")

    def _insist(self, work: Callable[[], T], waiting: Callable[[], str], *, unless: Callable[[], bool] | None = None) -> T:
        """What `work` returns, tried again for as long as the storage may be away, `unless` that is no more wanted.

        `waiting` is called after each try that failed, and says what waits.
        """
        is_unwanted = unless or (lambda: self._stopping.is_urgent)
        deadline = time.monotonic() + _STORAGE_PATIENCE_SECONDS
        pause_seconds = 0.5
        while True:
            try:
                return work()
            except StorageError as error:
                what = waiting()
                if is_unwanted() or time.monotonic() > deadline:
                    raise
                self._narrator.trouble(f"{what} until the storage is back: {error}")
            self._stopping.wait_for_more(pause_seconds)
            pause_seconds = min(10.0, 2 * pause_seconds)
