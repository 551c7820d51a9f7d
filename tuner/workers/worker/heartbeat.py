"""The leases of a worker, renewed in the background for as long as it works.

A worker's row in the roster of its study: what it does, said with each heartbeat, and what someone asks of it, heard with that.
"""

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

#: a lease must outlive several missed beats
BEAT_SECONDS = 10.0


class Heartbeat:
    """Calls `beat` again and again inside a `with`; an error costs that one beat, and is told once until a beat succeeds."""

    def __init__(self, beat: Callable[[], None], trouble: Callable[[str], None], *, every_seconds: float = BEAT_SECONDS) -> None:
        self._beat = beat
        self._trouble = trouble
        self._every_seconds = every_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join(self._every_seconds)

    def _go_on(self) -> None:
        is_told = False
        while not self._ended.wait(self._every_seconds):
            try:
                self._beat()
                is_told = False
            except Exception as error:  # noqa: BLE001 - a heart that stops in silence would cost the worker its trial
                if not is_told:
                    self._trouble(f"the leases could not be renewed: {error}")
                is_told = True


#: how long a transient error is met with another try at the end, where nothing hangs on it
_GOODBYE_SECONDS = 1.0


class Presence:
    """What the others see of a worker; its methods may be called by the heartbeat's thread."""

    def __init__(self, study: Study, identity: WorkerId, trainer: WarmTrainer) -> None:
        self._study = study
        self._identity = identity
        self._trainer = trainer
        self._process = psutil.Process()
        self._prepared: messages.Prepared | None = None
        self._trial: int | None = None
        self._stage: messages.Stage | None = None

    def is_ready(self, prepared: messages.Prepared) -> None:
        """Its trainer can train."""
        self._prepared = prepared

    def note(self, event: Event) -> None:
        """Remember what it is doing."""
        if event.what.ends_attempt:
            self._trial = self._stage = None
        elif event.trial is not None:
            self._stage = event.stage or (self._stage if event.trial == self._trial else None)
            self._trial = event.trial

    def appear(self) -> None:
        """Be in the roster.

        Raises:
            StorageError: the storage is away; the next beat tries again.
        """
        pulse, threads = self._pulse(), self._trainer.threads
        self._study.storage.write(lambda connection: workers.register(connection, self._study, self._identity, pulse, threads=threads))

    def beat(self) -> trials.HeartbeatAnswer:
        """Renew the leases, and say how it is.

        Raises:
            StorageError: the storage is away.
        """
        heard = trials.beat(self._study, self._identity, self._pulse())
        if heard.wish is None:
            self.appear()
        return heard

    def wish(self) -> tuple[WorkerRequest, str]:
        """What someone asks of it, and who."""
        return self._study.storage.read(lambda connection: workers.wish(connection, self._study.id, self._identity.key))

    def leave(self, ending: str) -> None:
        """Say that it has ended, if the storage is there."""
        try:
            self._study.storage.within(_GOODBYE_SECONDS).write(
                lambda connection: workers.leave(connection, self._study.id, self._identity, ending)
            )
        except StorageError:
            pass  # it is seen to be silent

    def _pulse(self) -> WorkerStatus:
        prepared = self._prepared
        return WorkerStatus(
            device=prepared.device if prepared else "",
            versions=prepared.versions if prepared else {},
            memory_bytes=self._process.memory_info().rss,
            trainer_memory_bytes=self._trainer.memory_bytes(),
            trial=self._trial,
            stage=self._stage,
        )
