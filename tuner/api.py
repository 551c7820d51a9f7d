"""The interface for Python programs: studies of files or of the program's own functions, trained by worker processes of this machine."""

import logging
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tuner.cache import entries
from tuner.commands import artifacts as commands_artifacts
from tuner.commands import check, ensemble, options, storage_url, waiting
from tuner.commands import run as commands_run
from tuner.commands.options import BudgetOptions, WorkerPlan
from tuner.commands.origin import LocalSettings, with_folder_here
from tuner.errors import MissingPackage, RequestError, StudyError, StudyStopped, TrainingError, TunerError
from tuner.results import best as bests
from tuner.results.best import Best
from tuner.spec import file as study_file
from tuner.spec import tasks
from tuner.spec.study import IMAGE_CLASSIFICATION, AnyStudySpec
from tuner.storage import engine as storages
from tuner.storage import queries
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.studies import trials as studies_trials
from tuner.trust import user_code
from tuner.views import status
from tuner.workers.bucket.transfer import Folders
from tuner.workers.engines import local
from tuner.workers.worker import events
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.process import Assignment
from tuner.workers.worker.stopping import Stopping, on_signals

_log = logging.getLogger(__name__)


def run(
    spec: AnyStudySpec,
    *,
    storage: str | Path | None = None,
    workers: int | None = None,
    cache: Path | None = None,
    artifacts: Path | str | None = None,
    accept_code: bool = False,
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
        accept_code: whether to continue with files of code that differ from those that the study recorded, and to record them.

    Raises:
        RequestError: the study cannot run as it is; nothing was trained.
        StudyStopped: three trials in a row failed in the same way.
        TunerError: the workers gave up before the study ended.
        KeyboardInterrupt: a signal stopped it.
    """
    user_code.require_outside("tuner.run")
    url = storage_url.url(storage)
    means = _Means.read(workers, cache, artifacts, accept_code=accept_code)
    means.admit(spec)
    return _join(spec, url)._run(means)


def study(
    name: str | AnyStudySpec,
    *,
    objective: Any = None,
    direction: str | None = None,
    search: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    storage: str | Path | None = None,
    **sections: Any,
) -> "LocalStudy":
    """Create a study, or open it if it exists; its trials are trained by `run` or `start`.

    Args:
        name: name of the study, or a whole study that `tuner.read` returns.
        objective: the metric, such as `val_auc`; `{"metric": …, "direction": …}`; or a function of the true and the predicted values.
        direction: maximize or minimize; None: known from the name of the metric.
        search: values of hyperparameters that trials may take, as in a study file.
        epochs: epochs of each trial, short for `training={"epochs": …}`.
        storage: SQLAlchemy URL or SQLite file; None: TUNER_STORAGE, the URL in the file TUNER_STORAGE_FILE, or tuner.db here.
        sections: `build` and `data`, functions of a Keras model and its data; or `function`, an objective of Optuna; and every other key
            of a study file, such as `training`, `sampler`, `pruner`, `budget` and `seed`. A function can also be given as a text,
            `my_code.py:build`. Without `budget`, an existing study keeps its own.

    Raises:
        RequestError: the study has mistakes, or a trainer cannot import a function.
        StudyError: the storage has another study of this name.
    """
    user_code.require_outside("tuner.study")
    short = {"objective": objective, "direction": direction, "search": search, "epochs": epochs}
    given = {key: value for key, value in short.items() if value is not None} | sections
    if isinstance(name, AnyStudySpec):
        if given:
            raise RequestError(f"tuner.study got a whole study and also {', '.join(given)}; give only one of them, or change the study")
        spec = name
    else:
        spec = _spec(name, given)
    url = storage_url.url(storage)
    if spec.task != IMAGE_CLASSIFICATION:
        check.admit(spec, options.cache_folder(None))
    opened = storages.open(url)
    if "budget" not in spec.model_fields_set and spec.name in studies.names(opened):  # the budget is of those who run it
        spec = spec.model_copy(update={"budget": studies.load(spec.name, opened).spec.budget})
    return _join(spec, url)


def load(name: str | None = None, storage: Storage | str | Path | None = None) -> "LocalStudy":
    """Open an existing study; without a name, the newest one.

    If the folder of its code does not exist here, its files are read from the current folder.

    Args:
        name: name of the study.
        storage: what `tuner.open_storage` returns, SQLAlchemy URL or SQLite file; None: as for `tuner.study`.

    Raises:
        StudyError: there is no such study, or another program created it.
    """
    if not isinstance(storage, Storage):
        url = storage_url.url(storage)
        if not storage_url.exists(url):
            what = "no study" if name is None else f"no study {name}"
            raise StudyError(f"there is {what}: {storage_url.missing(url)} Name the database with storage=")
        storage = storages.open(url)
    study = studies.load(name, storage)
    return LocalStudy.of(studies.at(study, with_folder_here(study.spec)), is_own=False)


@dataclass(frozen=True, kw_only=True)
class _Means:
    """What the workers of a run use."""

    folders: Folders
    plan: WorkerPlan
    #: whether to continue with files of code that differ from those that the study recorded
    accept_code: bool = False

    @classmethod
    def read(cls, workers: int | None, cache: Path | None, artifacts: Path | str | None, *, accept_code: bool = False) -> "_Means":
        folders = options.folders(cache, artifacts)
        options.limit_cache(os.environ.get(entries.LIMIT))
        plan = options.plan_workers(workers, None, None, None, options.read_slots_per_gpu())
        return cls(folders=folders, plan=plan, accept_code=accept_code)

    def admit(self, spec: AnyStudySpec) -> None:
        """Refuse a study that cannot run, before anything is written."""
        check.admit(spec, self.folders.cache, tell=lambda warning: _log.warning("study %s: %s", spec.name, warning))
        commands_artifacts.require_bucket(self.folders.bucket)


def _join(spec: AnyStudySpec, url: str) -> "LocalStudy":
    new_database = storage_url.announcement(url)
    joined = studies.join(spec, storages.open(url))
    if new_database:
        _log.warning("study %s: %s", joined.name, new_database)
    return LocalStudy.of(joined, is_own=True)


class _Workers:
    """The workers of a study that this process runs, in the foreground or in a thread."""

    def __init__(self) -> None:
        self._stopping = Stopping()
        self._thread: threading.Thread | None = None
        self._error: TunerError | None = None
        self._lock = threading.Lock()
        self._works = False

    @property
    def is_running(self) -> bool:
        """Whether workers run."""
        return self._works

    def work(self, study: studies.Study, means: _Means) -> None:
        """Run workers until the study ends.

        Raises:
            TunerError: it did not end, or cannot be run.
            KeyboardInterrupt: a signal stopped it.
        """
        self._claim(study.name)
        try:
            is_main = threading.current_thread() is threading.main_thread()
            with on_signals(self._stopping) if is_main else nullcontext():  # only the main thread can listen to signals
                _train(study, means, self._stopping)
        finally:
            self._works = False
        if self._stopping.is_asked:
            raise KeyboardInterrupt

    def start(self, study: studies.Study, means: _Means) -> None:
        """Run workers in a thread.

        Raises:
            RequestError: workers run already.
        """
        self._claim(study.name)
        self._error = TunerError(f"the study {study.name} ended with an error of tuner's, which was printed")
        # a program that ends closes the pipes of its workers, which then stop in order
        self._thread = threading.Thread(target=self._work, args=(study, means), name=f"study {study.name}", daemon=True)
        self._thread.start()

    def wait(self, study_name: str, timeout_seconds: float | None) -> None:
        """Wait for the end of the thread.

        Raises:
            RequestError: there is no thread.
            TimeoutError: it still runs.
            TunerError: the study did not end.
        """
        thread = self._thread
        if thread is None:
            raise RequestError(f"the study {study_name} was not started by this program; call start() before wait(), or run()")
        thread.join(timeout_seconds)
        if thread.is_alive():
            raise TimeoutError(f"the study {study_name} still runs after {timeout_seconds:g} s; call wait() again, or stop()")
        error, self._error = self._error, None
        if error is not None:
            raise error

    def stop(self) -> None:
        """Ask the workers to end, and wait for them."""
        if self._works and not self._stopping.is_asked:
            self._stopping.ask()
        thread = self._thread
        if thread is not None:
            thread.join()

    def _claim(self, study_name: str) -> None:
        with self._lock:
            if self._works:
                raise RequestError(f"the study {study_name} already runs in this program; call wait() for its end, or stop()")
            self._works, self._stopping = True, Stopping()

    def _work(self, study: studies.Study, means: _Means) -> None:
        try:
            _train(study, means, self._stopping)
        except KeyboardInterrupt:
            self._error = None  # `stop` was called
        except TunerError as error:
            self._error = error
        else:
            self._error = None
        finally:
            self._works = False


@dataclass(frozen=True, kw_only=True)
class LocalStudy(studies.Study):
    """A study in a storage, which this program can train with worker processes on this machine."""

    _workers: _Workers = field(repr=False, compare=False, default_factory=_Workers)

    @classmethod
    def of(cls, study: studies.Study, *, is_own: bool) -> "LocalStudy":
        """Return a study with the methods that train it."""
        return cls(**{each.name: getattr(study, each.name) for each in fields(study)} | {"is_own": is_own})

    def run(
        self,
        *,
        workers: int | None = None,
        trials: int | None = None,
        timeout: str | float | None = None,
        target: float | None = None,
        cache: Path | None = None,
        artifacts: Path | str | None = None,
        accept_code: bool = False,
    ) -> Best:
        """Train trials until the budget of the study is spent, and return the best trial.

        Ctrl-C stops the study in order: the next call resumes the running trials.

        Args:
            workers: number of worker processes; None: one per slot of the GPUs here, or one without a GPU.
            trials: trials of the study, over all its runs and workers; None: as before, at first 40.
            timeout: time during which a worker was working, such as `2h`, or seconds; None: as before, at first no limit.
            target: value that ends the study; None: as before, at first none.
            cache: folder of decoded images and features; None: TUNER_CACHE, or the user's own.
            artifacts: folder of weights, checkpoints and logs, or `s3://BUCKET/PREFIX`; None: TUNER_ARTIFACTS, or a folder in the current
                folder.
            accept_code: whether to continue with files of code that differ from those that the study recorded, and to record them.

        Raises:
            RequestError: the study cannot run as it is; nothing was trained.
            StudyStopped: three trials in a row failed in the same way.
            TunerError: the workers gave up before the study ended.
            KeyboardInterrupt: a signal stopped it.
        """
        user_code.require_outside("study.run")
        means = _Means.read(workers, cache, artifacts, accept_code=accept_code)
        spec = self._asked(trials, timeout, target)
        means.admit(spec)
        return self._given(spec)._run(means)

    def start(
        self,
        *,
        workers: int | None = None,
        trials: int | None = None,
        timeout: str | float | None = None,
        target: float | None = None,
        cache: Path | None = None,
        artifacts: Path | str | None = None,
        accept_code: bool = False,
    ) -> None:
        """Start what `run` does in the background, and return at once; the workers end with this program.

        Raises:
            RequestError: the study cannot run as it is, or already runs here.
        """
        user_code.require_outside("study.start")
        means = _Means.read(workers, cache, artifacts, accept_code=accept_code)
        spec = self._asked(trials, timeout, target)
        means.admit(spec)
        self._workers.start(self._given(spec), means)

    def wait(self, timeout_seconds: float | None = None) -> Best:
        """Wait until the workers that `start` started have ended, and return the best trial. Ctrl-C ends the waiting, not the study.

        Raises:
            RequestError: `start` was not called.
            TimeoutError: the workers still run after this time.
            TunerError: `run` would raise it.
        """
        self._workers.wait(self.name, timeout_seconds)
        return self.best

    def stop(self) -> None:
        """End the workers that `start` started, and wait for them; the next run resumes the running trials."""
        self._workers.stop()

    @property
    def is_running(self) -> bool:
        """Whether workers that this program started are training trials."""
        return self._workers.is_running

    @property
    def best(self) -> Best:
        """The best trial so far.

        Raises:
            StudyError: no trial has completed.
        """
        return bests.best(self)

    def trials_dataframe(self) -> Any:
        """Return a pandas table with a row for each trial: number, value, state, times, `params_…` and `user_attrs_…`, as Optuna's.

        Raises:
            MissingPackage: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingPackage("pandas", extra="", needed_for="trials_dataframe") from error
        rows = [
            {
                "number": trial.number,
                "value": trial.value,
                "datetime_start": trial.datetime_start,
                "datetime_complete": trial.datetime_complete,
                "duration": trial.duration,
                **{f"params_{name}": value for name, value in sorted(trial.params.items())},
                **{f"user_attrs_{name}": value for name, value in sorted(trial.user_attrs.items())},
                "state": trial.state.name,
            }
            for trial in self.storage.call(lambda: self.optuna.get_trials(deepcopy=False))
        ]
        columns = ("number", "value", "datetime_start", "datetime_complete", "duration", "state")
        names = {name for row in rows for name in row} - set(columns)
        return pd.DataFrame(rows, columns=[*columns[:-1], *sorted(names), columns[-1]])

    def _asked(self, trials: int | None, timeout: str | float | None, target: float | None) -> AnyStudySpec:
        """Return the study file with the budget that a call asks for.

        Raises:
            RequestError: the budget has mistakes, or the code of the study is not allowed here.
        """
        if not self.is_own:
            allowed = user_code.read_allowed(os.environ.get(user_code.ALLOW_CODE))
            LocalSettings(data=None, allowed_code=allowed, wait_seconds=0).require_allowed(self.spec)
        stored = studies.load(self.name, self.storage).spec.budget
        given = BudgetOptions(trials=trials, timeout=None if timeout is None else str(timeout), target=target)
        try:
            return given.apply(self.spec.model_copy(update={"budget": stored}))
        except RequestError as error:
            raise RequestError(str(error).replace("--", "")) from error

    def _given(self, spec: AnyStudySpec) -> "LocalStudy":
        """Return the study with this budget, and store it if it is a new one; the study has been admitted."""
        stored = studies.load(self.name, self.storage).spec.budget
        return replace(self, spec=spec if spec.budget == stored else studies.join(spec, self.storage).spec)

    def _run(self, means: _Means) -> Best:
        """Train trials in this thread until the study ends; the study has been admitted."""
        self._workers.work(self, means)
        return self.best


def _train(study: studies.Study, means: _Means, stopping: Stopping) -> None:
    """Run workers until the study ends or someone asks to stop, then measure the best trial.

    Raises:
        StudyStopped: three trials in a row failed in the same way.
        TunerError: the workers gave up before the study ended.
        KeyboardInterrupt: someone asked to stop.
    """
    studies_trials.resume(study)
    assignments = _assignments(study, means)
    fatal: list[Event] = []

    def collect(event: Event) -> None:
        if event.what in waiting.FATAL_EVENTS:
            fatal.append(event)
        elif event.what in (EventKind.WARNING, EventKind.TROUBLE):
            _log.warning("%s", events.line(event))

    codes = local.run(assignments, stopping=stopping, tell=events.once(collect))
    _require_ended(study, fatal, codes, stopping)
    ensemble.try_again(study, assignments[0], stopping, lambda line: _log.info("study %s", line))
    _require_best(study)
    ensemble.try_measure(study, assignments[0], stopping, lambda warning: _log.warning("study %s: %s", study.name, warning))


def _assignments(study: studies.Study, means: _Means) -> list[Assignment]:
    make, path = commands_run.make_assignments, user_code.import_path()
    return [*make(study, study.storage.url, means.folders, means.plan, import_path=path, accept_code=means.accept_code)]


def _require_ended(study: studies.Study, fatal: Sequence[Event], codes: Sequence[int], stopping: Stopping) -> None:
    """Raise the reason if the workers ended before the study did."""
    if stopping.is_asked:
        raise KeyboardInterrupt
    failure = waiting.find_failure(study, fatal, codes)
    if failure is not None:
        raise failure
    reason = studies_trials.stopped(study)
    if reason:
        raise StudyStopped(reason)


def _require_best(study: studies.Study) -> None:
    """Raise the reason if a study that ended has no best trial."""
    if study.storage.read(lambda connection: queries.values(connection, study.id)):
        bests.best(study)  # raises which constraints no trial keeps
    elif failed := study.storage.read(lambda connection: status.failures(connection, study.id)):
        raise TrainingError(f"no trial of the study {study.name} completed: {failed[0].message or failed[0].error}", kind=failed[0].error)


#: keys of `tuner.study` that are short for keys of sections, and their sections
_SHORT = {"build": ("model", "build"), "epochs": ("training", "epochs"), "direction": ("objective", "direction")}


def _spec(name: str, given: Mapping[str, Any]) -> AnyStudySpec:
    """Return the study that a program describes by the keys of a study file and their short forms.

    Raises:
        RequestError: a trainer cannot import a function.
        SpecError: a value is wrong.
    """
    code = [key for key in ("function", "build", "model", "data") if key in given]
    if not code or ("function" in code and len(code) > 1):
        what = f"{code[0]} and also {', '.join(code[1:])}" if code else "no code and no data"
        raise RequestError(f"tuner.study got {what}; expected build and data, or function")
    names = _Names()
    plain = {key: names.of(key, value) for key, value in given.items()}
    if "function" in plain:
        task = tasks.OBJECTIVE
    else:
        task = tasks.CUSTOM if "build" in plain or callable(given.get("data")) else IMAGE_CLASSIFICATION
    written: dict[str, Any] = {"name": name, "task": task}
    written |= {key: value for key, value in plain.items() if key not in _SHORT}
    if task == tasks.CUSTOM and isinstance(written.get("data"), str):
        written["data"] = {"load": written["data"]}
    if isinstance(written.get("objective"), str):
        written["objective"] = {"metric": written["objective"]}
    for key, (section, inner) in _SHORT.items():
        if key in plain:
            written[section] = {**(written.get(section) or {}), inner: plain[key]}
    if task != IMAGE_CLASSIFICATION:
        written.setdefault("folder", str(names.folder or Path.cwd()))
    return study_file.parse(written, "tuner.study", names.folder or Path.cwd())


class _Names:
    """The names by which trainers import the functions of a program; the folder of the first file is that of the study."""

    def __init__(self) -> None:
        self.folder: Path | None = None

    def of(self, key: str, given: Any) -> Any:
        """Return the name of a function or a class, `file.py:name` or `package.module:name`; everything else as it is.

        Raises:
            RequestError: a trainer cannot import the function.
        """
        if isinstance(given, Mapping):
            return {inner: self.of(f"{key}.{inner}", value) for inner, value in given.items()}
        if not callable(given):
            return given
        name = getattr(given, "__qualname__", "")
        module = sys.modules.get(getattr(given, "__module__", None) or "")
        if not name.isidentifier() or module is None or getattr(module, name, None) is not given:
            raise RequestError(f"{key} is {_described(given)}, which a trainer cannot import: it is a process of its own. {_CURE}")
        source = _file_of(module)
        if source is None and module.__name__ == "__main__":
            raise RequestError(
                f"{key} is {name}, a function of a notebook or of the interpreter, which a trainer cannot import: it is a process of its "
                f"own. In a notebook, write the function to a file with `%%writefile my_code.py`, then: from my_code import {name}"
            )
        if source is None:
            return f"{_module_name(module)}:{name}"
        if self.folder is None:
            self.folder = source.parent
        place = source.relative_to(self.folder) if source.is_relative_to(self.folder) else source
        return f"{place}:{name}"


_CURE = "Give a function that a file defines at its top level, or its name as a text: my_code.py:build"


def _described(given: Any) -> str:
    name = getattr(given, "__qualname__", "")
    if name.endswith("<lambda>"):
        return "a lambda"
    if "<locals>" in name:
        return f"{name.rpartition('.')[2]}, a function inside another function"
    return f"{name}, which its module does not have under this name" if name.isidentifier() else f"a {type(given).__name__}"


def _module_name(module: Any) -> str:
    """Return the name under which another process imports a module, also if `python -m` runs it here."""
    spec = getattr(module, "__spec__", None)
    return str(spec.name) if module.__name__ == "__main__" and spec is not None else str(module.__name__)


def _file_of(module: Any) -> Path | None:
    """Return the file of a module that is no part of a package; None for a package's, an installed one's and a notebook's."""
    path = Path(getattr(module, "__file__", None) or "")
    is_in_package = "." in _module_name(module) or path.name == "__init__.py"
    if path.suffix != ".py" or is_in_package or not path.is_file() or "site-packages" in path.parts:
        return None
    return path.absolute()
