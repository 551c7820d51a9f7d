"""One attempt of a trial: what the trainer reports goes to the storage, what the storage decides goes to the trainer."""

import threading
import time
from dataclasses import replace
from pathlib import Path

from tuner.errors import LeaseLost, StorageError, TrialStopped
from tuner.protocol import messages
from tuner.protocol.messages import Stage
from tuner.studies import trials
from tuner.studies.study import Study
from tuner.studies.trials import Claim
from tuner.workers.bucket.transfer import CHECKPOINT, FileTransfer
from tuner.workers.worker.events import EventEmitter, EventKind
from tuner.workers.worker.outbox import Outbox
from tuner.workers.worker.stopping import Stopping
from tuner.workers.worker.trainer import WarmTrainer

#: epochs of a probe that come faster than this share a report
REPORT_SECONDS = 1.0
#: pause between two tries to deliver while the storage is away: for each the trainer's messages wait
_AWAY_SECONDS = 5.0
#: how long a transient error is met with another try before what was to be delivered waits
_RETRY_SECONDS = 1.0
#: a report that takes longer is told of
_SLOW_SECONDS = 2.0
#: how long a trainer that was told to hand a trial back may take; it answers at its next step
_SUSPEND_SECONDS = 60.0


class Supervision:
    """Plays one claimed trial on a warm trainer to its end."""

    def __init__(
        self, study: Study, outbox: Outbox, trainer: WarmTrainer, stopping: Stopping, narrator: EventEmitter, shipping: FileTransfer
    ) -> None:
        self._study = replace(study, storage=study.storage.within(_RETRY_SECONDS))
        self._study_in_haste = replace(study, storage=study.storage.within(0.0))
        self._outbox = outbox
        self._claim = outbox.claim
        self._trainer = trainer
        self._stopping = stopping
        self._narrator = narrator
        self._shipping = shipping
        self._reported_at = time.monotonic()
        self._best = 0.0
        self._suspended_at: float | None = None
        self._why_stopped = ""
        self._doubted = threading.Event()
        #: whether the trial was given to another worker, so that nothing of this attempt counts
        self.is_lost = False

    def play(self, folder: Path, fetched: Path | None) -> messages.Finished | messages.Failed | None:
        """Train the trial with its files in `folder`; None if it had to be abandoned or was lost.

        `fetched`: its checkpoint as another machine kept it.

        Raises:
            TrainerDied: the trainer did not survive it.
            TrainerHung: the trainer says nothing any more.
        """
        self._trainer.send(_train(self._claim, folder, fetched))
        while not self._stopping.is_urgent:
            message = self._trainer.look()
            match message:
                case messages.Epoch():
                    self._take_epoch(message)
                case messages.Resumed():
                    self._take_up(message)
                case messages.Probed():
                    self._answer_probe(message)
                case messages.Finished() | messages.Failed():
                    if isinstance(message, messages.Failed) or message.ending is messages.Ending.SUSPENDED:
                        self.deliver()  # an end that counts is stored with its curve
                    return None if self.is_lost else self._with_reason(message)
                case messages.CheckpointWritten():
                    self._shipping.kept(self._claim.number)
                case messages.TrialWarning():
                    self._narrator.trouble(message.message, self._claim.number)
                case messages.Busy() | None:
                    self._deliver_what_is_due()
            if self._doubted.is_set():
                self._make_sure()
            if self._stopping.is_asked and self._must_be_abandoned():
                break
        return None

    def doubt(self) -> None:
        """Have the worker look whether the trial is still its own, as soon as it comes to it; called by the heartbeat's thread."""
        self._doubted.set()

    def _make_sure(self) -> None:
        self._doubted.clear()
        if not self.is_lost:
            self._report()

    def _take_up(self, resumed: messages.Resumed) -> None:
        """Have the storage know every epoch that this attempt does not train again; those it knows stay as they are."""
        for epoch in resumed.curve:
            self._outbox.add(epoch)
            self._best = max(self._best, epoch.validation_accuracy)
        self.deliver()

    def _take_epoch(self, epoch: messages.Epoch) -> None:
        self._outbox.add(epoch)
        self._best = max(self._best, epoch.validation_accuracy)
        self._narrator.say(EventKind.EPOCH, self._claim.number, stage=epoch.stage, step=epoch.step, value=self._best, seconds=epoch.seconds)
        if epoch.stage is Stage.FINE_TUNE and not self._outbox.is_held_up:
            self.deliver()
        else:
            self._deliver_what_is_due()
        if epoch.stage is Stage.FINE_TUNE and not self._why_stopped and self._should_prune(epoch):
            self._stop(f"the pruner {self._study.spec.pruner.name} gave it up after epoch {epoch.step}")

    def _answer_probe(self, probed: messages.Probed) -> None:
        if self._is_promoted(probed):
            self._narrator.say(EventKind.PROMOTED, self._claim.number, value=probed.value)
            self._trainer.send(messages.Proceed())
        elif not self._stopping.is_asked and not self.is_lost:
            self._stop(f"its probe is not among the best {self._study.spec.training.promote:.0%}")

    def _deliver_what_is_due(self) -> None:
        if time.monotonic() - self._reported_at > (_AWAY_SECONDS if self._outbox.is_held_up else REPORT_SECONDS):
            self.deliver()

    def deliver(self) -> None:
        """Report what is not reported yet; while the storage is away, it waits in the outbox."""
        if self._outbox.unsent and not self.is_lost:
            self._report()

    def _report(self) -> None:
        began = time.monotonic()
        try:
            trials.report(self._study_in_haste if self._outbox.is_held_up else self._study, self._claim, self._outbox.unsent)
            self._outbox.clear()
            if time.monotonic() - began > _SLOW_SECONDS:
                slow = f"the storage is slow: a report took more than {_SLOW_SECONDS:.0f} s; training goes on meanwhile"
                self._narrator.trouble(slow, self._claim.number)
        except LeaseLost as error:
            self._lose(error)
        except StorageError as error:
            self._hold_up("reports are kept", error)
        self._reported_at = time.monotonic()

    def _hold_up(self, what: str, error: StorageError) -> None:
        self._outbox.hold_up()
        self._narrator.trouble(f"{what} in {self._outbox.where} until the storage is back: {error}", self._claim.number)

    def _is_promoted(self, probed: messages.Probed) -> bool:
        while not self._stopping.is_asked:
            try:
                is_promoted = trials.promoted(self._study, self._claim, probed, self._outbox.unsent)
                self._outbox.clear()
                return is_promoted
            except LeaseLost as error:
                self._lose(error)
                return False
            except StorageError as error:
                self._hold_up("the probe waits", error)
                self._stopping.wait(1.0)
        return False

    def _should_prune(self, epoch: messages.Epoch) -> bool:
        if self._outbox.is_held_up:
            return False
        try:
            return trials.should_prune(self._study, self._claim, self._outbox.unsent or (epoch,))
        except (LeaseLost, StorageError):
            return False

    def _lose(self, error: LeaseLost) -> None:
        """Train no more what is not this worker's any more: the files of a trial that another one has are the other's now."""
        self.is_lost = True
        self._why_stopped = self._why_stopped or str(error)
        if isinstance(error, TrialStopped):
            self._trainer.send(messages.Stop())
        else:
            self._shipping.lost(self._claim.number)
            self._trainer.send(messages.Suspend(keeps=False))

    def _stop(self, why: str) -> None:
        if not self._why_stopped:
            self._why_stopped = why
            self._trainer.send(messages.Stop())

    def _with_reason(self, outcome: messages.Finished | messages.Failed) -> messages.Finished | messages.Failed:
        """The trainer does not know why it was stopped."""
        if isinstance(outcome, messages.Finished) and outcome.ending is messages.Ending.STOPPED:
            return outcome.model_copy(update={"reason": self._why_stopped})
        return outcome

    def _must_be_abandoned(self) -> bool:
        """Have the trainer hand the trial back; whether it had its time to."""
        if self._suspended_at is None:
            self._suspended_at = time.monotonic()
            self._trainer.send(messages.Suspend())
        return time.monotonic() - self._suspended_at > _SUSPEND_SECONDS


def _train(claim: Claim, folder: Path, fetched: Path | None) -> messages.Train:
    return messages.Train(
        trial=claim.number,
        hyperparameters=claim.hyperparameters,
        seed=claim.seed,
        weights=str(folder / "weights"),
        checkpoint=str(folder / CHECKPOINT),
        fetched=None if fetched is None else str(fetched),
    )
