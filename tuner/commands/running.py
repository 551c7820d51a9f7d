"""`tuner run`: a study from its file to its best config, with the workers of one engine."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tuner import study_file
from tuner.commands import artifacts, checking, earlier, ending, engines, options, outcome
from tuner.errors import RequestError, StorageError, TunerError
from tuner.results import export
from tuner.search import progress, trials
from tuner.search import storage as storages
from tuner.search import study as studies
from tuner.search.study import Study
from tuner.terminal import screens
from tuner.workers import local
from tuner.workers.events import Event, Happening
from tuner.workers.process import Assignment
from tuner.workers.stopping import Stopping, on_signals

#: exit code of a process that Ctrl-C killed
KILLED = 130


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be searched."""

    #: the study file
    file: Path
    budget: options.BudgetOptions
    #: what it begins with: studies, bundles and study files of fixed values
    earlier: Sequence[str] = ()
    #: where those studies are; None: where the new one is
    earlier_storage: str | None = None


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Whether and where the best config goes at the end."""

    wanted: bool
    #: None: the study's name in the current folder
    path: Path | None

    def target(self, study: str) -> Path | None:
        """The file to write.

        Raises:
            RequestError: it cannot be a config.
        """
        if not self.wanted:
            if self.path is not None:
                raise RequestError("--to and --no-export are both given; choose one.")
            return None
        target = (self.path or Path(f"{study}-best.yaml")).expanduser()
        export.check_place(target)
        if target.exists() and not export.is_export(target, study):
            raise RequestError(f"{target} exists and is not an export of the study {study}; name another file with --to.")
        return target


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """Whether and where the study is shown in a browser while it runs."""

    wanted: bool
    #: None: the usual one, or any if that is taken
    port: int | None

    def require(self) -> None:
        """Refuse a port that is taken, before anything is written.

        Raises:
            RequestError: it is.
        """
        if not self.wanted or not self.port:
            return
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", self.port))
            except OSError as error:
                cure = "give another with --port, or --port 0 for any that is free"
                raise RequestError(f"the dashboard cannot listen on port {self.port}: {error.strerror}; {cure}") from error

    @contextmanager
    def beside(self, study: Study, artifacts: Path) -> Iterator[str | None]:
        """Serve it while a `with` block runs; gives the link that lets its reader in.

        Raises:
            RequestError: the port is taken.
        """
        if not self.wanted:
            yield None
            return
        from tuner.dashboard import server, settings

        with server.beside(study.storage, settings.Settings(artifacts=artifacts), self.port) as served:
            yield served.link


def run(
    asked: Asked,
    url: str,
    *,
    places: options.Folders,
    engine: engines.Wanted,
    dashboard: Dashboard,
    exported: Exported,
) -> int:
    """Work on a study until its budget is spent or someone says stop; the exit code."""
    spec = asked.budget.over(study_file.read(asked.file))
    target = exported.target(spec.name)
    dashboard.require()
    checking.require(spec, places.cache)
    artifacts.require(places.bucket)
    found = earlier.Sources(names=asked.earlier, storage=asked.earlier_storage).read(spec, url)
    with engines.ready(engine, url) as ready:
        study = studies.join(spec, storages.open(ready.storage))
        trials.resume(study)
        earlier.begin(study, found)
        assignments = list(assign(study, ready.storage, places, ready.hands))
        this = ending.Run(study=study, file=asked.file, assignment=assignments[0], export_to=target)
        stopping = Stopping()
        with on_signals(stopping):
            with dashboard.beside(study, places.artifacts) as address:
                complaints, codes = train(study, ready, assignments, stopping=stopping, address=address)
            return KILLED if stopping.is_urgent else _conclude(this, stopping, complaints, codes)


def train(
    study: Study, ready: engines.Ready, assignments: Sequence[Assignment], *, stopping: Stopping, address: str | None = None
) -> tuple[list[Event], list[int]]:
    """Have workers work on a study and show how it goes, until it or they come to an end: their complaints, and their exit codes."""
    with screens.choose(study.spec, address) as screen:
        watch = _Watch(study, screen, stopping)
        codes = ready.run(assignments, stopping=stopping, tell=watch.tell, tick=watch.tick)
        if not stopping.is_urgent:
            watch.look()
    return watch.complaints, codes


def _conclude(this: ending.Run, stopping: Stopping, complaints: list[Event], codes: list[int]) -> int:
    try:
        failure = outcome.failure(this.study, complaints, codes)
        if isinstance(failure, RequestError):
            raise failure
        return ending.conclude(this, stopping, gave_up="" if failure is None or stopping.is_asked else str(failure))
    except StorageError as error:
        raise TunerError(f"the study is not shown, nor its best config exported: {error}; run again when the storage is back") from error


def assign(study: Study, url: str, places: options.Folders, hands: options.Hands) -> Iterator[Assignment]:
    """What each worker needs to know."""
    for number, place in enumerate(hands.places, start=1):
        yield Assignment(
            study=study.name,
            spec=study.spec,
            data=study.spec.data,
            storage=url,
            worker=f"w{number}",
            cache=places.cache,
            artifacts=places.artifacts,
            bucket=places.bucket,
            place=place,
            threads=hands.threads or local.fair_threads(hands.num_workers),
            hang_limit_seconds=hands.hang_limit_seconds,
            memory_limit_bytes=hands.memory_limit_bytes or local.fair_memory_bytes(hands.num_workers),
        )


class _Watch:
    """Passes events and snapshots on to the screen, and knows the best value so far."""

    def __init__(self, study: Study, screen: screens.Screen, stopping: Stopping) -> None:
        self._study = study
        self._screen = screen
        self._stopping = stopping
        self._best = progress.snapshot(study).best_value
        self._paced_look = screens.Paced(self.look, every_seconds=1.0)
        #: what workers said when they could not go on
        self.complaints: list[Event] = []

    def tell(self, event: Event) -> None:
        """Take note of an event."""
        is_best = event.what is Happening.COMPLETED and event.value is not None and (self._best is None or event.value > self._best)
        if is_best:
            self._best = event.value
        if event.what in outcome.COMPLAINTS:
            self.complaints.append(event)
        self._screen.tell(event, is_best=is_best)

    def tick(self) -> None:
        """Look at how things are, if it is time."""
        if self._stopping.is_asked:
            self._screen.stopping()
        self._paced_look()

    def look(self) -> None:
        """Show how things are."""
        try:
            self._screen.show(progress.snapshot(self._study))
        except StorageError:
            pass  # the workers say so, and go on
