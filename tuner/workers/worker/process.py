"""Worker process: receives its assignment through a pipe and sends its events back.

The process stops when the other end of the pipe is closed, that is, when its parent has ended.
"""

import math
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from tuner import machine
from tuner.errors import RequestError, StorageError, StudyError, TunerError
from tuner.spec import file as study_file
from tuner.spec.study import AnyStudySpec
from tuner.spec.tasks import TASKS, ParsedSpec
from tuner.trust import at_rest
from tuner.workers.bucket.transfer import Folders
from tuner.workers.engines.gpus import GpuShare
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.stopping import Stopping, on_signals
from tuner.workers.worker.trainer import ChildTrainer, Limits, Trainer, WarmTrainer

if TYPE_CHECKING:
    from tuner.workers.worker.worker import WorkerTiming


class Assignment(BaseModel):
    """Everything a worker needs; never an argument of a command, where every user could read the storage's password."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str
    #: the study as it was checked before the worker started, with the paths that its images and its code have on this machine; the stored
    #: study may differ in its budget and these paths only
    spec: ParsedSpec
    #: SQLAlchemy URL
    storage: str
    #: name of the worker, unique on its host
    worker: str
    folders: Folders
    #: its share of a GPU; None: it trains on the CPU
    gpu: GpuShare | None = None
    threads: int
    #: --hang-limit; None: not given
    hang_limit_seconds: float | None = None
    memory_limit_bytes: int | None = None
    #: import path of the program that started the study, for the code that the study names; (): the trainer's own path
    import_path: tuple[str, ...] = ()
    #: whether to continue with code that differs from what the study recorded, and to record it
    accept_code: bool = False

    @property
    def limits(self) -> Limits:
        """The limits of its trainer."""
        hang_seconds = self.hang_limit_seconds
        if hang_seconds is None:  # an objective may compute for hours without a report
            hang_seconds = math.inf if self.spec.asks_pruning else Limits.hang_seconds
        return Limits(
            hang_seconds=hang_seconds,
            stall_seconds=self.spec.stall_seconds,
            memory_bytes=self.memory_limit_bytes,
            threads=self.threads,
        )

    @property
    def log(self) -> Path:
        """The log file of the worker, for crashes."""
        return self.folders.of_study(self.study) / "logs" / f"{self.worker}.log"

    @property
    def trainer_log(self) -> Path:
        """The log file of its trainer."""
        return self.log.with_suffix(".trainer.log")


#: starts the trainer of an assignment
StartTrainer = Callable[[Assignment], Trainer]


def start_trainer(assignment: Assignment) -> Trainer:
    """Start the usual trainer: a child process, with Keras if the task of the study needs it."""
    return ChildTrainer(
        threads=assignment.threads,
        log=assignment.trainer_log,
        gpu=assignment.gpu,
        memory_bytes=assignment.memory_limit_bytes,
        import_path=assignment.import_path,
        with_keras=TASKS[assignment.spec.task].needs_keras,
    )


def run_worker(
    assignment: Assignment,
    *,
    stopping: Stopping,
    tell: Callable[[Event], None],
    start: StartTrainer = start_trainer,
    timing: "WorkerTiming | None" = None,
) -> None:
    """Run a worker of an existing study; the trainer starts while this process imports Optuna and opens the storage.

    Raises:
        RequestError: the data or the model cannot be used, the study was changed after its check, or the key of its weights is missing.
        TunerError: the worker cannot continue, for example because the storage was away for too long.
    """
    at_rest.require_key(assignment.folders.of_study(assignment.study))
    trainer = WarmTrainer(lambda: start(assignment), assignment.limits, stopping)
    try:
        from tuner.storage import engine as storages
        from tuner.studies import study as studies
        from tuner.studies import trials
        from tuner.workers.worker.worker import Worker, WorkerTiming

        found = studies.load(assignment.study, storages.open(assignment.storage))
        require_unchanged(assignment.spec, found.spec)
        study = studies.at(found, assignment.spec)
        identity = trials.WorkerId.here(assignment.worker)
        worker = Worker(study, trainer, identity=identity, folders=assignment.folders, stopping=stopping, tell=tell)
        worker.run(timing or WorkerTiming(), accept_code=assignment.accept_code)
    except StorageError as error:  # not a wrong request: the storage worked when the study was joined
        raise TunerError(str(error)) from error
    finally:
        trainer.close()


def require_unchanged(checked: AnyStudySpec, found: AnyStudySpec) -> None:
    """Refuse a stored study that names other code or images than the study that was checked.

    Raises:
        StudyError: the two differ.
    """
    changes = study_file.differences(checked, found)
    if changes:
        raise StudyError(
            f"the study {checked.name} was changed in the storage since this worker joined it:\n  "
            + "\n  ".join(changes)
            + "\nFind out who changed it before you start it again."
        )


def main(fd: int, start: StartTrainer = start_trainer) -> int:
    """Run the worker of the assignment that is read from `fd`; return the exit code."""
    machine.collect_garbage_rarely()
    pipe = Connection(fd)
    assignment = Assignment.model_validate_json(pipe.recv_bytes())
    stopping = Stopping()
    tell = _teller(pipe)
    with on_signals(stopping):
        stopping.ask_when_closed(pipe)
        try:
            run_worker(assignment, stopping=stopping, tell=tell, start=start)
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
            pass  # the parent has ended; the pipe's watcher asks the worker to stop

    return tell


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
