"""`tuner run`, for programs: a study worked on by worker processes of this machine, until its budget is spent."""

import logging
import os
import threading
from contextlib import nullcontext
from pathlib import Path

from tuner.cache import entries
from tuner.commands import check, options, storage_url, waiting
from tuner.commands import run as commands_run
from tuner.errors import StudyStopped, TunerError
from tuner.results import best as bests
from tuner.results.best import Best
from tuner.spec.study import StudySpec
from tuner.storage import engine as storages
from tuner.studies import study as studies
from tuner.studies import trials
from tuner.workers.engines import local
from tuner.workers.worker.events import Event
from tuner.workers.worker.stopping import Stopping, on_signals

_log = logging.getLogger(__name__)


def run(
    spec: StudySpec,
    *,
    storage: str | None = None,
    workers: int | None = None,
    cache: Path | None = None,
    artifacts: Path | str | None = None,
) -> Best:
    """Create a study or go on with it, until its budget is spent; its best trial, scored on the test split.

    Ctrl-C ends it in order: running trials are kept for the next call.

    Args:
        spec: what to search; `tuner.read` makes one of a file.
        storage: a SQLAlchemy URL; None: TUNER_STORAGE, the one in TUNER_STORAGE_FILE, or a file in the current folder.
        workers: worker processes, each with a trainer of its own; None: one for each slot of the GPUs here, else one.
        cache: folder of decoded images and features; None: TUNER_CACHE, or the user's own.
        artifacts: folder of weights, checkpoints and logs; or `s3://BUCKET/PREFIX`; None: TUNER_ARTIFACTS, or one in the current folder.

    Raises:
        RequestError: the study cannot be worked on as it is; nothing was trained.
        StudyStopped: three trials in a row failed alike.
        TunerError: the workers gave up before the study came to its end.
        KeyboardInterrupt: a signal asked for the end.
    """
    url, places = storage_url.url(storage), options.places(cache, artifacts)
    options.limit_cache(os.environ.get(entries.LIMIT))
    hands = options.hands(workers, None, None, None, options.slots_per_gpu())
    check.require(spec, places.cache)
    options.require(places.bucket)
    study = studies.join(spec, storages.open(url))
    trials.resume(study)
    assignments = list(commands_run.assign(study, url, places, hands))
    complaints: list[Event] = []

    def tell(event: Event) -> None:
        if event.what in waiting.COMPLAINTS:
            complaints.append(event)

    stopping = Stopping()
    is_main = threading.current_thread() is threading.main_thread()
    with on_signals(stopping) if is_main else nullcontext():  # only the main thread may listen to signals
        codes = local.run(assignments, stopping=stopping, tell=tell)
        _check(study, complaints, codes, stopping)
        try:
            commands_run.score(study, assignments[0], stopping)
        except TunerError as error:
            _log.warning("study %s: %s", study.name, error)
    if stopping.is_asked:
        raise KeyboardInterrupt
    return bests.best(study)


def _check(study: studies.Study, complaints: list[Event], codes: list[int], stopping: Stopping) -> None:
    """Raise what ended a run before the study came to its end."""
    if stopping.is_asked:
        raise KeyboardInterrupt
    failure = waiting.failure(study, complaints, codes)
    if failure is not None:
        raise failure
    reason = trials.stopped(study)
    if reason:
        raise StudyStopped(reason)
