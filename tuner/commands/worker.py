"""`tuner worker`: one more worker for a study, in this process."""

import os
import secrets
from pathlib import Path

from tuner.commands import artifacts, check, options, run, show, storage_url, waiting
from tuner.commands.origin import LocalSettings
from tuner.commands.waiting import Deadline
from tuner.errors import RequestError, StorageError, StudyError
from tuner.spec import file as study_file
from tuner.spec.study import AnyStudySpec
from tuner.storage import engine as storages
from tuner.studies import study as studies
from tuner.studies import trials
from tuner.studies.study import Study
from tuner.terminal import plain
from tuner.workers.bucket import transfer
from tuner.workers.bucket.transfer import Folders
from tuner.workers.worker import events, process
from tuner.workers.worker.events import Event, EventEmitter
from tuner.workers.worker.stopping import Stopping, on_signals

#: suffixes of study files: a name with one of them is never taken for the name of a study
_FILE_SUFFIXES = (".yaml", ".yml", ".json")


def worker(given: str, url: str, *, local: LocalSettings, folders: Folders, workers: options.WorkerPlan) -> int:
    """Train trials of a study until its budget is spent or someone stops it; return the exit code.

    The study is given as a file, or by the name that it has in the storage.
    """
    is_file = _is_file(given)
    study = _join_file(given, url, local, folders) if is_file else _load_by_name(given, url, local)
    if waiting.is_over(study):
        _upload_pending(study, folders)
        plain.line(f"{study.name} has ended: {trials.stop_reason(study)}")
        return 1 if trials.stopped(study) else 0
    if not is_file:
        check.admit(study.spec, folders.cache)
    Deadline(local.wait_seconds).retry(lambda: artifacts.require_bucket(folders.bucket))
    (assignment,) = run.make_assignments(study, url, folders, workers)
    assignment = assignment.model_copy(update={"worker": new_name(), "accept_code": local.accept_code})
    stopping = Stopping()
    tell = events.once(print_event)
    with on_signals(stopping):
        while waiting.needs_worker(study, stopping):
            process.run_worker(assignment, stopping=stopping, tell=tell, start=process.start_trainer)
    if stopping.is_urgent:
        return run.KILLED
    try:
        return 1 if trials.stopped(study) else 0
    except StorageError:
        return 0  # the worker has written everything that it had to write


def _upload_pending(study: Study, folders: Folders) -> None:
    """Upload the weights that an earlier worker of this machine could not upload."""
    if transfer.has_pending_uploads(folders, study.name):
        transfer.start(folders, study.name, EventEmitter(study.name, new_name(), print_event), Stopping()).close()


def _is_file(given: str) -> bool:
    """Return whether the argument names a study file, even one that does not exist, rather than a study."""
    return Path(given).is_file() or given.endswith(_FILE_SUFFIXES) or "/" in given


def _join_file(given: str, url: str, local: LocalSettings, folders: Folders) -> Study:
    """Join the study of a file, and create it if it does not exist.

    Code that the file names is allowed. The storage's copy of the study is not trusted: code that only it names is never imported.
    """
    path = Path(given)
    if not path.exists():
        raise RequestError(f"the file {path} does not exist. To name a study in the storage, drop the suffix: tuner worker {path.stem}")
    spec = local.localize(study_file.read(path))
    check.admit(spec, folders.cache)
    storage = Deadline(local.wait_seconds).open_storage(url)
    if given in studies.names(storage):
        raise RequestError(f"{given} is both a file and a study in the storage; write ./{given} for the file, or rename the file.")
    return _join(spec, storage)


def _load_by_name(name: str, url: str, local: LocalSettings) -> Study:
    """Load a study of the storage, with the paths that its images have here. Its code is imported only if it is allowed."""
    deadline = Deadline(local.wait_seconds)
    deadline.retry(lambda: _require_storage(name, url))
    storage = deadline.open_storage(url)
    study = deadline.retry(lambda: studies.load(name, storage))
    local.require_allowed(study.spec)
    return show.localized(study, local)


def _require_storage(name: str, url: str) -> None:
    """Refuse an SQLite file that does not exist: a command that looks for a study must not create it."""
    if not storage_url.exists(url):
        raise StudyError(f"there is no study {name}: {storage_url.missing(url)} Name the database with --storage")


def _join(spec: AnyStudySpec, storage: storages.Storage) -> Study:
    """Join the study of a file; an existing study keeps its budget, which `tuner run` may have changed."""
    if spec.name in studies.names(storage):
        spec = spec.model_copy(update={"budget": studies.load(spec.name, storage).spec.budget})
    return studies.join(spec, storage)


def new_name() -> str:
    """Return a name for this worker. It is random, because processes in two containers may have the same number."""
    return f"w{os.getpid()}-{secrets.token_hex(2)}"


def print_event(event: Event) -> None:
    """Print an event as a line of a log, if it has one."""
    line = events.log_line(event, is_best=False)
    if line is not None:
        plain.line(line)
