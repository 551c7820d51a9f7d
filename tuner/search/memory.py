"""What one process has read of a study that will not change: a trial costs the same however many went before it."""

import json
from dataclasses import dataclass, field

from sqlalchemy import Connection, and_, func, select

from tuner.search import budget
from tuner.search.history import History
from tuner.search.tables import LEASES, TRIAL_USER, TRIALS
from tuner.search.unread import Unread

#: user attributes of a trial
PROBE_ACCURACY = "probe_accuracy"
PROMOTED = "promoted"
#: a lease that another process grants just now begins no earlier before what is read of it
_OVERLAP_SECONDS = 60.0


@dataclass
class Probes:
    """The value of each trial's probe, and whether the trial went on."""

    #: by trial id
    known: dict[int, tuple[float, bool]] = field(default_factory=dict)
    _unread: Unread = field(default_factory=Unread)

    def read(self, connection: Connection, study_id: int) -> None:
        """Bring `known` up to date."""
        accuracy, promoted = TRIAL_USER.alias(), TRIAL_USER.alias()
        query = (
            select(TRIALS.c.trial_id, TRIALS.c.state, accuracy.c.value_json, promoted.c.value_json)
            .outerjoin(accuracy, and_(accuracy.c.trial_id == TRIALS.c.trial_id, accuracy.c.key == PROBE_ACCURACY))
            .outerjoin(promoted, and_(promoted.c.trial_id == TRIALS.c.trial_id, promoted.c.key == PROMOTED))
            .where(self._unread.among(study_id))
        )
        rows = connection.execute(query).all()
        known = {trial_id: (json.loads(value), json.loads(went_on)) for trial_id, _, value, went_on in rows if value and went_on}
        self.known |= known
        self._unread.note((trial_id, state) for trial_id, state, *_ in rows)


@dataclass
class Work:
    """The time in which some worker of the study was at work."""

    #: in attempts that ended before all that comes
    _settled_seconds: float = 0.0
    #: start and end of later work that has ended
    _ended: list[tuple[float, float]] = field(default_factory=list)
    _unread: Unread = field(default_factory=Unread)

    def read(self, connection: Connection, study_id: int) -> float:
        """Seconds up to now; time in which several work counts once."""
        stop = func.coalesce(LEASES.c.ended_at, LEASES.c.seen_at)
        is_of_trial = and_(LEASES.c.study_id == TRIALS.c.study_id, LEASES.c.trial_number == TRIALS.c.number)
        query = select(TRIALS.c.trial_id, TRIALS.c.state, LEASES.c.started_at, stop).outerjoin(LEASES, is_of_trial)
        rows = connection.execute(query.where(self._unread.among(study_id))).all()
        attempts = [(state.is_finished(), (start, stop)) for _, state, start, stop in rows if start is not None]
        known = budget.union([*self._ended, *(attempt for is_ended, attempt in attempts if is_ended)])
        going_on = [attempt for is_ended, attempt in attempts if not is_ended]
        settled_until = min((start for start, _ in going_on or known[-1:]), default=0.0) - _OVERLAP_SECONDS
        self._settled_seconds += sum(stop - start for start, stop in known if stop < settled_until)
        self._ended = [(start, stop) for start, stop in known if stop >= settled_until]
        self._unread.note((trial_id, state) for trial_id, state, *_ in rows)
        return self._settled_seconds + budget.busy_seconds([*self._ended, *going_on])


@dataclass
class Memory:
    """All that a process remembers of a study; it belongs to one thread."""

    history: History = field(default_factory=History)
    probes: Probes = field(default_factory=Probes)
    work: Work = field(default_factory=Work)
    is_begun: bool = False

    def begin(self, connection: Connection, study_id: int) -> None:
        """Read what there is for the first time: of a large study this takes a while, in which no one should have to wait for a lock."""
        self.work.read(connection, study_id)
        self.probes.read(connection, study_id)
        self.is_begun = True
