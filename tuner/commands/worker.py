"""`tuner worker`: one more pair of hands on a study, in this process."""

import os
import secrets
from pathlib import Path

from tuner.commands import check, options, run, waiting
from tuner.commands.origin import Here
from tuner.commands.waiting import Patience
from tuner.errors import RequestError, StorageError, StudyError
from tuner.spec import file as study_file
from tuner.spec.study import StudySpec
from tuner.storage import engine as storages
from tuner.studies import study as studies
from tuner.studies import trials
from tuner.studies.study import Study
from tuner.terminal import news, plain
from tuner.workers.bucket import transfer
from tuner.workers.bucket.transfer import Folders
from tuner.workers.worker import process
from tuner.workers.worker.events import Event, EventEmitter
from tuner.workers.worker.stopping import Stopping, on_signals

#: what a study file's name ends with; a study's own name is not taken for a file's, where there is no such file
_FILES = (".yaml", ".yml", ".json")


def worker(given: str, url: str, *, here: Here, places: Folders, hands: options.Hands) -> int:
    """Work on the study of a file, or on one in the storage by its name, until its budget is spent or someone says stop; the exit code."""
    is_file = _is_file(given)
    study = _of_file(given, url, here, places) if is_file else _of_name(given, url, here)
    if waiting.is_over(study):
        _send_what_is_due(study, places)
        plain.line(f"{study.name} has ended: {trials.stop_reason(study)}")
        return 1 if trials.stopped(study) else 0
    if not is_file:
        check.require(study.spec, places.cache)
    Patience(here.wait_seconds).until(lambda: options.require(places.bucket))
    (assignment,) = run.assign(study, url, places, hands)
    assignment = assignment.model_copy(update={"worker": name()})
    stopping = Stopping()
    with on_signals(stopping):
        while waiting.is_needed(study, stopping):
            process.run_worker(assignment, stopping=stopping, tell=_tell, start=process.start_trainer)
    if stopping.is_urgent:
        return run.KILLED
    try:
        return 1 if trials.stopped(study) else 0
    except StorageError:
        return 0  # the worker has written all that it had to write


def _send_what_is_due(study: Study, places: Folders) -> None:
    """Weights that an earlier worker of this machine could not put into the bucket."""
    if transfer.has_pending_uploads(places, study.name):
        transfer.start(places, study.name, EventEmitter(study.name, name(), _tell), Stopping()).close()


def _is_file(given: str) -> bool:
    """Whether it names a study file, be it there or not, rather than a study."""
    return Path(given).is_file() or given.endswith(_FILES) or "/" in given


def _of_file(given: str, url: str, here: Here, places: Folders) -> Study:
    """The study of a file, begun if it is not there; its own code needs no leave. Code that the storage names instead is not imported."""
    path = Path(given)
    if not path.exists():
        raise RequestError(f"there is no file {path}. A study that is in the storage goes by its name: tuner worker {path.stem}")
    spec = here.place(study_file.read(path))
    check.require(spec, places.cache)
    storage = Patience(here.wait_seconds).open(url)
    if given in studies.names(storage):
        raise RequestError(f"{given} is a file, and a study of that name is in the storage; write ./{given} for the file, or move it away.")
    return _join(spec, storage)


def _of_name(name: str, url: str, here: Here) -> Study:
    """A study that is in the storage, with its images where this machine has them; its code is not imported without leave."""
    patience = Patience(here.wait_seconds)
    patience.until(lambda: _require_there(name, url))
    storage = patience.open(url)
    study = patience.until(lambda: studies.load(name, storage))
    here.require_allowed(study.spec)
    return studies.at(study, here.place(study.spec).data)


def _require_there(name: str, url: str) -> None:
    """Refuse an SQLite file that is not there: looking for a study must not make it."""
    if not options.is_there(url):
        raise StudyError(f"there is no study {name}: {storages.shown(url)} does not exist. Name the database with --storage")


def _join(spec: StudySpec, storage: storages.Storage) -> Study:
    """The study of a file; one that is there keeps the budget that it has, which a `tuner run` may have changed."""
    if spec.name in studies.names(storage):
        spec = spec.model_copy(update={"budget": studies.load(spec.name, storage).spec.budget})
    return studies.join(spec, storage)


def name() -> str:
    """Of this worker among all that share its artifacts: in two containers, processes have the same numbers."""
    return f"w{os.getpid()}-{secrets.token_hex(2)}"


def _tell(event: Event) -> None:
    said = news.plain(event, is_best=False)
    if said is not None:
        plain.line(said)
