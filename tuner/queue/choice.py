"""Choice: which study a free pool worker serves next. Everything here is computed from values and reads no storage.

The order: the highest priority, then the owner who has had the least of the pool by weight, then the place that a user gave, then a
study for which the worker's trainer is warm, then the oldest. A worker stays with a study for a while, because a switch costs time.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tuner import wording
from tuner.queue import limits
from tuner.queue.entries import Entry, QueueState
from tuner.queue.limits import OwnerLimits, OwnerUse

#: a worker stays with a study for as many trials or as long, whichever ends first, unless a higher priority needs it
STAY_TRIALS = 20
STAY_SECONDS = 120.0
#: a study that waited for longer is no longer overtaken by one for which the trainer is warm
PATIENCE_SECONDS = 600.0
#: a label with a size asks for a worker with a GPU of at least so much memory: gpu:24GB
_SIZED = re.compile(r"gpu:(\d+(?:\.\d+)?) ?GB", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Asker:
    """The worker that asks for a study."""

    labels: frozenset[str] = frozenset()
    #: memory of its GPU; 0 if it has none
    gpu_memory_bytes: int = 0
    #: the study that it works on; None: it is idle
    study_id: int | None = None
    #: trials that it has ended there, and how long it has been there
    num_trials: int = 0
    seconds: float = 0.0
    #: `Entry.likeness` of the study for which its trainer is warm; "": none
    likeness: str = ""
    #: ids of studies that it cannot serve, or that have no trial for it
    without: Collection[int] = ()


@dataclass(frozen=True, kw_only=True)
class OwnerShare:
    """An owner of studies, seen by the scheduler; the worker that asks is not counted."""

    use: OwnerUse = field(default_factory=OwnerUse)
    weight: float = 1.0
    limits: OwnerLimits = field(default_factory=OwnerLimits)

    @property
    def claim(self) -> float:
        """What the owner has had of the pool by weight; workers that it has now count for the time that they stay."""
        return (self.use.seconds + self.use.num_workers * STAY_SECONDS) / self.weight


def choose(
    entries: Sequence[Entry], asker: Asker, owners: Mapping[str, OwnerShare], *, done: Collection[str] = (), now: float
) -> Entry | None:
    """Return the study that a worker serves next; None if there is none for it.

    `Entry.num_workers` must not count the worker that asks. `done` are the names of the studies that are done.
    """
    able = [one for one in entries if hindrance(one, asker, owners.get(one.owner, OwnerShare()), done=done) is None]
    if not able:
        return None
    highest = max(one.priority for one in able)
    first = [one for one in able if one.priority == highest]
    if asker.num_trials < STAY_TRIALS and asker.seconds < STAY_SECONDS:
        here = next((one for one in first if one.study_id == asker.study_id), None)
        if here is not None:
            return here
    return min(first, key=lambda one: _rank(one, asker, owners.get(one.owner, OwnerShare()), now))


def hindrance(entry: Entry, asker: Asker, owner: OwnerShare, *, done: Collection[str] = ()) -> str | None:
    """Return why a worker does not serve a study now; None if it can."""
    if entry.study_id in asker.without:
        return "it has no trial for this worker"
    return waits_because(entry, owner, done=done) or unmet_need(entry.needs, asker.labels, asker.gpu_memory_bytes)


def waits_because(entry: Entry, owner: OwnerShare, *, done: Collection[str] = ()) -> str | None:
    """Return why no worker may serve a study now; None if one may."""
    if not entry.state.is_open:
        return f"it is {entry.state.value}"
    missing = [name for name in entry.after if name not in done] if entry.state is QueueState.QUEUED else []
    if missing:
        return f"waits for {wording.listed(missing)}"
    if entry.num_workers >= entry.num_wanted:
        return f"it has {entry.num_workers} of {wording.count(entry.num_wanted, 'worker')}"
    return limits.exceeded(entry.owner, owner.use, owner.limits)


def unmet_need(needs: Iterable[str], labels: Collection[str], gpu_memory_bytes: int) -> str | None:
    """Return which needs of a study a worker does not meet; None if it meets all."""
    missing = []
    for need in needs:
        sized = _SIZED.fullmatch(need)
        if gpu_memory_bytes < float(sized[1]) * 1e9 if sized else need not in labels:
            missing.append(need)
    return f"has no {wording.listed(missing)}" if missing else None


def is_due_to_yield(preempting: Entry, own_key: str, serving: Mapping[str, tuple[int, float]], *, num_idle: int) -> bool:
    """Return whether a worker must leave its trial for a study that preempts.

    Idle workers come first, then those with the lowest priority, and of these the ones that came last.

    Args:
        preempting: the study that takes workers.
        own_key: the worker that asks.
        serving: priority of the study and time of arrival of each busy worker that can serve `preempting`, with `own_key`.
        num_idle: workers without a study that can serve it.
    """
    num_missing = preempting.num_wanted - preempting.num_workers - num_idle
    lower = [key for key, (priority, _) in serving.items() if priority < preempting.priority]
    lower.sort(key=lambda key: (serving[key][0], -serving[key][1], key))
    return own_key in lower[: max(0, num_missing)]


def _rank(entry: Entry, asker: Asker, owner: OwnerShare, now: float) -> tuple[float, int, int, float]:
    is_warm = bool(asker.likeness) and entry.likeness == asker.likeness
    is_patient = now - entry.submitted_at < PATIENCE_SECONDS
    claim = owner.claim if math.isfinite(owner.claim) else math.inf
    return claim, entry.position, int(is_patient and not is_warm), entry.submitted_at
