"""`tuner run --from`: what earlier searches found, into the first trials of a new one.

The end of a run: the best trial scored on the test split, its config exported, and one screen about it all.

`tuner run`: a study from its file to its best config, with the workers of one engine.
"""

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import RenderableType

from tuner import wording
from tuner.commands import check, control, engines, options, waiting
from tuner.errors import RequestError, StorageError, TunerError
from tuner.protocol import messages
from tuner.results import best as bests
from tuner.results import export
from tuner.results.best import Best
from tuner.spec import file as study_file
from tuner.spec.study import StudySpec
from tuner.storage import engine as storages
from tuner.studies import study as studies
from tuner.studies import trials, warm_start
from tuner.studies.study import Study
from tuner.studies.warm_start import Earlier, Taken
from tuner.terminal import live, plain, printing
from tuner.terminal import status as status_screens
from tuner.views import status
from tuner.workers.bucket.transfer import Folders
from tuner.workers.engines import local
from tuner.workers.worker import evaluation, process
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.process import Assignment
from tuner.workers.worker.stopping import Stopping, on_signals

#: in a bundle
_CONFIG = "config.yaml"


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a run begins with."""

    #: studies, bundles and study files of fixed values
    names: Sequence[str] = ()
    #: where those studies are; None: where the new one is
    storage: str | None = None

    def read(self, spec: StudySpec, url: str) -> list[Earlier]:
        """The configs, before anything is written; those of the first source first.

        Raises:
            RequestError: a source is not there, or holds no config.
        """
        if self.storage is not None and not self.names:
            raise RequestError("--from-storage says where earlier studies are; name them with --from")
        place = self.storage or url
        known = self._known(place)
        return [earlier for name in self.names for earlier in self._of(name, spec, place, known)]

    def _known(self, place: str) -> list[str]:
        if not self.names or not options.is_there(place):
            return []
        opened = storages.open(place)
        try:
            return studies.names(opened)
        finally:
            opened.close()

    def _of(self, name: str, spec: StudySpec, place: str, known: Sequence[str]) -> list[Earlier]:
        path = Path(name).expanduser()
        file = path / _CONFIG if path.is_dir() else path
        is_file, is_study = file.is_file(), name in known
        if is_file and is_study:
            raise RequestError(f"--from {name} is a study and also a file; for the file write --from ./{name}")
        if is_file:
            return [warm_start.of_file(study_file.read(file), str(file))]
        if not is_study:
            where = f"no study of {storages.shown(place)} and no file or bundle"
            raise RequestError(f"--from {name} is {where}.{' ' + wording.known(known, name) if known else ''}")
        if name == spec.name and self.storage is None:
            raise RequestError(f"--from {name} is the study itself; it goes on without being told")
        opened = storages.open(place)
        try:
            return warm_start.best_of(studies.load(name, opened))
        finally:
            opened.close()


def begin(study: Study, found: Sequence[Earlier]) -> None:
    """Have a study begin with some configs, and say what became of each."""
    if found:
        for taken in warm_start.begin(study, found, by=control.user()):
            plain.line(_say(study, taken))


def _say(study: Study, taken: Taken) -> str:
    if taken.trial is None:
        return f"{study.name}: {taken.earlier.origin} is not tried: it {taken.reason}"
    if taken.reason:
        return f"{study.name}: {taken.earlier.origin} {taken.reason}: trial {taken.trial}"
    return f"{study.name}: {taken.earlier.origin} is tried as trial {taken.trial}"


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """One `tuner run`, as its end needs to know it."""

    study: Study
    #: the study file
    file: Path
    #: of one of its workers: where files are, what a trainer may take
    assignment: Assignment
    #: where the best config goes; None: nowhere
    export_to: Path | None
    #: seconds by the monotonic clock
    began: float = field(default_factory=time.monotonic)


def conclude(run: FinishedRun, stopping: Stopping, *, gave_up: str = "") -> int:
    """Score, export and show; the exit code: 1 if the study stopped itself, its workers gave up or nothing was completed."""
    snapshot = status.snapshot(run.study)
    reason = trials.stopped(run.study)
    sections: list[RenderableType] = []
    exported = None
    if snapshot.best_number is not None:
        if not stopping.is_asked and not gave_up:
            _score(run, stopping)
        exported = _export(run)
        sections.append(status_screens.found(_found(run.study), snapshot.num_completed))
    sections.append(status_screens.cost(snapshot, time.monotonic() - run.began))
    sections.append(status_screens.next_steps(run.study.name, run.file, exported, _reason(run.study, stopping, gave_up)))
    printing.result("", *sections)
    if reason:
        plain.line(f"The study stopped itself: {reason}")
    elif gave_up:
        plain.line(gave_up)
    return 1 if reason or gave_up or (not snapshot.num_completed and not stopping.is_asked) else 0


def _score(run: FinishedRun, stopping: Stopping) -> None:
    if not _is_to_score(bests.best(run.study)):
        return
    try:
        with printing.busy(f"{run.study.name} trial {bests.best(run.study).trial} is scored on the test split …"):
            score(run.study, run.assignment, stopping)
    except TunerError as error:
        plain.line(f"warning: {error}")


def score(study: Study, assignment: Assignment, stopping: Stopping) -> None:
    """Measure the best trial on the test split, unless that was done before.

    Raises:
        TrainingError: its weights could not be scored.
        StorageError: the score could not be kept.
        TunerError: they are in a bucket that does not give them.
    """
    best = bests.best(study)
    if best.weights is None or not _is_to_score(best):
        return
    with options.fetched(best.weights, assignment.folders.of_study(study.name)) as path:
        found = evaluation.evaluate(
            study,
            messages.Evaluate(trial=best.trial, hyperparameters=best.hyperparameters, weights=str(path)),
            start=lambda: process.start_trainer(assignment),
            folders=assignment.folders,
            limits=assignment.limits,
            stopping=stopping,
        )
    if found is not None:
        trials.keep_test(study, found)


def _is_to_score(best: Best) -> bool:
    if best.test_accuracy is not None or best.weights is None:
        return False
    return options.is_url(best.weights) or Path(best.weights).exists()


def _export(run: FinishedRun) -> Path | None:
    if run.export_to is None:
        return None
    export.write(bests.best(run.study), run.export_to)
    return run.export_to


def _found(study: Study) -> status_screens.Found:
    best = bests.best(study)
    rule = bests.rule(study)
    return status_screens.Found(
        trial=best.trial,
        value=best.value,
        changes=status_screens.differences(rule.model_dump(), best.hyperparameters.model_dump()) if rule else (),
        rule_value=best.rule_value,
        test_accuracy=best.test_accuracy,
        num_test=best.num_test,
    )


def _reason(study: Study, stopping: Stopping, gave_up: str) -> str:
    if stopping.is_asked:
        return "you stopped it; the running trials are kept for the next run"
    if gave_up:
        return "its workers gave up; the next run goes on"
    return trials.stop_reason(study) or ""


#: exit code of a process that Ctrl-C killed
KILLED = 130


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What is to be searched."""

    #: the study file
    file: Path
    budget: options.BudgetOptions
    #: what it begins with: studies, bundles and study files of fixed values
    earlier: Sequence[str] = ()
    #: where those studies are; None: where the new one is
    earlier_storage: str | None = None


@dataclass(frozen=True, kw_only=True)
class ExportTarget:
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
    asked: SearchOptions,
    url: str,
    *,
    places: Folders,
    engine: engines.EngineOptions,
    dashboard: Dashboard,
    exported: ExportTarget,
) -> int:
    """Work on a study until its budget is spent or someone says stop; the exit code."""
    spec = asked.budget.over(study_file.read(asked.file))
    target = exported.target(spec.name)
    dashboard.require()
    check.require(spec, places.cache)
    options.require(places.bucket)
    found = Sources(names=asked.earlier, storage=asked.earlier_storage).read(spec, url)
    with engines.ready(engine, url) as ready:
        study = studies.join(spec, storages.open(ready.storage))
        trials.resume(study)
        begin(study, found)
        assignments = list(assign(study, ready.storage, places, ready.hands))
        this = FinishedRun(study=study, file=asked.file, assignment=assignments[0], export_to=target)
        stopping = Stopping()
        with on_signals(stopping):
            with dashboard.beside(study, places.artifacts) as address:
                complaints, codes = train(study, ready, assignments, stopping=stopping, address=address)
            return KILLED if stopping.is_urgent else _conclude(this, stopping, complaints, codes)


def train(
    study: Study, ready: engines.Ready, assignments: Sequence[Assignment], *, stopping: Stopping, address: str | None = None
) -> tuple[list[Event], list[int]]:
    """Have workers work on a study and show how it goes, until it or they come to an end: their complaints, and their exit codes."""
    with live.choose(study.spec, address) as screen:
        watch = _Watch(study, screen, stopping)
        codes = ready.run(assignments, stopping=stopping, tell=watch.tell, tick=watch.tick)
        if not stopping.is_urgent:
            watch.look()
    return watch.complaints, codes


def _conclude(this: FinishedRun, stopping: Stopping, complaints: list[Event], codes: list[int]) -> int:
    try:
        failure = waiting.failure(this.study, complaints, codes)
        if isinstance(failure, RequestError):
            raise failure
        return conclude(this, stopping, gave_up="" if failure is None or stopping.is_asked else str(failure))
    except StorageError as error:
        raise TunerError(f"the study is not shown, nor its best config exported: {error}; run again when the storage is back") from error


def assign(study: Study, url: str, places: Folders, hands: options.Hands) -> Iterator[Assignment]:
    """What each worker needs to know."""
    for number, place in enumerate(hands.places, start=1):
        yield Assignment(
            study=study.name,
            spec=study.spec,
            data=study.spec.data,
            storage=url,
            worker=f"w{number}",
            folders=places,
            gpu=place,
            threads=hands.threads or local.fair_threads(hands.num_workers),
            hang_limit_seconds=hands.hang_limit_seconds,
            memory_limit_bytes=hands.memory_limit_bytes or local.fair_memory_bytes(hands.num_workers),
        )


class _Watch:
    """Passes events and snapshots on to the screen, and knows the best value so far."""

    def __init__(self, study: Study, screen: live.Screen, stopping: Stopping) -> None:
        self._study = study
        self._screen = screen
        self._stopping = stopping
        self._best = status.snapshot(study).best_value
        self._paced_look = live.Throttled(self.look, every_seconds=1.0)
        #: what workers said when they could not go on
        self.complaints: list[Event] = []

    def tell(self, event: Event) -> None:
        """Take note of an event."""
        is_best = event.what is EventKind.COMPLETED and event.value is not None and (self._best is None or event.value > self._best)
        if is_best:
            self._best = event.value
        if event.what in waiting.COMPLAINTS:
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
            self._screen.show(status.snapshot(self._study))
        except StorageError:
            pass  # the workers say so, and go on
