"""`tuner run` for programs: a study, trained by worker processes of this machine until its budget is spent."""

import logging
import os
import threading
from contextlib import nullcontext
from pathlib import Path

from tuner.cache import entries
from tuner.commands import artifacts as commands_artifacts
from tuner.commands import check, ensemble, options, storage_url, waiting
from tuner.commands import run as commands_run
from tuner.errors import StudyStopped
from tuner.results import best as bests
from tuner.results.best import Best
from tuner.spec.study import StudySpec
from tuner.storage import engine as storages
from tuner.studies import study as studies
from tuner.studies import trials
from tuner.trust import user_code
from tuner.workers.engines import local
from tuner.workers.worker import events
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.stopping import Stopping, on_signals

_log = logging.getLogger(__name__)


def run(
    spec: StudySpec,
    *,
    storage: str | Path | None = None,
    workers: int | None = None,
    cache: Path | None = None,
    artifacts: Path | str | None = None,
) -> Best:
    """Create or resume a study, train trials until its budget is spent, and return the best trial, measured on the test split.

    Ctrl-C stops the study in order: the next call resumes the running trials. Functions that the study names are imported from the
    current folder and from the folders in `sys.path`; they cannot be in the program or notebook itself. Warnings about the images and of
    the workers are logged; without a configuration of `logging`, Python prints them to stderr.

    Args:
        spec: the study; `tuner.read` returns the one of a file.
        storage: SQLAlchemy URL or SQLite file; None: TUNER_STORAGE, the URL in the file TUNER_STORAGE_FILE, or tuner.db here.
        workers: number of worker processes, each with its own trainer; None: one per slot of the GPUs here, or one without a GPU.
        cache: folder of decoded images and features; None: TUNER_CACHE, or the user's own.
        artifacts: folder of weights, checkpoints and logs, or `s3://BUCKET/PREFIX`; None: TUNER_ARTIFACTS, or a folder in the current
            folder.

    Raises:
        RequestError: the study cannot run as it is; nothing was trained.
        StudyStopped: three trials in a row failed in the same way.
        TunerError: the workers gave up before the study ended.
        KeyboardInterrupt: a signal stopped it.
    """
    user_code.require_outside()
    url, folders = storage_url.url(storage), options.folders(cache, artifacts)
    options.limit_cache(os.environ.get(entries.LIMIT))
    plan = options.plan_workers(workers, None, None, None, options.read_slots_per_gpu())
    check.admit(spec, folders.cache, tell=lambda warning: _log.warning("study %s: %s", spec.name, warning))
    commands_artifacts.require_bucket(folders.bucket)
    new_database = storage_url.announcement(url)
    study = studies.join(spec, storages.open(url))
    if new_database:
        _log.warning("study %s: %s", study.name, new_database)
    trials.resume(study)
    assignments = list(commands_run.make_assignments(study, url, folders, plan, import_path=user_code.import_path()))
    fatal: list[Event] = []

    def collect(event: Event) -> None:
        if event.what in waiting.FATAL_EVENTS:
            fatal.append(event)
        elif event.what in (EventKind.WARNING, EventKind.TROUBLE):
            _log.warning("%s", events.line(event))

    stopping = Stopping()
    is_main = threading.current_thread() is threading.main_thread()
    with on_signals(stopping) if is_main else nullcontext():  # only the main thread can listen to signals
        codes = local.run(assignments, stopping=stopping, tell=events.once(collect))
        _require_ended(study, fatal, codes, stopping)
        ensemble.try_measure(study, assignments[0], stopping, lambda warning: _log.warning("study %s: %s", study.name, warning))
    if stopping.is_asked:
        raise KeyboardInterrupt
    return bests.best(study)


def _require_ended(study: studies.Study, fatal: list[Event], codes: list[int], stopping: Stopping) -> None:
    """Raise the reason if the workers ended before the study did."""
    if stopping.is_asked:
        raise KeyboardInterrupt
    failure = waiting.find_failure(study, fatal, codes)
    if failure is not None:
        raise failure
    reason = trials.stopped(study)
    if reason:
        raise StudyStopped(reason)
