"""Trials whose workers were lost with their nodes, into the time until which someone has to stay for them."""

import time
from collections.abc import Callable

from tuner.search import leases

#: after so long anyone may take up the trial of a worker of another host that was lost
VACANT_SECONDS = leases.LEASE_SECONDS + 5.0


class Vacancies:
    """The trials that a worker left when it died, until another has them.

    A worker that finds nothing to do while their leases last would end, and no one be there when they run out.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._vacant_at: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._vacant_at)

    def leave(self, trial: int) -> None:
        """Its worker is lost."""
        self._vacant_at[trial] = self._clock() + VACANT_SECONDS

    def take_up(self, trial: int) -> None:
        """Someone works on it."""
        self._vacant_at.pop(trial, None)

    def find_none(self) -> None:
        """A worker found nothing to do: what it could have taken up is not wanted any more."""
        now = self._clock()
        self._vacant_at = {trial: at for trial, at in self._vacant_at.items() if now < at}

    @property
    def last_at(self) -> float:
        """When all of them can be taken up, by the clock; now if there are none."""
        return max(self._vacant_at.values(), default=self._clock())
