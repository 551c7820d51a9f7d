"""A worker's row in the roster of its study: what it does, said with each heartbeat, and what someone asks of it, heard with that."""

import psutil

from tuner import messages
from tuner.errors import StorageError
from tuner.search import roster, trials
from tuner.search.roster import Pulse, Wish
from tuner.search.study import Study
from tuner.search.trials import WorkerId
from tuner.workers.events import Event
from tuner.workers.warm import WarmTrainer

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
        self._study.storage.write(lambda connection: roster.register(connection, self._study, self._identity, pulse, threads=threads))

    def beat(self) -> trials.Beat:
        """Renew the leases, and say how it is.

        Raises:
            StorageError: the storage is away.
        """
        heard = trials.beat(self._study, self._identity, self._pulse())
        if heard.wish is None:
            self.appear()
        return heard

    def wish(self) -> tuple[Wish, str]:
        """What someone asks of it, and who."""
        return self._study.storage.read(lambda connection: roster.wish(connection, self._study.id, self._identity.key))

    def leave(self, ending: str) -> None:
        """Say that it has ended, if the storage is there."""
        try:
            self._study.storage.within(_GOODBYE_SECONDS).write(
                lambda connection: roster.leave(connection, self._study.id, self._identity, ending)
            )
        except StorageError:
            pass  # it is seen to be silent

    def _pulse(self) -> Pulse:
        prepared = self._prepared
        return Pulse(
            device=prepared.device if prepared else "",
            versions=prepared.versions if prepared else {},
            memory_bytes=self._process.memory_info().rss,
            trainer_memory_bytes=self._trainer.memory_bytes(),
            trial=self._trial,
            stage=self._stage,
        )
