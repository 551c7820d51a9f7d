"""What an attempt has to say to the storage: in memory until it is delivered, and on disk as well once a delivery has failed."""

from collections.abc import Sequence

from tuner import messages
from tuner.search.trials import Claim
from tuner.workers.narrator import Narrator
from tuner.workers.spool import Outcome, Spool


class Outbox:
    """The reports of one claim, in the order in which they are to be delivered."""

    def __init__(self, claim: Claim, spool: Spool, narrator: Narrator) -> None:
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
