"""What the workers of a run said and how they ended, into the error of a study that they left before its end.

The last trials of a study, which other workers have, into word of whether one of them is left to be taken up.

Work that needs what is not there yet, into work that waits for it: a database that is starting, a study that no one has begun.
"""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from tuner.errors import ArtifactsError, RequestError, StorageError, StudyError, TunerError
from tuner.storage import engine as storages
from tuner.storage import retry, tables
from tuner.storage.engine import Storage
from tuner.studies import leases, trials
from tuner.studies.leases import WorkerId
from tuner.studies.study import Study
from tuner.terminal import plain
from tuner.views import status
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.stopping import Stopping

#: what a worker says that cannot go on
COMPLAINTS = (EventKind.REFUSED, EventKind.GAVE_UP)


def failure(study: Study, complaints: Sequence[Event], codes: Sequence[int]) -> TunerError | None:
    """Why the study did not come to its end: what its workers found wrong with the request, or with the work; None if it did.

    A worker that could not go on is forgiven where others finished the study.
    """
    if not (complaints or any(codes)) or is_over(study):
        return None
    refused = next((event.message for event in complaints if event.what is EventKind.REFUSED), None)
    if refused is not None:
        return RequestError(refused)
    why = complaints[0].message if complaints else f"a worker ended with exit code {next(filter(None, codes))}"
    return TunerError(f"The workers gave up before the study came to its end: {why}")


def is_over(study: Study) -> bool:
    """Whether no trial is left, neither to begin nor to end."""
    return status.snapshot(study).is_over


_LOOK_SECONDS = 2.0
#: how long a storage may be away, as for a worker that trains
_STORAGE_PATIENCE_SECONDS = 600.0


def is_needed(study: Study, stopping: Stopping) -> bool:
    """Whether the study has a trial for one more worker; waits as long as others have the last ones, of which one may be lost.

    Raises:
        StorageError: the storage was away for too long.
    """
    deadline = time.monotonic() + _STORAGE_PATIENCE_SECONDS
    has_said = False
    while not stopping.is_asked:
        try:
            if is_over(study):
                return False
            if trials.stop_reason(study) is None or study.storage.read(lambda connection: _is_left(connection, study)):
                return True
        except StorageError:
            if time.monotonic() > deadline:
                raise
        else:
            deadline = time.monotonic() + _STORAGE_PATIENCE_SECONDS
        if not has_said:
            has_said = True
            plain.line(f"{study.name}: the last trials are with other workers; waiting, in case one of them is lost")
        stopping.wait(_LOOK_SECONDS)
    return False


def _is_left(connection: Connection, study: Study) -> bool:
    """Whether a trial was handed back, or its worker is gone."""
    here, now = WorkerId.here(""), tables.clock(connection)
    return any(lease.is_vacant(here, now) for lease in leases.of_running_trials(connection, study.id))


T = TypeVar("T")

#: upper bounds of the first and of the longest pause between two tries
_PAUSE_SECONDS = (1.0, 2.0)


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
        left_seconds = max(0.0, self._deadline - time.monotonic())
        return retry.call(work, may_pass=_may_pass, seconds=left_seconds, pauses=_PAUSE_SECONDS, before_pause=self._say)

    def _say(self, error: BaseException) -> None:
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
