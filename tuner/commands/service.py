"""The service: `tuner submit`, `queue`, `move`, `cancel`, `logs`, `drain` and `pool`, and a worker of the pool."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner import machine, wording
from tuner.cache import entries as cache_entries
from tuner.commands import artifacts, check, options, show, storage_url, waiting, worker
from tuner.commands.origin import LocalSettings
from tuner.errors import RequestError, StudyError
from tuner.queue import entries, limits, pool
from tuner.queue.entries import QueueState, Submission
from tuner.queue.limits import Over
from tuner.spec import file as study_file
from tuner.spec.study import AnyStudySpec, StudySpec
from tuner.storage import engine as storages
from tuner.storage.engine import Storage
from tuner.studies.leases import WorkerId
from tuner.studies.study import Study
from tuner.terminal import plain, printing
from tuner.terminal import queue as queue_screens
from tuner.views import logs as views_logs
from tuner.views.logs import LogLine
from tuner.workers.bucket.transfer import Folders
from tuner.workers.engines import local as local_engine
from tuner.workers.pool import abilities
from tuner.workers.pool.pool_worker import PoolTiming, PoolWorker
from tuner.workers.worker import process
from tuner.workers.worker.process import Assignment
from tuner.workers.worker.stopping import Stopping, on_signals

#: time between two reads of `tuner logs --follow`
_FOLLOW_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class PoolOptions:
    """Options of `tuner worker --pool`."""

    #: separated by commas
    labels: str | None
    data_root: Path | None
    #: as typed, for example 10m
    leave_after: str | None

    def require_none(self) -> None:
        """Refuse these options for a worker of one study.

        Raises:
            RequestError: one of them is given.
        """
        for name in ("labels", "data_root", "leave_after"):
            if getattr(self, name) is not None:
                raise RequestError(f"--{name.replace('_', '-')} is for workers of the pool; add --pool and drop STUDY, or drop the option.")


def serve_pool(url: str, asked: PoolOptions, *, local: LocalSettings, folders: Folders, workers: options.WorkerPlan) -> int:
    """Serve the studies of the queue until someone asks this worker to leave; return the exit code."""
    if local.data is not None:
        raise RequestError(f"--data is {local.data}, but a worker of the pool serves many studies; give --data-root.")
    root = _data_root(asked.data_root)
    deadline = waiting.Deadline(local.wait_seconds)
    storage = deadline.open_storage(url)
    deadline.retry(lambda: artifacts.require_bucket(folders.bucket))
    (gpu,) = workers.gpu_shares
    name = worker.new_name()

    def assignment(study: Study) -> Assignment:
        return Assignment(
            study=study.name, spec=study.spec, storage=url, worker=name, folders=folders, gpu=gpu,
            threads=workers.threads or local_engine.fair_threads(1), hang_limit_seconds=workers.hang_limit_seconds,
            memory_limit_bytes=workers.memory_limit_bytes or local_engine.fair_memory_bytes(1),
        )  # fmt: skip

    leave_after = None if asked.leave_after is None else options.read_seconds("--leave-after", asked.leave_after)
    found = abilities.find(read_names("--labels", asked.labels), gpu=gpu, data_root=root, allowed_code=local.allowed_code)
    stopping = Stopping()
    with on_signals(stopping):
        member = PoolWorker(
            storage, WorkerId.here(name), found,
            assignment=assignment, start=process.start_trainer, stopping=stopping, tell=worker.print_event,
        )  # fmt: skip
        plain.line(f"{name} serves the pool in {storages.shown(url)}")
        member.run(PoolTiming(leave_after_seconds=leave_after))
    return 0


def read_names(option: str, given: str | None) -> tuple[str, ...]:
    """Return names that are separated by commas.

    Raises:
        RequestError: one of them is empty.
    """
    if given is None:
        return ()
    names = tuple(name.strip() for name in given.split(","))
    if not all(names):
        raise RequestError(f"{option} is {given!r}; expected names separated by commas, such as gpu,large")
    return names


def _data_root(given: Path | None) -> Path | None:
    """Return the data root as an absolute path.

    Raises:
        RequestError: it is not a folder.
    """
    if given is None:
        return None
    root = given.expanduser().absolute()
    if not root.is_dir():
        raise RequestError(f"--data-root is {given}, which is not a folder; name the folder below which the images are")
    return root


@dataclass(frozen=True, kw_only=True)
class SubmitOptions:
    """Options of `tuner submit`."""

    priority: int
    workers: int
    #: separated by commas
    needs: str | None
    after: Sequence[str]
    from_winner: bool
    preempt: bool
    #: None: the user of this process
    owner: str | None
    key: str | None
    data_root: Path | None


def submit(file: Path, url: str, asked: SubmitOptions, *, cache: Path, as_json: bool) -> int:
    """Check a study file completely, and queue its study."""
    spec = study_file.read(file)
    _admit(spec, cache)
    submission = Submission(
        owner=asked.owner or machine.user_name(),
        priority=asked.priority,
        num_wanted=asked.workers,
        needs=read_names("--needs", asked.needs),
        after=tuple(asked.after),
        takes_winner=asked.from_winner,
        preempts=asked.preempt,
        key=asked.key,
        data_path=abilities.relative_path(spec, _data_root(asked.data_root)),
    )
    storage = storages.open(url)
    found = entries.submit(storage, spec, submission)
    if as_json:
        plain.result(json.dumps(queue_screens.as_json(found), indent=2))
    else:
        ahead = sum(one.state is QueueState.QUEUED and one.study_id != found.study_id for one in entries.entries(storage, entries.OPEN))
        others = wording.count(ahead, "other study")
        plain.result(f"{found.name} is {found.state.value} with priority {found.priority}; {others} waiting. See it with: tuner queue")
        if not any(one.is_present for one in pool.members(storage)):
            plain.line("warning: the pool has no worker yet; start one with: tuner worker --pool")
    return 0


def _admit(spec: AnyStudySpec, cache: Path) -> None:
    """Refuse what `tuner check` refuses."""
    check.admit(spec, cache)
    if not isinstance(spec, StudySpec):
        from tuner.workers.worker import evaluation

        with printing.busy(f"{spec.name}: a trainer tries the code …"):
            evaluation.try_code(spec, cache)


def show_queue(url: str, *, everything: bool, as_json: bool) -> int:
    """Print the studies in the queue, and why each waits."""
    storage = _open(url)
    states = () if everything else (*entries.OPEN, QueueState.PAUSED)
    found = entries.entries(storage, states)
    explained = pool.explained(storage, found)
    if as_json:
        plain.result(json.dumps([queue_screens.as_json(one, explained[one.study_id]) for one in found], indent=2))
    elif found:
        printing.result(queue_screens.queue_table(found, explained))
    else:
        plain.result("The queue is empty. Submit a study with: tuner submit FILE")
    return 0


def move(name: str, url: str, *, priority: int | None, place: int | None) -> int:
    """Change the priority of a study, or its place."""
    if priority is None and place is None:
        raise RequestError("expected what to change: --priority N, --place N, or both.")
    found = entries.move(_open(url), name, priority=priority, place=place)
    plain.result(f"{name} has the priority {found.priority}.")
    return 0


def cancel(name: str, url: str) -> int:
    """End a study in the queue."""
    entries.cancel(_open(url), name, by=machine.user_name())
    plain.result(f"{name} is cancelled. Running trials are suspended. Its results stay; submit it again to continue it.")
    return 0


def show_logs(name: str, url: str, *, trial: int | None, follow: bool) -> int:
    """Print what happened in a study: attempts, epochs of one trial, and failures."""
    study = show.load_study(name, url)
    for line in _lines(study, trial, follow=follow):
        plain.result(f"{wording.moment(line.at)}  {line.text}" if line.at is not None else f"{'':20}  {line.text}")
    return 0


def _lines(study: Study, trial: int | None, *, follow: bool) -> Iterator[LogLine]:
    """Yield the lines of a log; with `follow`, also new ones until the study is over or Ctrl-C."""
    told: set[LogLine] = set()
    while True:
        is_over = waiting.is_over(study)
        for line in views_logs.read(study, trial):
            if line not in told:
                told.add(line)
                yield line
        if not follow or is_over:
            return
        time.sleep(_FOLLOW_SECONDS)


def drain(host_or_worker: str, url: str, *, now: bool) -> int:
    """Ask the workers of a host, or one worker, to leave the pool."""
    names = pool.drain(_open(url), host_or_worker, now=now, by=machine.user_name())
    when = "after suspending their trials" if now else "after their trials"
    plain.result(f"{wording.count(len(names), 'worker')} will leave {when}: {wording.listed(names)}")
    return 0


def show_pool(url: str, *, as_json: bool) -> int:
    """Print the workers of the pool, and what owners used of it in the last day."""
    storage = _open(url)
    members, used = pool.members(storage), limits.usage(storage)
    settings = storage.read(limits.read)
    if as_json:
        plain.result(json.dumps(queue_screens.pool_as_json(members, used, settings), indent=2))
    else:
        printing.result(*queue_screens.pool_screen(members, used, settings))
    return 0


def stop_pool(url: str) -> int:
    """Stop everything."""
    limits.stop(_open(url), by=machine.user_name())
    plain.result("The pool is stopped. Running trials are suspended within seconds. Start it again with: tuner pool start")
    return 0


def start_pool(url: str) -> int:
    """Start the pool again."""
    limits.start(_open(url))
    plain.result("The pool is started.")
    return 0


@dataclass(frozen=True, kw_only=True)
class LimitChanges:
    """Options of `tuner pool limit`; None: unchanged, and -1 or `none`: no limit."""

    workers: int | None
    trials: int | None
    hours: float | None
    artifacts: str | None
    weight: float | None
    over: str | None


def limit_pool(owner: str | None, url: str, asked: LimitChanges) -> int:
    """Change what an owner, or every other owner, may use."""
    given: dict[str, Any] = {"workers": asked.workers, "trials_a_day": asked.trials, "worker_hours_a_day": asked.hours}
    changes = {name: None if value < 0 else value for name, value in given.items() if value is not None}
    if asked.artifacts is not None:
        changes["artifact_bytes"] = None if asked.artifacts == "none" else cache_entries.read_size("--artifacts", asked.artifacts)
    if asked.weight is not None and owner is None:
        raise RequestError("--weight is the share of one owner; name the owner")
    storage = _open(url)
    if asked.weight is not None and owner is not None:
        limits.set_weight(storage, owner, asked.weight)
    if asked.over is not None:
        over = Over(asked.over)
        limits.change(storage, lambda settings: settings.model_copy(update={"over": over}))
    found = limits.set_limits(storage, owner, **changes)
    plain.result(f"{owner or 'Every other owner'}: {queue_screens.limits_words(found)}")
    return 0


def _open(url: str) -> Storage:
    """Open the storage, which must exist.

    Raises:
        StudyError: it is an SQLite file that does not exist.
    """
    if not storage_url.exists(url):
        raise StudyError(f"there is no queue: {storage_url.missing(url)} Name the database with --storage")
    return storages.open(url)
