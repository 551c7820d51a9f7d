"""Outbox: the reports of a trial on their way to the storage, and reports that ended workers left on disk."""

from collections.abc import Sequence
from pathlib import Path

from tuner import wording
from tuner.protocol import messages
from tuner.protocol.messages import Ending
from tuner.studies import trials
from tuner.studies.study import Study
from tuner.studies.trials import Claim, Delivery
from tuner.workers.bucket import transfer
from tuner.workers.worker import spool
from tuner.workers.worker.events import EventEmitter, EventKind
from tuner.workers.worker.spool import AbandonedSpool, Outcome, Spool, SpoolHeader


class Outbox:
    """The reports of one claim, in order: in memory, and on disk as well once a delivery has failed."""

    def __init__(self, claim: Claim, spool: Spool, events: EventEmitter) -> None:
        self.claim = claim
        self._spool = spool
        self._events = events
        self._unsent: list[messages.Epoch] = []
        self._steps: set[int] = set()
        self._is_memory_only = False
        #: every epoch of this claim once, also those of a replaced trainer
        self.curve: list[messages.Epoch] = []
        #: whether the last delivery failed
        self.is_waiting = False

    @property
    def unsent(self) -> Sequence[messages.Epoch]:
        """Epochs that are not delivered."""
        return tuple(self._unsent)

    @property
    def location(self) -> str:
        """Where undelivered reports are: the path of the file, or `memory`."""
        return str(self._spool.path) if self.is_on_disk else "memory"

    @property
    def is_on_disk(self) -> bool:
        """Whether all undelivered reports outlive this process."""
        return self._spool.is_used and not self._is_memory_only

    def add(self, epoch: messages.Epoch) -> None:
        """Add an epoch; a known step is ignored, as the storage does."""
        if epoch.step not in self._steps:
            self._steps.add(epoch.step)
            self.curve.append(epoch)
            self._unsent.append(epoch)
            if self.is_waiting:
                self.save()

    def save(self, outcome: Outcome | None = None) -> None:
        """Write all undelivered reports to disk after a delivery has failed."""
        self.is_waiting = True
        try:
            self._spool.write([*self._unsent, *([] if outcome is None else [outcome])])
            self._is_memory_only = False
        except OSError as error:
            if not self._is_memory_only:
                warning = f"the reports for the storage cannot be kept on disk ({error}); they are kept in memory"
                self._events.warn(warning, self.claim.number)
            self._is_memory_only = True

    def clear(self) -> None:
        """Forget all reports, because they are delivered or not needed any more."""
        self.is_waiting = False
        self._unsent.clear()
        self._spool.remove()

    def close(self) -> None:
        """Leave undelivered reports on disk to the next worker."""
        self._spool.close()


class AbandonedReports:
    """Delivers the reports that ended workers of a study left on disk; warns once of each file that it cannot deliver."""

    def __init__(self, study: Study, folder: Path, events: EventEmitter) -> None:
        self._study = study
        self._folder = folder
        self._events = events
        self._skipped: set[Path] = set()

    def deliver(self) -> None:
        """Deliver all files; without files, this costs no statement.

        Raises:
            StorageError: the storage is away; the remaining files stay.
        """
        for file in spool.abandoned(self._folder):
            if file.path in self._skipped:
                continue
            if file.origin is None:
                self._skip(file.path, "it cannot be read")
                continue
            claim = file.origin.claim
            delivery = trials.deliver(self._study, claim, file.epochs, file.outcome, device=file.origin.device)
            if delivery is Delivery.UNKNOWN:
                self._skip(file.path, "it belongs to another study, or to a deleted one")
                continue
            file.path.unlink(missing_ok=True)
            if file.outcome is not None and delivery is not Delivery.TOO_LATE:
                transfer.clear(self._folder.parent / f"trial-{claim.number:05d}")
            self._emit(file, file.origin, delivery)

    def _skip(self, path: Path, why: str) -> None:
        self._skipped.add(path)
        self._events.warn(f"{path} cannot be delivered: {why}; delete it if you do not need it")

    def _emit(self, file: AbandonedSpool, origin: SpoolHeader, delivery: Delivery) -> None:
        trial, content = origin.claim.number, f"{_content(file)} from {origin.worker}, which has ended"
        if delivery is Delivery.TOO_LATE:
            self._events.emit(EventKind.LOST, trial, message=f"{content}: the trial ended without them")
            return
        self._events.emit(EventKind.DELIVERED, trial, message=content)
        match file.outcome:
            case messages.Finished(ending=ending, value=value, reason=reason):
                what = EventKind.COMPLETED if ending is Ending.COMPLETED else EventKind.PRUNED
                self._events.emit(what, trial, value=value, message=reason)
            case messages.Failed(error=error, message=message):
                self._events.emit(EventKind.FAILED, trial, message=f"{error}: {message}")


def _content(file: AbandonedSpool) -> str:
    parts = [wording.count(len(file.epochs), "epoch")] if file.epochs else []
    parts += [] if file.outcome is None else ["the outcome"]
    return " and ".join(parts) or "nothing"
