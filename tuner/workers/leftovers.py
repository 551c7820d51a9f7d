"""What workers that are gone could not deliver, into the storage."""

from pathlib import Path

from tuner import messages
from tuner.messages import Ending
from tuner.search import trials
from tuner.search.study import Study
from tuner.search.trials import Delivery
from tuner.workers import shipping, spool
from tuner.workers.events import Happening
from tuner.workers.narrator import Narrator
from tuner.workers.spool import Left, Origin


class Leftovers:
    """The files of workers that are gone, in the artifacts of a study; each of the others' files is told of once."""

    def __init__(self, study: Study, folder: Path, narrator: Narrator) -> None:
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
                shipping.clear(self._folder.parent / f"trial-{claim.number:05d}")
            self._tell(left, left.origin, delivery)

    def _leave_alone(self, path: Path, why: str) -> None:
        self._left_alone.add(path)
        self._narrator.trouble(f"{path} is not delivered: {why}; delete it if it is of no use")

    def _tell(self, left: Left, origin: Origin, delivery: Delivery) -> None:
        trial, whose = origin.claim.number, f"from {origin.worker}, which is gone"
        if delivery is Delivery.TOO_LATE:
            self._narrator.say(Happening.LOST, trial, message=f"{_content(left)} {whose}: the trial has ended without it")
            return
        self._narrator.say(Happening.DELIVERED, trial, message=f"{_content(left)} {whose}")
        match left.outcome:
            case messages.Finished(ending=ending, value=value, reason=reason):
                what = Happening.COMPLETED if ending is Ending.COMPLETED else Happening.PRUNED
                self._narrator.say(what, trial, value=value, message=reason)
            case messages.Failed(error=error, message=message):
                self._narrator.say(Happening.FAILED, trial, message=f"{error}: {message}")


def _content(left: Left) -> str:
    parts = [f"{len(left.epochs)} epoch{'' if len(left.epochs) == 1 else 's'}"] if left.epochs else []
    parts += [] if left.outcome is None else ["the outcome"]
    return " and ".join(parts) or "nothing"
