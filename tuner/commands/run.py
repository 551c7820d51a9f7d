"""`tuner run`: a study from its file to its best configuration, trained by the workers of one engine."""

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType

from tuner import machine, wording
from tuner.commands import artifacts, check, engines, ensemble, options, storage_url, waiting
from tuner.errors import RequestError, StorageError, TunerError
from tuner.results import best as bests
from tuner.results import export
from tuner.spec import file as study_file
from tuner.spec import hyperparameters as values
from tuner.spec import plan as plans
from tuner.spec.study import AnyStudySpec, StudySpec
from tuner.spec.tasks import OBJECTIVE
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
from tuner.workers.worker import events
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.process import Assignment
from tuner.workers.worker.stopping import Stopping, on_signals

if TYPE_CHECKING:
    from tuner.dashboard.settings import Settings

#: exit code of a process that Ctrl-C killed
KILLED = 130
#: study file in a bundle
_CONFIG = "config.yaml"


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Search of a run, and the sources of its warm start."""

    #: the study file, or an objective of Optuna
    subject: "Path | ObjectiveOptions"
    budget: options.BudgetOptions
    #: studies, bundles and exports whose configurations are tried first
    earlier: Sequence[str] = ()
    #: storage of the earlier studies; None: the same as the new study's
    earlier_storage: str | None = None
    #: whether to continue with code that differs from what the study recorded
    accept_code: bool = False


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    """An objective of Optuna on the command line, instead of a study file."""

    #: `my_code.py:objective`
    function: str
    name: str | None
    #: maximize or minimize
    direction: str | None

    def read(self) -> AnyStudySpec:
        """Return the study.

        Raises:
            RequestError: an option is missing.
            SpecError: an option has a wrong value.
        """
        missing = [option for option, value in (("--name", self.name), ("--direction", self.direction)) if not value]
        if missing:
            example = f"--objective {self.function} --name my_study --direction minimize"
            raise RequestError(f"--objective needs {' and '.join(missing)}, too; write for example: tuner run {example}")
        given = {"name": self.name, "task": OBJECTIVE, "function": self.function, "objective": self.direction, "folder": str(Path.cwd())}
        return study_file.parse(given, "--objective", Path.cwd())

    def __str__(self) -> str:
        return f"--objective {self.function} --name {self.name} --direction {self.direction}"


def subject(file: Path | None, *, objective: str | None, name: str | None, direction: str | None) -> Path | ObjectiveOptions:
    """Return what a run trains: the study of a file, or an objective.

    Raises:
        RequestError: none or both are given.
    """
    if objective is not None and file is None:
        return ObjectiveOptions(function=objective, name=name, direction=direction)
    if file is None or objective is not None:
        what = "both a study file and --objective are" if file is not None else "neither a study file nor --objective is"
        raise RequestError(f"{what} given; write for example: tuner run studies/animals.yaml")
    for option, value in (("--name", name), ("--direction", direction)):
        if value is not None:
            raise RequestError(f"{option} belongs to --objective; a study file has its own: remove {option}")
    return file


@dataclass(frozen=True, kw_only=True)
class ExportTarget:
    """Whether a run exports the best configuration at its end, and where to."""

    wanted: bool
    #: None: named after the study, in the current folder
    path: Path | None

    def resolve(self, study: str) -> Path | None:
        """Return the file to write, or None if nothing is exported.

        Raises:
            RequestError: the export cannot be written there.
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
class RunDashboard:
    """Whether a run serves the dashboard, and at which port."""

    wanted: bool
    #: None: the usual port, or a free one if that is taken
    port: int | None
    #: path prefix as `--root-path` gives it; None: none
    root_path: str | None = None

    def require_place(self) -> None:
        """Refuse a port that is taken, or a path prefix that is none, before anything is written.

        Raises:
            RequestError: the dashboard cannot be served there.
        """
        if not self.wanted:
            return
        self._settings(None)
        if not self.port:
            return
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", self.port))
            except OSError as error:
                cure = "choose another port with --port, or any free port with --port 0"
                raise RequestError(f"the dashboard cannot listen on port {self.port}: {error.strerror}; {cure}") from error

    @contextmanager
    def serve(self, study: Study, artifacts_folder: Path) -> Iterator[str | None]:
        """Serve the dashboard while a `with` block runs, and give the link that signs its reader in.

        Raises:
            RequestError: the port is taken.
        """
        if not self.wanted:
            yield None
            return
        from tuner.dashboard import server

        with server.beside(study.storage, self._settings(artifacts_folder), self.port) as served:
            yield served.link

    def _settings(self, artifacts_folder: Path | None) -> "Settings":
        from tuner.dashboard import settings

        return settings.Settings(artifacts=artifacts_folder, root_path=settings.read_root_path(self.root_path))


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """Facts about a run that its end needs."""

    study: Study
    #: arguments of `tuner run` that name the study
    again: str
    #: assignment of one of its workers, with the folders and the limits of a trainer
    assignment: Assignment
    #: file of the best configuration; None: not exported
    export_to: Path | None
    #: seconds on the monotonic clock
    began: float = field(default_factory=time.monotonic)


def run(
    asked: SearchOptions,
    url: str,
    *,
    folders: Folders,
    engine: engines.EngineOptions,
    dashboard: RunDashboard,
    exported: ExportTarget,
) -> int:
    """Train trials of a study until its budget is spent or someone stops it; return the exit code."""
    subject = asked.subject
    spec = asked.budget.apply(subject.read() if isinstance(subject, ObjectiveOptions) else study_file.read(subject))
    target = exported.resolve(spec.name)
    dashboard.require_place()
    check.admit(spec, folders.cache)
    artifacts.require_bucket(folders.bucket)
    earlier = WarmStartSources(names=asked.earlier, storage=asked.earlier_storage).read(spec, url)
    with engines.open_engine(engine, url) as ready:
        new_database = storage_url.announcement(url)
        study = studies.join(spec, storages.open(ready.storage))
        if new_database:
            plain.line(f"{study.name}: {new_database}")
        trials.resume(study)
        enqueue_earlier(study, earlier)
        assignments = list(make_assignments(study, ready.storage, folders, ready.workers, accept_code=asked.accept_code))
        this = FinishedRun(study=study, again=str(subject), assignment=assignments[0], export_to=target)
        stopping = Stopping()
        with on_signals(stopping):
            with dashboard.serve(study, folders.artifacts) as link:
                fatal, codes = train(study, ready, assignments, stopping=stopping, link=link)
            return KILLED if stopping.is_urgent else _finish(this, stopping, fatal, codes)


def train(
    study: Study, ready: engines.ReadyEngine, assignments: Sequence[Assignment], *, stopping: Stopping, link: str | None = None
) -> tuple[list[Event], list[int]]:
    """Run workers on a study and show its progress until they end; return their fatal events and their exit codes."""
    with live.open_screen(study.spec, link) as screen:
        progress = _Progress(study, screen, stopping)
        codes = ready.run(assignments, stopping=stopping, tell=events.once(progress.handle), tick=progress.tick)
        if not stopping.is_urgent:
            progress.refresh()
    return progress.fatal, codes


class _Progress:
    """Passes events and snapshots to the screen, and remembers the best value so far."""

    def __init__(self, study: Study, screen: live.Screen, stopping: Stopping) -> None:
        self._study = study
        self._screen = screen
        self._stopping = stopping
        self._best = status.snapshot(study).best_value
        self._refresh_if_due = live.Throttled(self.refresh, every_seconds=1.0)
        #: events of workers that could not continue
        self.fatal: list[Event] = []

    def handle(self, event: Event) -> None:
        """Show an event, and remember it if it is fatal or a new best."""
        objective = self._study.spec.objective
        is_better = event.value is not None and (self._best is None or objective.is_better(event.value, self._best))
        is_best = event.what is EventKind.COMPLETED and is_better and not event.message  # it says which constraint is exceeded
        if is_best:
            self._best = event.value
        if event.what in waiting.FATAL_EVENTS:
            self.fatal.append(event)
        self._screen.show_event(event, is_best=is_best)

    def tick(self) -> None:
        """Refresh the screen if it is time."""
        if self._stopping.is_asked:
            self._screen.show_stopping()
        self._refresh_if_due()

    def refresh(self) -> None:
        """Show the state of the study."""
        try:
            self._screen.show(status.snapshot(self._study))
        except StorageError:
            pass  # the workers report it, and retry


def make_assignments(
    study: Study,
    url: str,
    folders: Folders,
    workers: options.WorkerPlan,
    *,
    import_path: tuple[str, ...] = (),
    accept_code: bool = False,
) -> Iterator[Assignment]:
    """Yield the assignment of each worker; `import_path` is that of a program, whose trainers import the code that the study names."""
    for number, gpu_share in enumerate(workers.gpu_shares, start=1):
        yield Assignment(
            study=study.name,
            spec=study.spec,
            storage=url,
            worker=f"w{number}",
            folders=folders,
            gpu=gpu_share,
            threads=workers.threads or local.fair_threads(workers.num_workers),
            hang_limit_seconds=workers.hang_limit_seconds,
            memory_limit_bytes=workers.memory_limit_bytes or local.fair_memory_bytes(workers.num_workers),
            import_path=import_path,
            accept_code=accept_code,
        )


@dataclass(frozen=True, kw_only=True)
class WarmStartSources:
    """The sources of a warm start, as `--from` names them."""

    #: studies, bundles and exports
    names: Sequence[str] = ()
    #: storage of these studies; None: the same as the new study's
    storage: str | None = None

    def read(self, spec: AnyStudySpec, url: str) -> list[Earlier]:
        """Read the configurations, in the order of the sources, before anything is written.

        Raises:
            RequestError: a source does not exist, or has no configuration.
        """
        if self.storage is not None and not self.names:
            raise RequestError("--from-storage is the database of earlier studies; name the studies with --from")
        if self.names and not isinstance(spec, StudySpec):
            raise RequestError(f"--from is for studies of images, and {spec.name} has the task {spec.task}; drop --from")
        storage = storage_url.understood(self.storage) if self.storage else url
        known = self._studies_in(storage)
        return [earlier for name in self.names for earlier in self._read_one(name, spec, storage, known)]

    def _studies_in(self, storage: str) -> list[str]:
        if not self.names or not storage_url.exists(storage):
            return []
        opened = storages.open(storage)
        try:
            return studies.names(opened)
        finally:
            opened.close()

    def _read_one(self, name: str, spec: AnyStudySpec, storage: str, known: Sequence[str]) -> list[Earlier]:
        path = Path(name).expanduser()
        file = path / _CONFIG if path.is_dir() else path
        is_file, is_study = file.is_file(), name in known
        if is_file and is_study:
            raise RequestError(f"--from {name} is both a study and a file; write --from ./{name} for the file")
        if is_file:
            return [warm_start.of_file(study_file.read_images(file), str(file))]
        if not is_study:
            where = f"neither a study in {storages.shown(storage)} nor a file or bundle"
            raise RequestError(f"--from {name} is {where}.{' ' + wording.known(known, name) if known else ''}")
        if name == spec.name and self.storage is None:
            raise RequestError(f"--from {name} is the study itself, which resumes anyway; drop --from {name}")
        opened = storages.open(storage)
        try:
            return warm_start.best_of(studies.load(name, opened))
        finally:
            opened.close()


def enqueue_earlier(study: Study, earlier: Sequence[Earlier]) -> None:
    """Enqueue the configurations of a warm start, and print what became of each."""
    if earlier:
        for taken in warm_start.begin(study, earlier, by=machine.user_name()):
            plain.line(_outcome(study, taken))


def _outcome(study: Study, taken: Taken) -> str:
    if taken.trial is None:
        return f"{study.name}: {taken.earlier.origin} is not tried: it {taken.reason}"
    if taken.reason:
        return f"{study.name}: {taken.earlier.origin} {taken.reason}: trial {taken.trial}"
    return f"{study.name}: {taken.earlier.origin} is tried as trial {taken.trial}"


def _finish(this: FinishedRun, stopping: Stopping, fatal: list[Event], codes: list[int]) -> int:
    try:
        failure = waiting.find_failure(this.study, fatal, codes)
        if isinstance(failure, RequestError):
            raise failure
        return finish(this, stopping, gave_up="" if failure is None or stopping.is_asked else str(failure))
    except StorageError as error:
        raise TunerError(
            f"the results were not shown, and the best configuration was not exported: {error}; run again when the storage answers"
        ) from error


def finish(run: FinishedRun, stopping: Stopping, *, gave_up: str = "") -> int:
    """Measure, export and show the best trial; return the exit code.

    The code is 1 if the study stopped itself, its workers gave up, or it has no best trial.

    Args:
        run: whose workers have ended.
        stopping: whether someone asked the run to stop.
        gave_up: why the workers gave up; "" if they did not.
    """
    if not stopping.is_asked and not gave_up:
        _measure_again(run, stopping)
    snapshot = status.snapshot(run.study)
    stopped = trials.stopped(run.study)
    sections: list[RenderableType] = []
    exported = None
    if snapshot.best_number is not None:
        if not stopping.is_asked and not gave_up:
            _measure(run, stopping)
        exported = _export(run)
        sections.append(status_screens.result(_result(run.study), snapshot.num_completed))
    sections.append(status_screens.cost(snapshot, time.monotonic() - run.began))
    reason, url = _end_reason(run.study, stopping, gave_up), run.assignment.storage
    shown = None if url == storage_url.url(None) else storages.shown(url)
    sections.append(status_screens.next_steps(run.study.name, run.again, exported, reason, storage=shown))
    printing.result("", *sections)
    if stopped:
        plain.line(f"The study stopped itself: {stopped}")
    elif gave_up:
        plain.line(gave_up)
    elif snapshot.num_completed and snapshot.best_number is None:
        plain.line(bests.why_none(run.study))
    return 1 if stopped or gave_up or (snapshot.best_number is None and not stopping.is_asked) else 0


def _measure_again(run: FinishedRun, stopping: Stopping) -> None:
    """Measure the latency of the best trials again, now that no worker trains."""
    if ensemble.finalists(run.study):
        lines: list[str] = []
        with printing.busy(f"{run.study.name}: measuring the latency of the best trials again …"):
            ensemble.try_again(run.study, run.assignment, stopping, lines.append)
        for line in lines:
            plain.line(line)


def _measure(run: FinishedRun, stopping: Stopping) -> None:
    """Form the ensemble, and measure it and the best trial; an objective has nothing to measure."""
    if run.study.spec.task == OBJECTIVE:
        return
    what = "forming the ensemble, and measuring it and the best trial"
    with printing.busy(f"{run.study.name}: {what} on the test split …"):
        ensemble.try_measure(run.study, run.assignment, stopping, lambda warning: plain.line(f"warning: {warning}"))


def _export(run: FinishedRun) -> Path | None:
    if run.export_to is None:
        return None
    export.write(bests.best(run.study), run.export_to)
    return run.export_to


def _result(study: Study) -> status_screens.RunResult:
    best = bests.best(study)
    rule = bests.rule(study)
    return status_screens.RunResult(
        trial=best.trial,
        value=best.value,
        changes=status_screens.changes(rule.model_dump(), best.of_images.model_dump()) if rule else (),
        metric=plans.metric(study.spec),
        maximizes=study.spec.objective.maximizes,
        test_value=None if best.is_accuracy else best.test_value,
        chosen=None if isinstance(study.spec, StudySpec) else values.by_name(best.chosen),
        rule_value=best.rule_value,
        test_accuracy=best.test_accuracy,
        accuracy="exact matches" if best.is_several else "accuracy",
        num_test=best.num_test,
        baseline=best.baseline,
        ensemble=best.ensemble,
        ensemble_of_code=best.ensemble_of_code,
    )


def _end_reason(study: Study, stopping: Stopping, gave_up: str) -> str:
    if stopping.is_asked:
        return "you stopped it; the next run resumes the running trials"
    if gave_up:
        return "its workers gave up; the next run resumes it"
    return trials.stop_reason(study) or ""
