"""Heartbeat: renews a worker's leases and its row in the roster while the worker runs."""

import threading
from collections.abc import Callable

import psutil

from tuner.errors import StorageError
from tuner.protocol import messages
from tuner.studies import trials, workers
from tuner.studies.study import Study
from tuner.studies.trials import WorkerId
from tuner.studies.workers import WorkerRequest, WorkerStatus
from tuner.workers.worker.events import Event
from tuner.workers.worker.trainer import WarmTrainer

#: how long a worker that ends retries to write its ending after a transient error
_CLOSE_SECONDS = 1.0


class Heartbeat:
    """Calls `beat` regularly, in a thread, while a `with` block runs.

    An error costs one beat only. `warn` is called with the first error after a beat that succeeded.
    """

    def __init__(self, beat: Callable[[], None], warn: Callable[[str], None], *, every_seconds: float) -> None:
        self._beat = beat
        self._warn = warn
        self._every_seconds = every_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join(self._every_seconds)

    def _run(self) -> None:
        has_warned = False
        while not self._ended.wait(self._every_seconds):
            try:
                self._beat()
                has_warned = False
            except Exception as error:  # noqa: BLE001 - a heartbeat that ends silently would cost the worker its trial
                if not has_warned:
                    self._warn(f"the leases cannot be renewed: {error}")
                has_warned = True


class RosterEntry:
    """A worker's row in the roster of its study: its status, and the latest request to it.

    The heartbeat's thread may call the methods, too.
    """

    def __init__(self, study: Study, identity: WorkerId, trainer: WarmTrainer) -> None:
        self._study = study
        self._identity = identity
        self._trainer = trainer
        self._process = psutil.Process()
        self._prepared: messages.Prepared | None = None
        self._trial: int | None = None
        self._stage: messages.Stage | None = None

    def set_prepared(self, prepared: messages.Prepared) -> None:
        """Remember the device and the package versions of the trainer."""
        self._prepared = prepared

    def update(self, event: Event) -> None:
        """Remember the current trial and its stage."""
        if event.what.ends_attempt:
            self._trial = self._stage = None
        elif event.trial is not None:
            self._stage = event.stage or (self._stage if event.trial == self._trial else None)
            self._trial = event.trial

    def register(self) -> None:
        """Write the row.

        Raises:
            StorageError: the storage cannot be reached; the next beat tries again.
        """
        status, threads = self._status(), self._trainer.threads
        self._study.storage.write(lambda connection: workers.register(connection, self._study, self._identity, status, threads=threads))

    def beat(self) -> trials.HeartbeatAnswer:
        """Renew the leases and the row; return what the storage answers.

        Raises:
            StorageError: the storage cannot be reached.
        """
        answer = trials.beat(self._study, self._identity, self._status())
        if answer.request is None:
            self.register()
        return answer

    def request(self) -> tuple[WorkerRequest, str]:
        """Return the latest request to the worker, and its author."""
        return self._study.storage.read(lambda connection: workers.request_to(connection, self._study.id, self._identity.key))

    def close(self, ending: str) -> None:
        """Write why the worker has ended; without the storage, the others see only that it is silent."""
        try:
            self._study.storage.within(_CLOSE_SECONDS).write(
                lambda connection: workers.leave(connection, self._study.id, self._identity, ending)
            )
        except StorageError:
            pass

    def _status(self) -> WorkerStatus:
        prepared = self._prepared
        return WorkerStatus(
            device=prepared.device if prepared else "",
            versions=prepared.versions if prepared else {},
            memory_bytes=self._process.memory_info().rss,
            trainer_memory_bytes=self._trainer.memory_bytes(),
            trial=self._trial,
            stage=self._stage,
        )
