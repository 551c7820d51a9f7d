"""Work that needs what is not there yet, into work that waits for it: a database that is starting, a study that no one has begun."""

import time
from collections.abc import Callable
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random

from tuner.errors import ArtifactsError, StorageError, StudyError, TunerError
from tuner.search import storage as storages
from tuner.search.storage import Storage
from tuner.terminal import plain

T = TypeVar("T")

#: between two looks, more or less, so that many workers do not come at once
_PAUSE_SECONDS = (0.5, 1.5)


class Patience:
    """So much time, for everything that is waited for together; what is waited for is said once."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._said = ""

    def open(self, url: str) -> Storage:
        """The storage at a URL, once it answers.

        Raises:
            StorageError: it does not in time, or waiting would not help.
            MissingPackage: the driver of this database is not installed.
        """
        return self.until(lambda: storages.open(url))

    def until(self, work: Callable[[], T]) -> T:
        """What `work` returns as soon as it does not miss a study or a database; the last error if the time is up."""
        retrying = Retrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_delay(max(0.0, self._deadline - time.monotonic())),
            wait=wait_random(*_PAUSE_SECONDS),
            before_sleep=self._say,
            reraise=True,
        )
        return retrying(work)

    def _say(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        reason = str(error)
        if isinstance(error, TunerError) and reason != self._said:
            self._said = reason
            plain.line(f"waiting, {self._deadline - time.monotonic():.0f} s at most: {reason}")


def _may_pass(error: BaseException) -> bool:
    """Whether the same may succeed later, without anyone changing the request: a database or bucket is away, or there is no such study."""
    if isinstance(error, ArtifactsError):
        return error.may_pass
    return isinstance(error, StudyError) or (
        isinstance(error, StorageError) and isinstance(error.__cause__, DBAPIError | StorageInternalError)
    )
