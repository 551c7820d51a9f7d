"""A simulated week of a pool with 200 owners: no study starves, and workers rarely switch."""

import collections
import dataclasses
import heapq
import random

import pytest

from tuner.queue import choice
from tuner.queue.choice import Asker, OwnerShare
from tuner.queue.entries import Entry, QueueState
from tuner.queue.limits import DAY_SECONDS, OwnerUse

NUM_WORKERS, NUM_OWNERS, NUM_STUDIES = 16, 200, 900
WEEK_SECONDS = 7 * DAY_SECONDS
#: what a worker needs to go to another study: it loads images and a backbone
SWITCH_SECONDS = 10.0


@dataclasses.dataclass(kw_only=True)
class Planned:
    """A study that will be submitted."""

    entry: Entry
    #: seconds of each trial
    trials: list[float]


def planned(*, piece_seconds: float | None = None) -> list[Planned]:
    """The studies of a week; with `piece_seconds`, their trials are cut into pieces, as an ideal scheduler could."""
    chance, found = random.Random(5), []
    for number in range(NUM_STUDIES):
        # everyone has a study now and then, and a few have many
        owner = number if number < NUM_OWNERS else min(NUM_OWNERS, int(chance.paretovariate(0.6))) - 1
        seconds, num_trials = chance.uniform(300, 1500), chance.randint(4, 20)
        entry = Entry(
            study_id=number, name=f"s{number}", state=QueueState.QUEUED, priority=0, position=0, owner=f"o{owner}",
            num_wanted=chance.choice((1, 2, 4)), needs=(), after=(), takes_winner=False, preempts=False, key=None, data_path="",
            likeness="", submitted_at=chance.uniform(0, WEEK_SECONDS), started_at=None, ended_at=None, message="",
        )  # fmt: skip
        num_pieces = num_trials if piece_seconds is None else round(num_trials * seconds / piece_seconds)
        found.append(Planned(entry=entry, trials=[seconds if piece_seconds is None else piece_seconds] * num_pieces))
    return found


class Week:
    """Workers that serve the studies of a week."""

    def __init__(self, studies: list[Planned], *, stays: bool) -> None:
        self._stays = stays
        self._left = {one.entry.study_id: list(one.trials) for one in studies}
        self._open: dict[int, Entry] = {}
        self._used: dict[str, collections.deque[tuple[float, float]]] = collections.defaultdict(collections.deque)
        self._sums: dict[str, float] = collections.defaultdict(float)
        self._askers = dict.fromkeys(range(NUM_WORKERS), Asker())
        self._idle = set(range(NUM_WORKERS))
        self._events: list[tuple[float, int, Entry | int]] = []
        self._serial = 0
        #: how long each study waited for its first worker
        self.waits: dict[int, float] = {}
        self.trial_seconds = self.switch_seconds = 0.0
        for one in studies:
            self._push(one.entry.submitted_at, one.entry)

    def run(self) -> None:
        """Play the week, and then the studies that are left."""
        while self._events:
            now, _, what = heapq.heappop(self._events)
            if isinstance(what, Entry):
                self._open[what.study_id] = what
            else:
                self._idle.add(what)
            while self._idle and self._begin(next(iter(self._idle)), now):
                pass

    def _begin(self, worker: int, now: float) -> bool:
        """Let an idle worker begin a trial; return whether there was one."""
        asker = self._askers[worker]
        working = collections.Counter(one.study_id for number, one in self._askers.items() if number not in self._idle)
        opened = self._open.values()
        ready = [dataclasses.replace(one, num_workers=working[one.study_id]) if one.study_id in working else one for one in opened]
        found = choice.choose(ready, asker, self._shares(ready, now), now=now)
        if found is None:
            return False
        is_same = asker.study_id == found.study_id
        self.waits.setdefault(found.study_id, now - found.submitted_at)
        seconds = self._left[found.study_id].pop()
        if not self._left[found.study_id]:
            del self._open[found.study_id]
        switch = 0.0 if is_same or not self._stays else SWITCH_SECONDS
        self.trial_seconds, self.switch_seconds = self.trial_seconds + seconds, self.switch_seconds + switch
        before = asker if is_same and self._stays else Asker()
        self._askers[worker] = dataclasses.replace(
            before, study_id=found.study_id, num_trials=before.num_trials + 1, seconds=before.seconds + seconds
        )
        if not self._stays:  # nothing holds an ideal worker
            self._askers[worker] = dataclasses.replace(self._askers[worker], num_trials=choice.STAY_TRIALS)
        self._used[found.owner].append((now, seconds))
        self._sums[found.owner] += seconds
        self._idle.remove(worker)
        self._push(now + seconds + switch, worker)
        return True

    def _shares(self, ready: list[Entry], now: float) -> dict[str, OwnerShare]:
        shares = {}
        for owner in {one.owner for one in ready}:
            while self._used[owner] and self._used[owner][0][0] < now - DAY_SECONDS:
                self._sums[owner] -= self._used[owner].popleft()[1]
            shares[owner] = OwnerShare(use=OwnerUse(seconds=self._sums[owner]))
        return shares

    def _push(self, at: float, what: Entry | int) -> None:
        self._serial += 1
        heapq.heappush(self._events, (at, self._serial, what))


@pytest.fixture(scope="module")
def week() -> Week:
    played = Week(planned(), stays=True)
    played.run()
    return played


def test_no_study_waits_more_than_twice_as_long_as_under_an_ideal_scheduler(week: Week) -> None:
    ideal = Week(planned(piece_seconds=300.0), stays=False)
    ideal.run()
    assert len(week.waits) == len(ideal.waits) == NUM_STUDIES
    assert max(ideal.waits.values()) > 3_600
    assert max(week.waits.values()) <= 2 * max(ideal.waits.values())


def test_switches_cost_the_workers_less_than_3_percent_of_their_time(week: Week) -> None:
    assert week.switch_seconds > 0
    assert week.trial_seconds / (week.trial_seconds + week.switch_seconds) >= 0.97
