"""`tuner run`, for programs: a study worked on by worker processes of this machine, until its budget is spent."""

from pathlib import Path

from tuner.commands import options, running
from tuner.errors import RequestError, StudyStopped
from tuner.results import best as bests
from tuner.results.best import Best
from tuner.search import storage as storages
from tuner.search import study as studies
from tuner.search import trials
from tuner.spec import StudySpec
from tuner.workers import local
from tuner.workers.events import Event, Happening
from tuner.workers.stopping import Stopping


def run(
    spec: StudySpec,
    *,
    storage: str = "sqlite:///tuner.db",
    workers: int = 1,
    cache: Path | None = None,
    artifacts: Path = Path("tuner-artifacts"),
) -> Best:
    """Create a study or go on with it, until its budget is spent; its best trial.

    Args:
        spec: what to search; `tuner.read` makes one of a file.
        storage: a SQLAlchemy URL.
        workers: worker processes, each with a trainer of its own.
        cache: folder of decoded images and features; None: TUNER_CACHE, or the user's own.
        artifacts: folder of weights, checkpoints and logs.

    Raises:
        RequestError: the study cannot be worked on as it is; nothing was trained.
        StudyStopped: three trials in a row failed alike.
    """
    study = studies.join(spec, storages.open(storage))
    trials.resume(study)
    hands = options.hands(workers, None, None, None)
    refused: list[str] = []

    def tell(event: Event) -> None:
        if event.what is Happening.REFUSED:
            refused.append(event.message)

    places = options.places(cache, artifacts)
    local.run(list(running.assign(study, storage, places, hands)), stopping=Stopping(), tell=tell)
    if refused:
        raise RequestError(refused[0])
    reason = trials.stopped(study)
    if reason:
        raise StudyStopped(reason)
    return bests.best(study)
