"""Throttle: how long a sign-in must wait after failed ones."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

#: most names and addresses that are remembered; the oldest are forgotten first
_MAX_REMEMBERED = 10_000
#: a failure is forgotten after this long without another
_FORGET_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Failures before the first wait, and the longest wait."""

    free: int
    most_seconds: float


#: for a name: the longest wait is short, or anyone could lock a user out
BY_NAME = Limit(free=5, most_seconds=30.0)
#: for an address
BY_ADDRESS = Limit(free=10, most_seconds=600.0)


@dataclass(frozen=True, kw_only=True)
class _Failures:
    count: int
    last_at: float


class Throttle:
    """Failed sign-ins by name and by address. After the free ones, each failure doubles the wait."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: OrderedDict[tuple[str, str], _Failures] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, name: str, address: str) -> float:
        """Return the seconds that this sign-in must wait. With 0 it may be tried now, and counts as failed until it succeeds."""
        with self._lock:
            wait = max(self._wait(("name", name), BY_NAME), self._wait(("address", address), BY_ADDRESS))
            if wait <= 0:
                for key in (("name", name), ("address", address)):
                    self._count(key)
            return max(0.0, wait)

    def succeed(self, name: str, address: str) -> None:
        """Forget the failures of this name, but only this sign-in of the address. Otherwise one address could try names without limit."""
        with self._lock:
            self._failed.pop(("name", name), None)
            failed = self._failed.get(("address", address))
            if failed is not None:
                self._failed[("address", address)] = replace(failed, count=failed.count - 1)

    def _wait(self, key: tuple[str, str], limit: Limit) -> float:
        failed = self._failed.get(key)
        if failed is None or failed.count < limit.free:
            return 0.0
        pause = min(limit.most_seconds, 2.0 ** min(failed.count - limit.free, 20))
        return failed.last_at + pause - self._clock()

    def _count(self, key: tuple[str, str]) -> None:
        failed = self._failed.pop(key, None)
        is_old = failed is None or failed.last_at + _FORGET_SECONDS < self._clock()
        count = 1 if is_old or failed is None else failed.count + 1
        self._failed[key] = _Failures(count=count, last_at=self._clock())
        while len(self._failed) > _MAX_REMEMBERED:
            self._failed.popitem(last=False)
