"""Supervision: one attempt at a trial; the trainer's reports go to the storage, and the storage's decisions go to the trainer."""

import contextlib
import math
import threading
import time
from dataclasses import replace
from pathlib import Path

from tuner import wording
from tuner.errors import LeaseLost, StorageError, TrialStopped
from tuner.protocol import messages
from tuner.protocol.messages import Stage
from tuner.studies import trials
from tuner.studies.continuation import Promotion
from tuner.studies.questions import TrialQuestions
from tuner.studies.study import Study
from tuner.studies.trials import Claim
from tuner.workers.bucket.transfer import CHECKPOINT, FileTransfer
from tuner.workers.worker.events import EventEmitter, EventKind
from tuner.workers.worker.outbox import Outbox
from tuner.workers.worker.stopping import Stopping
from tuner.workers.worker.trainer import WarmTrainer

#: minimum time between two reports of a probe; faster epochs share a report
REPORT_SECONDS = 1.0
#: time between two tries to deliver while the storage cannot be reached; the trainer's messages wait during each try
_RETRY_EVERY_SECONDS = 5.0
#: how long a delivery is retried after a transient error before the reports go to the outbox
_RETRY_SECONDS = 1.0
#: duration of a report above which the worker warns
_SLOW_SECONDS = 2.0
#: time limit for a trainer to suspend a trial, which it does at its next step
_SUSPEND_SECONDS = 60.0


class Supervision:
    """Runs one claimed trial on a prepared trainer until its attempt ends."""

    def __init__(
        self,
        study: Study,
        outbox: Outbox,
        trainer: WarmTrainer,
        stopping: Stopping,
        events: EventEmitter,
        files: FileTransfer,
        *,
        report_seconds: float = REPORT_SECONDS,
    ) -> None:
        """`report_seconds`: minimum time between two reports of a probe; faster epochs share a report."""
        self._study = replace(study, storage=study.storage.within(_RETRY_SECONDS))
        self._study_without_retries = replace(study, storage=study.storage.within(0.0))
        self._outbox = outbox
        self._claim = outbox.claim
        self._trainer = trainer
        self._stopping = stopping
        self._events = events
        self._files = files
        self._report_seconds = report_seconds
        self._slept_until_epoch = trainer.slept_seconds()
        #: sleep in each stage, which the trainer took for work
        self._slept_in = dict.fromkeys(Stage, 0.0)
        self._reported_at = time.monotonic()
        self._questions = TrialQuestions(self._study, self._claim)
        #: best value so far; with folds, the mean over the folds so far
        self._best: float | None = None
        self._suspended_at: float | None = None
        self._began, self._earlier_seconds = trainer.seconds(), 0.0
        #: when the trainer was told that the trial took too long
        self._overdue_at: float | None = None
        self._why_stopped = ""
        self._must_check_lease = threading.Event()
        #: whether the trial was given to another worker, so this attempt does not count
        self.is_lost = False

    def run(self, folder: Path, fetched: Path | None, *, spent_seconds: float = 0.0) -> messages.Finished | messages.Failed | None:
        """Train the trial with its files in `folder`; return None if it was lost or the worker must end at once.

        `fetched`: the checkpoint that another machine left in the bucket.
        `spent_seconds`: how long earlier attempts of this worker at the trial took.

        Raises:
            TrainerDied: the trainer process has ended.
            TrainerHung: the trainer does not answer any more.
        """
        self._began, self._earlier_seconds = self._trainer.seconds(), spent_seconds
        self._trainer.send(_train(self._claim, folder, fetched))
        while not self._stopping.is_urgent:
            message = self._trainer.receive()
            if isinstance(message, messages.Finished | messages.Failed):
                if isinstance(message, messages.Failed) or message.ending is messages.Ending.SUSPENDED:
                    self.deliver()  # a result is stored together with its curve instead
                if self.is_lost:
                    self._forget_unasked()
                    return None
                return self._with_reason(message)
            self._react(message)
            if self._must_check_lease.is_set():
                self._check_lease()
            if self._stopping.is_asked:
                if self._has_suspend_timed_out():
                    break
            elif self._is_disobeyed():
                return self._end_by_force()
        return None

    def _react(self, message: messages.Message | None) -> None:
        """Answer a question for which the trainer waits, or take a report."""
        match message:
            case messages.Ask():
                self._answer_value(message)
            case messages.AskPruning():
                self._trainer.send(messages.Answer(value=self._should_prune()))
            case messages.Probed():
                self._answer_probe(message)
            case messages.Busy() | None:
                self._deliver_if_due()
            case _:
                self._take(message)

    def _take(self, message: messages.Message) -> None:
        """Take a report."""
        match message:
            case messages.Epoch():
                self._take_epoch(message)
            case messages.Resumed():
                self._resume(message)
            case messages.CheckpointWritten():
                self._files.checkpoint_written(self._claim.number)
            case messages.TrialWarning():
                self._events.warn(message.message, self._claim.number)

    def check_lease(self) -> None:
        """Ask for a check whether the lease is still valid; called by the heartbeat's thread."""
        self._must_check_lease.set()

    def spent_seconds(self) -> float:
        """Return how long the trial has taken so far, with earlier attempts as far as they are known."""
        return self._earlier_seconds + self._trainer.seconds() - self._began

    def _is_disobeyed(self) -> bool:
        """Stop a trial that takes too long; return whether the trainer was told so and does not obey."""
        limit_seconds = self._study.spec.budget.trial_timeout
        if limit_seconds is None or self.is_lost:
            return False
        if self._overdue_at is None and self.spent_seconds() > limit_seconds:
            self._overdue_at = self._trainer.seconds()
            self._stop(f"it reached the time limit of {wording.duration(limit_seconds)} for one trial (budget.trial_timeout)")
        return self._overdue_at is not None and self._trainer.seconds() - self._overdue_at > self._trainer.obey_seconds

    def _end_by_force(self) -> messages.Finished | messages.Failed:
        """End the trainer, which does not obey; return the outcome of the trial, which is not tried again."""
        log, place = self._trainer.last_lines(), self._trainer.place()
        self._trainer.kill()
        number, curve = self._claim.number, [epoch for epoch in self._outbox.curve if math.isfinite(epoch.measured)]
        if not curve:
            message = f"{self._why_stopped}{f'; the code was at {place}' if place else ''}"
            return messages.Failed(trial=number, error="TrialTimeout", message=message, log=log)
        best = max(curve, key=lambda epoch: self._study.spec.objective.merit(epoch.measured))
        if self._study.spec.num_folds > 1:
            best = curve[-1]  # the mean over the folds so far
        seconds = sum(epoch.seconds for epoch in self._outbox.curve)
        return messages.Finished(
            trial=number,
            ending=messages.Ending.STOPPED,
            reason=self._why_stopped,
            value=best.measured,
            best_step=best.step,
            fine_tune_seconds=seconds,
            asked=self._questions.asked(),
            printed=log,
        )

    def _check_lease(self) -> None:
        self._must_check_lease.clear()
        if not self.is_lost:
            self._report()

    def _resume(self, resumed: messages.Resumed) -> None:
        """Report the epochs that the trainer restored from a checkpoint; the storage ignores those that it knows."""
        self._earlier_seconds = self._earlier_seconds or sum(epoch.seconds for epoch in resumed.curve)
        for epoch in resumed.curve:
            self._add(epoch)
        self.deliver()

    def _add(self, epoch: messages.Epoch) -> None:
        self._outbox.add(epoch)
        if math.isfinite(epoch.measured):
            objective, before = self._study.spec.objective, [] if self._best is None or self._study.spec.num_folds > 1 else [self._best]
            self._best = objective.best([epoch.measured, *before])

    def _sleep_since_epoch(self, stage: Stage) -> float:
        """Return the sleep since the last call, which belongs to a stage."""
        slept = self._trainer.slept_seconds()
        since, self._slept_until_epoch = slept - self._slept_until_epoch, slept
        self._slept_in[stage] += since
        return since

    def _take_epoch(self, epoch: messages.Epoch) -> None:
        slept = self._sleep_since_epoch(epoch.stage)
        if slept:
            epoch = epoch.model_copy(update={"seconds": max(0.0, epoch.seconds - slept)})
        self._add(epoch)
        self._events.emit(EventKind.EPOCH, self._claim.number, stage=epoch.stage, step=epoch.step, value=self._best, seconds=epoch.seconds)
        if epoch.stage is Stage.FINE_TUNE and not self._outbox.is_waiting:
            self.deliver()
        else:
            self._deliver_if_due()
        is_watched = epoch.stage is not Stage.PROBE and not self._study.spec.asks_pruning
        if is_watched and not self._why_stopped and self._should_prune(epoch):
            self._stop(f"pruned by the pruner {self._study.spec.pruner.name} after epoch {epoch.step}")

    def _answer_value(self, question: messages.Ask) -> None:
        """Answer the trainer's question for a value; without the storage, the trial waits."""
        while not self._stopping.is_asked and not self.is_lost:
            try:
                answer = self._questions.answer(question)
            except LeaseLost as error:
                self._lose(error)
            except StorageError as error:
                self._events.warn(f"the trial waits for a value of {question.name} until the storage answers: {error}", self._claim.number)
                self._stopping.wait(1.0)
            else:
                self._outbox.claim = self._claim = self._questions.claim
                self._trainer.send(answer)
                return

    def _answer_probe(self, probed: messages.Probed) -> None:
        promotion = self._promotion(probed)
        if promotion.is_promoted:
            self._events.emit(EventKind.PROMOTED, self._claim.number, value=probed.value, message=promotion.reason)
            if promotion.epochs is not None:
                # a new trainer resumes the trial with the same claim
                self._outbox.claim = self._claim = replace(self._claim, epochs=promotion.epochs)
            self._trainer.send(messages.Proceed(epochs=promotion.epochs))
        elif not self._stopping.is_asked and not self.is_lost:
            self._stop(promotion.reason)

    def _deliver_if_due(self) -> None:
        if time.monotonic() - self._reported_at > (_RETRY_EVERY_SECONDS if self._outbox.is_waiting else self._report_seconds):
            self.deliver()

    def deliver(self) -> None:
        """Report the unsent epochs; while the storage cannot be reached, they wait in the outbox."""
        if self._outbox.unsent and not self.is_lost:
            self._report()

    def _report(self) -> None:
        began = time.monotonic()
        try:
            trials.report(self._study_without_retries if self._outbox.is_waiting else self._study, self._claim, self._outbox.unsent)
            self._outbox.clear()
            if time.monotonic() - began > _SLOW_SECONDS:
                slow = f"the storage is slow: a report took more than {_SLOW_SECONDS:.0f} s; training continues"
                self._events.warn(slow, self._claim.number)
        except LeaseLost as error:
            self._lose(error)
        except StorageError as error:
            self._save("reports are stored", error)
        self._reported_at = time.monotonic()

    def _save(self, what: str, error: StorageError) -> None:
        self._outbox.save()
        self._events.warn(f"{what} in {self._outbox.location} until the storage answers: {error}", self._claim.number)

    def _promotion(self, probed: messages.Probed) -> Promotion:
        while not self._stopping.is_asked:
            try:
                found = trials.promotion(self._study, self._claim, probed, self._outbox.unsent)
                self._outbox.clear()
                return found
            except LeaseLost as error:
                self._lose(error)
                break
            except StorageError as error:
                self._save("the probe waits", error)
                self._stopping.wait(1.0)
        return Promotion(is_promoted=False)

    def _should_prune(self, epoch: messages.Epoch | None = None) -> bool:
        if self._outbox.is_waiting:
            return False
        last = () if epoch is None else (epoch,)
        try:
            return trials.should_prune(self._study, self._claim, self._outbox.unsent or last)
        except (LeaseLost, StorageError):
            return False

    def _lose(self, error: LeaseLost) -> None:
        """Stop to train a trial that was stopped or given to another worker, which then owns its files."""
        self.is_lost = True
        self._why_stopped = self._why_stopped or str(error)
        if isinstance(error, TrialStopped):
            self._trainer.send(messages.Stop())
        else:
            self._files.lost(self._claim.number)
            self._trainer.send(messages.Suspend(keeps=False))

    def _forget_unasked(self) -> None:
        """Remove from a trial that a user stopped the values for which it did not ask; without the storage, they stay."""
        asked = self._questions.asked()
        if asked is not None:
            with contextlib.suppress(StorageError):
                trials.keep_asked(self._study_without_retries, self._claim, asked)

    def _stop(self, why: str) -> None:
        if not self._why_stopped:
            self._why_stopped = why
            self._trainer.send(messages.Stop())

    def _with_reason(self, outcome: messages.Finished | messages.Failed) -> messages.Finished | messages.Failed:
        """Add the reason to the outcome of a stopped trial, and subtract sleep from its durations: the trainer does not know them."""
        if isinstance(outcome, messages.Finished):
            probe = max(0.0, outcome.probe_seconds - self._slept_in[Stage.PROBE])
            fine_tune = max(0.0, outcome.fine_tune_seconds - self._slept_in[Stage.FINE_TUNE] - self._slept_in[Stage.TRAIN])
            outcome = outcome.model_copy(update={"probe_seconds": probe, "fine_tune_seconds": fine_tune})
        if isinstance(outcome, messages.Finished) and outcome.ending is messages.Ending.STOPPED:
            return outcome.model_copy(update={"reason": self._why_stopped or outcome.reason})
        return outcome

    def _has_suspend_timed_out(self) -> bool:
        """Ask the trainer once to suspend the trial; return whether its time limit is over."""
        if self._suspended_at is None:
            self._suspended_at = time.monotonic()
            self._trainer.send(messages.Suspend())
        return time.monotonic() - self._suspended_at > _SUSPEND_SECONDS


def _train(claim: Claim, folder: Path, fetched: Path | None) -> messages.Train:
    return messages.Train(
        trial=claim.number,
        hyperparameters=claim.hyperparameters,
        seed=claim.seed,
        epochs=claim.epochs,
        weights=str(folder / "weights"),
        checkpoint=str(folder / CHECKPOINT),
        fetched=None if fetched is None else str(fetched),
    )
