"""What an attempt has to say to the storage: in memory until it is delivered, and on disk as well once a delivery has failed.

What workers that are gone could not deliver, into the storage.
"""

from collections.abc import Sequence
from pathlib import Path

from tuner.protocol import messages
from tuner.protocol.messages import Ending
from tuner.studies import trials
from tuner.studies.study import Study
from tuner.studies.trials import Claim, Delivery
from tuner.workers.bucket import transfer
from tuner.workers.worker import spool
from tuner.workers.worker.events import EventEmitter, EventKind
from tuner.workers.worker.spool import Outcome, Spool, SpoolHeader, Undelivered


class Outbox:
    """The reports of one claim, in the order in which they are to be delivered."""

    def __init__(self, claim: Claim, spool: Spool, narrator: EventEmitter) -> None:
        self.claim = claim
        self._spool = spool
        self._narrator = narrator
        self._unsent: list[messages.Epoch] = []
        self._steps: set[int] = set()
        self._is_memory_only = False
        #: every epoch of this claim once, whichever trainer it came from
        self.curve: list[messages.Epoch] = []
        #: whether the last delivery failed
        self.is_held_up = False

    @property
    def unsent(self) -> Sequence[messages.Epoch]:
        """Epochs that are not delivered."""
        return tuple(self._unsent)

    @property
    def where(self) -> str:
        """Where what is not delivered is kept, for people."""
        return str(self._spool.path) if self.is_on_disk else "memory"

    @property
    def is_on_disk(self) -> bool:
        """Whether all that is not delivered outlives this process."""
        return self._spool.is_used and not self._is_memory_only

    def add(self, epoch: messages.Epoch) -> None:
        """Take an epoch; one that is known stays as it was, as it does in the storage."""
        if epoch.step not in self._steps:
            self._steps.add(epoch.step)
            self.curve.append(epoch)
            self._unsent.append(epoch)
            if self.is_held_up:
                self.hold_up()

    def hold_up(self, outcome: Outcome | None = None) -> None:
        """A delivery failed: have on disk what was to be delivered."""
        self.is_held_up = True
        try:
            self._spool.keep([*self._unsent, *([] if outcome is None else [outcome])])
            self._is_memory_only = False
        except OSError as error:
            if not self._is_memory_only:
                what = f"what the storage is to get cannot be kept on disk ({error}); it is kept in memory"
                self._narrator.trouble(what, self.claim.number)
            self._is_memory_only = True

    def clear(self) -> None:
        """All is delivered, or counts no more."""
        self.is_held_up = False
        self._unsent.clear()
        self._spool.remove()

    def close(self) -> None:
        """Leave what is not delivered to the next worker."""
        self._spool.close()


class Leftovers:
    """The files of workers that are gone, in the artifacts of a study; each of the others' files is told of once."""

    def __init__(self, study: Study, folder: Path, narrator: EventEmitter) -> None:
        self._study = study
        self._folder = folder
        self._narrator = narrator
        self._left_alone: set[Path] = set()

    def deliver(self) -> None:
        """Deliver what there is; costs no statement where there is nothing.

        Raises:
            StorageError: the storage is away; what is not delivered by then stays.
        """
        for left in spool.left(self._folder):
            if left.path in self._left_alone:
                continue
            if left.origin is None:
                self._leave_alone(left.path, "it cannot be read")
                continue
            claim = left.origin.claim
            delivery = trials.deliver(self._study, claim, left.epochs, left.outcome, device=left.origin.device)
            if delivery is Delivery.UNKNOWN:
                self._leave_alone(left.path, "it belongs to another study, or to one that was deleted")
                continue
            left.path.unlink(missing_ok=True)
            if left.outcome is not None and delivery is not Delivery.TOO_LATE:
                transfer.clear(self._folder.parent / f"trial-{claim.number:05d}")
            self._tell(left, left.origin, delivery)

    def _leave_alone(self, path: Path, why: str) -> None:
        self._left_alone.add(path)
        self._narrator.trouble(f"{path} is not delivered: {why}; delete it if it is of no use")

    def _tell(self, left: Undelivered, origin: SpoolHeader, delivery: Delivery) -> None:
        trial, whose = origin.claim.number, f"from {origin.worker}, which is gone"
        if delivery is Delivery.TOO_LATE:
            self._narrator.say(EventKind.LOST, trial, message=f"{_content(left)} {whose}: the trial has ended without it")
            return
        self._narrator.say(EventKind.DELIVERED, trial, message=f"{_content(left)} {whose}")
        match left.outcome:
            case messages.Finished(ending=ending, value=value, reason=reason):
                what = EventKind.COMPLETED if ending is Ending.COMPLETED else EventKind.PRUNED
                self._narrator.say(what, trial, value=value, message=reason)
            case messages.Failed(error=error, message=message):
                self._narrator.say(EventKind.FAILED, trial, message=f"{error}: {message}")


def _content(left: Undelivered) -> str:
    parts = [f"{len(left.epochs)} epoch{'' if len(left.epochs) == 1 else 's'}"] if left.epochs else []
    parts += [] if left.outcome is None else ["the outcome"]
    return " and ".join(parts) or "nothing"
