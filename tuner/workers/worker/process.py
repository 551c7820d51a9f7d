"""A worker as a process of its own: an assignment comes through a pipe, events go back.

The process ends in order when the other end of the pipe is closed, that is, when whoever started it is gone.
"""

import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tuner.errors import RequestError, StorageError, StudyError, TunerError
from tuner.spec import file as study_file
from tuner.spec.data import Data
from tuner.spec.study import StudySpec
from tuner.trust import at_rest
from tuner.workers.engines.gpus import GpuShare
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.places import Places
from tuner.workers.worker.stopping import Stopping, on_signals
from tuner.workers.worker.trainer import ChildTrainer, Limits, Trainer, WarmTrainer


class Assignment(BaseModel):
    """What a worker needs to know; it never stands on a command line, where everyone could read the storage's password."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str
    #: what was checked before the worker was started: the study in the storage must be the same, but for its budget and place
    spec: StudySpec
    #: where its images lie on this machine
    data: Data
    #: SQLAlchemy URL
    storage: str
    #: name of the worker among those of its host
    worker: str
    cache: Path
    artifacts: Path
    #: `Places.bucket`
    bucket: str | None = None
    #: its part of a GPU; None: it is on the cores
    place: GpuShare | None = None
    threads: int
    hang_limit_seconds: float
    memory_limit_bytes: int | None = None

    @property
    def places(self) -> Places:
        """Where the worker keeps its files."""
        return Places(cache=self.cache, artifacts=self.artifacts, bucket=self.bucket)

    @property
    def limits(self) -> Limits:
        """What its trainer may take."""
        return Limits(hang_seconds=self.hang_limit_seconds, memory_bytes=self.memory_limit_bytes, threads=self.threads)

    @property
    def log(self) -> Path:
        """Where the worker writes what no one reads unless it crashes."""
        return self.places.of_study(self.study) / "logs" / f"{self.worker}.log"

    @property
    def trainer_log(self) -> Path:
        """Where its trainer does the same."""
        return self.log.with_suffix(".trainer.log")


#: starts the trainer of an assignment
Start = Callable[[Assignment], Trainer]


def child(assignment: Assignment) -> Trainer:
    """The trainer of real work: a child process with Keras."""
    return ChildTrainer(
        threads=assignment.threads, log=assignment.trainer_log, place=assignment.place, memory_bytes=assignment.memory_limit_bytes
    )


def work(assignment: Assignment, *, stopping: Stopping, tell: Callable[[Event], None], start: Start = child) -> None:
    """Be a worker of a study that is there; the trainer's long start overlaps with loading Optuna and opening the storage.

    Raises:
        RequestError: the study's data or model cannot be used, it was changed since it was checked, or the key of its weights is missing.
        TunerError: the worker cannot go on, for example because the storage was away for too long.
    """
    at_rest.require_key(assignment.places.of_study(assignment.study))
    trainer = WarmTrainer(lambda: start(assignment), assignment.limits, stopping)
    try:
        from tuner.storage import engine as storages
        from tuner.studies import study as studies
        from tuner.studies import trials
        from tuner.workers.worker.worker import Worker

        found = studies.load(assignment.study, storages.open(assignment.storage))
        require_unchanged(assignment.spec, found.spec)
        study = studies.at(found, assignment.data)
        identity = trials.WorkerId.here(assignment.worker)
        Worker(study, trainer, identity=identity, places=assignment.places, stopping=stopping, tell=tell).run()
    except StorageError as error:  # whoever joined the study has used the storage: the request was in order
        raise TunerError(str(error)) from error
    finally:
        trainer.close()


def require_unchanged(checked: StudySpec, found: StudySpec) -> None:
    """Refuse a study that names in the storage, since it was looked at, other code or images than were allowed.

    Raises:
        StudyError: it differs from the one that was checked.
    """
    changes = study_file.differences(checked, found)
    if changes:
        raise StudyError(
            f"the study {checked.name} was changed in the storage since this worker joined it:\n  "
            + "\n  ".join(changes)
            + "\nFind out by whom, before it is started again."
        )


def main(fd: int, start: Start = child) -> int:
    """Work on the assignment that comes through `fd`; the exit code."""
    pipe = Connection(fd)
    assignment = Assignment.model_validate_json(pipe.recv_bytes())
    stopping = Stopping()
    tell = _teller(pipe)
    with on_signals(stopping):
        stopping.ask_when_closed(pipe)
        try:
            work(assignment, stopping=stopping, tell=tell, start=start)
        except TunerError as error:
            what = EventKind.REFUSED if isinstance(error, RequestError) else EventKind.GAVE_UP
            tell(Event(what=what, study=assignment.study, worker=assignment.worker, message=str(error)))
            return error.exit_code
    return 0


def _teller(pipe: Connection) -> Callable[[Event], None]:
    lock = threading.Lock()

    def tell(event: Event) -> None:
        try:
            with lock:
                pipe.send_bytes(event.model_dump_json().encode())
        except OSError:
            pass  # no one listens any more; the pipe's watcher has asked the worker to stop

    return tell


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
