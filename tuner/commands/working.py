"""`tuner worker`: one more pair of hands on a study, in this process."""

import os
from pathlib import Path

from tuner import study_file
from tuner.commands import checking, options, running
from tuner.errors import StorageError
from tuner.search import storage as storages
from tuner.search import study as studies
from tuner.search import trials
from tuner.search.study import Study
from tuner.spec import StudySpec
from tuner.terminal import news, plain
from tuner.workers import process
from tuner.workers.events import Event
from tuner.workers.stopping import Stopping, on_signals


def worker(path: Path, url: str, *, places: options.Folders, hands: options.Hands) -> int:
    """Work on a study until its budget is spent or someone says stop; the exit code."""
    spec = study_file.read(path)
    checking.require(spec, places.cache)
    study = _join(spec, storages.open(url))
    (assignment,) = running.assign(study, url, places, hands)
    # each has a log of its own, however many of them are started on this machine
    assignment = assignment.model_copy(update={"worker": f"w{os.getpid()}"})
    stopping = Stopping()
    with on_signals(stopping):
        process.work(assignment, stopping=stopping, tell=_tell, start=process.child)
    if stopping.is_urgent:
        return running.KILLED
    try:
        return 1 if trials.stopped(study) else 0
    except StorageError:
        return 0  # the worker has written all that it had to write


def _join(spec: StudySpec, storage: storages.Storage) -> Study:
    """The study of a file; one that is there keeps the budget that it has, which a `tuner run` may have changed."""
    if spec.name in studies.names(storage):
        spec = spec.model_copy(update={"budget": studies.load(spec.name, storage).spec.budget})
    return studies.join(spec, storage)


def _tell(event: Event) -> None:
    said = news.plain(event, is_best=False)
    if said is not None:
        plain.line(said)
