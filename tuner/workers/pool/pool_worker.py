"""Pool worker: serves whatever study is next in the queue, trial by trial, until it is asked to leave.

Each stay with a study is one session: a `Worker` of this study, as `tuner worker STUDY` runs it, on a trainer that is lent to it.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from tuner.errors import RequestError, StorageError, StudyError, TunerError
from tuner.queue import entries, pool
from tuner.queue.entries import Entry, QueueState
from tuner.queue.pool import Abilities, Look, Place
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.studies import trials, warm_start
from tuner.studies.leases import WorkerId
from tuner.studies.study import Study
from tuner.studies.warm_start import Earlier
from tuner.studies.workers import WorkerRequest
from tuner.trust import at_rest
from tuner.workers.pool import abilities as pool_abilities
from tuner.workers.pool.lent_trainer import TrainerKeeper
from tuner.workers.worker.events import Event, EventKind, Tell
from tuner.workers.worker.heartbeat import Heartbeat
from tuner.workers.worker.process import Assignment, StartTrainer
from tuner.workers.worker.stopping import Stopping
from tuner.workers.worker.trainer import WarmTrainer
from tuner.workers.worker.worker import Worker, WorkerTiming

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class PoolTiming:
    """Intervals of a pool worker."""

    #: time between two looks at the queue, and between two looks for requests during a trial
    poll_seconds: float = 1.0
    #: how long a refusal holds before the study is looked at again
    refusal_seconds: float = 60.0
    #: an idle worker leaves after this time; None: never
    leave_after_seconds: float | None = None
    worker: WorkerTiming = field(default_factory=WorkerTiming)


@dataclass
class _Session:
    """A stay with one study."""

    study: Study
    entry: Entry
    stopping: Stopping = field(default_factory=Stopping)
    #: trials that ended so far
    num_trials: int = 0
    #: where the worker goes next; None: not decided
    next: Place | None = None
    #: whether the worker has decided to leave, wherever it goes
    is_left: bool = False


class PoolWorker:
    """One worker of the pool, in this process."""

    def __init__(
        self,
        storage: Storage,
        identity: WorkerId,
        abilities: Abilities,
        *,
        assignment: Callable[[Study], Assignment],
        start: StartTrainer,
        stopping: Stopping,
        tell: Tell,
    ) -> None:
        """`assignment` returns what a worker of a study needs here, and `tell` receives every event."""
        self._storage = storage
        self._identity = identity
        self._abilities = abilities
        self._assignment = assignment
        self._start = start
        self._stopping = stopping
        self._tell = tell
        self._timing = PoolTiming()
        self._keeper = TrainerKeeper()
        self._studies: dict[tuple[int, str, str], Study] = {}
        #: why this worker cannot serve a study, by its name, and until when that holds
        self._refusals: dict[str, tuple[str, float]] = {}
        self._session: _Session | None = None
        #: one decision at a time: the watching thread decides, too
        self._deciding = threading.Lock()
        self._ending = ""

    def run(self, timing: PoolTiming | None = None) -> None:
        """Serve studies until someone asks this worker to leave."""
        self._timing = timing or self._timing
        self._while_unreachable(lambda: pool.register(self._storage, self._identity, self._abilities))
        beat_seconds = self._timing.worker.beat_seconds
        try:
            with (
                Heartbeat(self._beat, self._warn, every_seconds=beat_seconds),
                Heartbeat(self._watch, self._warn, every_seconds=self._timing.poll_seconds),
            ):
                self._serve_all()
        finally:
            self._keeper.close()
        self._leave()

    def _serve_all(self) -> None:
        idle_since, limit_seconds = time.monotonic(), self._timing.leave_after_seconds
        while not self._ending and not self._stopping.wait(0.0):
            place = self._while_unreachable(self._next_place)
            if place is None:
                self._stopping.wait(self._timing.poll_seconds)
            while place is not None:
                place = self._serve(place)
                idle_since = time.monotonic()
            if limit_seconds is not None and time.monotonic() - idle_since >= limit_seconds:
                self._end("there was nothing to do")

    def _end(self, why: str) -> None:
        """Leave the pool after the present study; the first reason counts."""
        self._ending = self._ending or why

    def _next_place(self) -> Place | None:
        """Decide which study an idle worker serves."""
        seen = pool.signal(self._storage, self._identity)
        if not seen.is_known:
            pool.register(self._storage, self._identity, self._abilities)
        if seen.request is not WorkerRequest.NONE:
            self._end(f"drained by {seen.requested_by}")
        if self._ending or seen.stopped_by or not seen.has_work:
            return None
        return pool.decide(self._storage, self._identity, self._look)

    def _serve(self, place: Place) -> Place | None:
        """Train trials of one study, and return where the worker goes next; None: it is idle, or it decides again."""
        assert place.look.study is not None, "only a study that was opened is served"
        session = self._session = _Session(study=place.look.study, entry=replace(place.entry, state=QueueState.RUNNING))
        try:
            self._work(session)
        except StorageError as error:
            self._warn(f"{error}; it is tried again")
        except TunerError as error:
            self._give_up(session.study, error)
        finally:
            self._session = None
        if session.next is not None or session.is_left:
            return session.next
        return self._while_unreachable(lambda: self._after(session))

    def _work(self, session: _Session) -> None:
        study, assignment = session.study, self._assignment(session.study)
        at_rest.require_key(assignment.folders.of_study(study.name))

        def tell(event: Event) -> None:
            if event.what in (EventKind.COMPLETED, EventKind.PRUNED, EventKind.FAILED):
                session.num_trials += 1
            self._tell(event)

        trainer = WarmTrainer(lambda: self._keeper.lend(study.spec, lambda: self._start(assignment)), assignment.limits, session.stopping)
        identity = replace(WorkerId.here(assignment.worker), name=self._identity.name)
        try:
            if self._stopping.is_asked:
                return
            worker = Worker(study, trainer, identity=identity, folders=assignment.folders, stopping=session.stopping, tell=tell)
            worker.run(self._timing.worker, stays=lambda: self._stays(session))
        finally:
            if trainer.is_busy:
                trainer.kill()
            trainer.close()

    def _stays(self, session: _Session) -> bool:
        """Decide after a trial whether the worker stays with its study."""
        with self._deciding:
            if session.next is None:
                session.next = self._while_unreachable(lambda: self._decide(session))
            session.is_left = session.next is None
            stays = session.next is not None and session.next.entry.study_id == session.study.id
            if stays:
                session.next = None
        return stays

    def _decide(self, session: _Session) -> Place | None:
        seen = pool.signal(self._storage, self._identity)
        if not seen.is_known:
            pool.register(self._storage, self._identity, self._abilities)
        likely = session.entry
        return pool.decide(self._storage, self._identity, self._look, num_trials=session.num_trials, likely=likely)

    def _after(self, session: _Session) -> Place | None:
        """Settle a study that has no trial for this worker, and decide again."""
        entries.settle(session.study)
        return self._decide(session)

    def _look(self, entry: Entry) -> Look:
        """Find out whether this worker can serve a study, and whether the study has a trial for it."""
        reason, until = self._refusals.get(entry.name, ("", 0.0))
        if reason and time.monotonic() < until:
            return Look(refusal=reason)
        try:
            study = self._open(entry)
        except RequestError as error:
            if isinstance(error, StorageError):
                raise
            return Look(refusal=self._refuse(entry.name, str(error)))
        self._refusals.pop(entry.name, None)
        has_trial = trials.has_trial(study, self._identity)
        if not has_trial:
            entries.settle(study)
        return Look(study=study, has_trial=has_trial, earlier=self._earlier(entry) if has_trial else ())

    def _open(self, entry: Entry) -> Study:
        """Open a study with its paths here."""
        key = (entry.study_id, entry.name, entry.data_path)
        if key not in self._studies:
            found = studies.load(entry.name, self._storage)
            self._studies = {**dict(list(self._studies.items())[-9:]), key: found}
            self._studies[key] = studies.at(found, pool_abilities.at_home(found.spec, entry, self._abilities))
        return self._studies[key]

    def _earlier(self, entry: Entry) -> list[Earlier]:
        """Return the winners of the studies that a study waited for, if its first worker enqueues them."""
        if not entry.takes_winner or entry.state is not QueueState.QUEUED:
            return []
        found: list[Earlier] = []
        for name in entry.after:
            try:
                found += warm_start.best_of(studies.load(name, self._storage), most=1)
            except StudyError as error:
                self._warn(f"{entry.name} starts without the winner of {name}: {error}")
        return found

    def _give_up(self, study: Study, error: TunerError) -> None:
        """Refuse a study that this worker cannot train, unless it has ended."""
        try:
            state = entries.settle(study)
        except StorageError:
            state = None
        if state is None or state.is_open:
            self._refuse(study.name, str(error))

    def _refuse(self, name: str, why: str) -> str:
        reason = " ".join(why.split())
        if self._refusals.get(name, ("", 0.0))[0] != reason:
            self._tell(Event(what=EventKind.REFUSED, study=name, worker=self._identity.name, message=reason))
        self._studies = {key: study for key, study in self._studies.items() if key[1] != name}
        is_new = name not in self._refusals
        self._refusals[name] = reason, time.monotonic() + self._timing.refusal_seconds
        if is_new:
            with contextlib.suppress(StorageError):  # the next heartbeat tries again
                self._beat()
        return reason

    def _beat(self) -> None:
        """Renew the row of this worker."""
        if not pool.beat(self._storage, self._identity, refusals=self._reasons()):
            pool.register(self._storage, self._identity, self._abilities)

    def _reasons(self) -> Mapping[str, str]:
        return {name: reason for name, (reason, _) in dict(self._refusals).items()}

    def _watch(self) -> None:
        """Interrupt the trial if this worker must leave it."""
        session = self._session
        if session is None:
            return
        if self._stopping.is_asked:
            self._interrupt(session)
            return
        seen = pool.signal(self._storage, self._identity)
        if seen.request is WorkerRequest.SUSPEND or seen.stopped_by or seen.is_cancelled:
            self._interrupt(session)
        elif seen.is_preempted:
            with self._deciding:
                if session is self._session and session.next is None and not session.is_left:
                    session.next = pool.yield_to(self._storage, self._identity, self._look)
                    if session.next is not None:
                        session.stopping.ask()

    def _interrupt(self, session: _Session) -> None:
        """Suspend the trial; a second request of the user ends it at once."""
        if not session.stopping.is_asked or (self._stopping.is_urgent and not session.stopping.is_urgent):
            session.stopping.ask()

    def _leave(self) -> None:
        ending = self._ending or "asked to stop"
        try:
            pool.leave(self._storage.within(1.0), self._identity, ending)
        except StorageError:
            pass  # the others see that it is silent
        self._tell(Event(what=EventKind.ENDED, study="pool", worker=self._identity.name, message=ending))

    def _warn(self, message: str) -> None:
        self._tell(Event(what=EventKind.TROUBLE, study="pool", worker=self._identity.name, message=message))

    def _while_unreachable(self, work: Callable[[], T]) -> T | None:
        """Return the result of `work`; while the storage cannot be reached, retry it until this worker is asked to stop."""
        has_warned = False
        while not self._stopping.is_asked:
            try:
                return work()
            except StorageError as error:
                if not has_warned:
                    self._warn(f"the queue waits until the storage answers: {error}")
                has_warned = True
                self._stopping.wait(self._timing.poll_seconds)
        return None
