"""The last trials of a study, which other workers have, into word of whether one of them is left to be taken up."""

import time

from sqlalchemy import Connection

from tuner.commands import outcome
from tuner.errors import StorageError
from tuner.search import leases, trials
from tuner.search.leases import WorkerId
from tuner.search.study import Study
from tuner.terminal import plain
from tuner.workers.stopping import Stopping

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
            if outcome.is_over(study):
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
    here, now = WorkerId.here(""), leases.clock(connection)
    return any(lease.is_vacant(here, now) for lease in leases.of_running_trials(connection, study.id))
