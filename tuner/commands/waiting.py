"""Waiting: for the end of a study, for its last trials on other workers, and for a database or study that does not exist yet."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError

from tuner.errors import ArtifactsError, RequestError, StorageError, StudyError, TunerError
from tuner.storage import engine as storages
from tuner.storage import retry
from tuner.storage.engine import Storage
from tuner.storage.retry import Schedule
from tuner.studies import trials
from tuner.studies.leases import WorkerId
from tuner.studies.study import Study
from tuner.terminal import plain
from tuner.views import status
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.stopping import Stopping

#: events of a worker that cannot continue
FATAL_EVENTS = (EventKind.REFUSED, EventKind.GAVE_UP)
_POLL_SECONDS = 2.0
#: how long a storage may be unreachable, the same as for a worker that trains
_STORAGE_LIMIT_SECONDS = 600.0
#: upper bounds of the first and of the longest pause between two tries
_PAUSE_SECONDS = (1.0, 2.0)

T = TypeVar("T")


def find_failure(study: Study, fatal: Sequence[Event], codes: Sequence[int]) -> TunerError | None:
    """Return why the workers left the study before its end, or None if the study ended.

    A worker that could not continue is no failure if other workers finished the study.

    Args:
        study: the study of all these workers.
        fatal: the workers' events of the kinds `FATAL_EVENTS`.
        codes: the workers' exit codes.
    """
    if not (fatal or any(codes)) or is_over(study):
        return None
    refused = next((event.message for event in fatal if event.what is EventKind.REFUSED), None)
    if refused is not None:
        return RequestError(refused)
    reason = fatal[0].message if fatal else f"a worker ended with exit code {next(filter(None, codes))}"
    return TunerError(f"The workers gave up before the study ended: {reason}")


def is_over(study: Study) -> bool:
    """Return whether every trial of the study has ended, and no new one may begin."""
    return status.snapshot(study).is_over


def needs_worker(study: Study, stopping: Stopping) -> bool:
    """Return whether the study has a trial for one more worker.

    While other workers train the last trials, this waits, because one of these trials may be lost.

    Raises:
        StorageError: the storage was unreachable for too long.
    """
    deadline = time.monotonic() + _STORAGE_LIMIT_SECONDS
    has_printed = False
    while not stopping.is_asked:
        try:
            if is_over(study):
                return False
            if trials.has_trial(study, WorkerId.here("")):
                return True
        except StorageError:
            if time.monotonic() > deadline:
                raise
        else:
            deadline = time.monotonic() + _STORAGE_LIMIT_SECONDS
        if not has_printed:
            has_printed = True
            plain.line(f"{study.name}: other workers train the last trials; waiting, in case one of these trials is lost")
        stopping.wait(_POLL_SECONDS)
    return False


class Deadline:
    """One time limit for several retried calls. Each reason to wait is printed once."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._printed = ""

    def open_storage(self, url: str) -> Storage:
        """Open the storage as soon as it answers.

        Raises:
            StorageError: it does not answer in time, or waiting would not help.
            MissingPackage: the driver of this database is not installed.
        """
        return self.retry(lambda: storages.open(url))

    def retry(self, work: Callable[[], T]) -> T:
        """Return the result of `work`; retry it while a study, a database or a bucket is missing, and raise the last error at the end."""
        left_seconds = max(0.0, self._deadline - time.monotonic())
        return retry.call(
            work, may_pass=_may_pass, schedule=Schedule(seconds=left_seconds, pauses=_PAUSE_SECONDS), before_pause=self._print
        )

    def _print(self, error: BaseException) -> None:
        reason = str(error)
        if isinstance(error, TunerError) and reason != self._printed:
            self._printed = reason
            plain.line(f"waiting, at most {self._deadline - time.monotonic():.0f} s: {reason}")


def _may_pass(error: BaseException) -> bool:
    """Return whether the same call may succeed later: a database or a bucket is unreachable, or the study does not exist yet."""
    if isinstance(error, ArtifactsError):
        return error.may_pass
    return isinstance(error, StudyError) or (
        isinstance(error, StorageError) and isinstance(error.__cause__, DBAPIError | StorageInternalError)
    )
