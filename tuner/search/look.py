"""A storage into looks at its studies: what each has found, who is at it, and what is to be expected.

What changes only with the trials is remembered by the stamp of a study, so that many may look at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Connection

from tuner.search import budget, leases, listing, outlook, overview, records
from tuner.search.budget import Standing
from tuner.search.listing import OpenTrial
from tuner.search.outlook import Outlook
from tuner.search.overview import Listed
from tuner.search.records import History
from tuner.search.storage import Storage

#: open trials that a look lists
LISTED_TRIALS = 24
#: studies that are remembered
_REMEMBERED = 256


class State(StrEnum):
    """How a study stands, in a word."""

    RUNNING = "running"
    #: no further trial starts, some are still open
    ENDING = "ending"
    #: its budget is spent, or its target reached
    DONE = "done"
    #: someone or something stopped it before
    STOPPED = "stopped"
    #: no one is at it
    IDLE = "idle"


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a study stands."""

    listed: Listed
    state: State
    #: why no further trial starts; None if one may
    reason: str | None
    history: History
    #: the trials that have not ended, those first that a worker has
    open: tuple[OpenTrial, ...]
    num_running: int
    #: begun, and to be taken up again; or enqueued
    num_waiting: int
    #: time in which some worker was at work; None where only Optuna's own dates are known
    busy_seconds: float | None
    outlook: Outlook


@dataclass(kw_only=True)
class Looks:
    """Looks at the studies of a storage; remembers what has not changed."""

    storage: Storage
    _histories: dict[int, tuple[Any, History]] = field(default_factory=dict)
    _intervals: dict[int, tuple[Any, list[tuple[float, float]]]] = field(default_factory=dict)

    def page(self, *, offset: int, limit: int) -> tuple[int, list[Look]]:
        """How many studies there are, and a look at some of them, the newest first."""

        def read(connection: Connection) -> tuple[int, list[Look]]:
            listed = overview.newest(connection, offset=offset, limit=limit)
            return overview.count(connection), [self.at(connection, study) for study in listed]

        return self.storage.read(read)

    def at(self, connection: Connection, listed: Listed) -> Look:
        """A look at one study."""
        found = self._history(connection, listed)
        num_open = sum(listed.counts.get(state, 0) for state in (TrialState.RUNNING, TrialState.WAITING))
        shown = listing.open_trials(connection, listed.id, limit=LISTED_TRIALS) if num_open else []
        num_running = sum(trial.is_held for trial in shown) if num_open <= LISTED_TRIALS else listed.counts.get(TrialState.RUNNING, 0)
        busy = self._busy_seconds(connection, listed, shown)
        reason = None if listed.spec is None else _reason(listed, found, busy)
        return Look(
            listed=listed,
            state=_state(listed, reason, num_running),
            reason=reason,
            history=found,
            open=tuple(shown),
            num_running=num_running,
            num_waiting=num_open - num_running,
            busy_seconds=busy,
            outlook=outlook.judge(
                found,
                None if listed.spec is None else listed.spec.budget,
                num_ended=listed.num_spent,
                num_trials=listed.num_trials - listed.num_carried,
                busy_seconds=busy or 0.0,
                num_combinations=listed.num_combinations,
            ),
        )

    def _history(self, connection: Connection, listed: Listed) -> History:
        if listed.maximizes is None:
            return History()
        stamp, found = self._histories.get(listed.id, (None, History()))
        if stamp != listed.stamp:
            found = records.read(connection, listed.id, maximizes=listed.maximizes, num_trials=listed.num_trials)
            _remember(self._histories, listed.id, (listed.stamp, found))
        return found

    def _busy_seconds(self, connection: Connection, listed: Listed, shown: Sequence[OpenTrial]) -> float | None:
        """The time of ended attempts is remembered; that of open ones goes on."""
        held = tuple((trial.row.number, trial.attempt) for trial in shown if trial.is_held)
        stamp, merged = self._intervals.get(listed.id, (None, []))
        if stamp != (listed.stamp, held):
            merged = budget.union(leases.intervals(connection, listed.id))
            _remember(self._intervals, listed.id, ((listed.stamp, held), merged))
        if not merged:
            return None
        now = leases.clock(connection) if held else 0.0
        spans = [
            (now - trial.seconds, now - (trial.silent_seconds or 0.0)) for trial in shown if trial.is_held and trial.seconds is not None
        ]
        return budget.busy_seconds([*merged, *spans])


def _remember(kept: dict[int, Any], key: int, value: Any) -> None:
    kept.pop(key, None)
    kept[key] = value
    while len(kept) > _REMEMBERED:
        kept.pop(next(iter(kept)), None)


def _reason(listed: Listed, found: History, busy: float | None) -> str | None:
    assert listed.spec is not None
    standing = Standing(
        num_trials=listed.num_trials,
        best_value=None if found.best is None else found.best.value,
        busy_seconds=busy or 0.0,
        stopped=listed.stopped,
        halted=listed.halted,
        num_enqueued=listed.counts.get(TrialState.WAITING, 0),
        num_combinations=listed.num_combinations,
        num_carried=listed.num_carried,
    )
    return budget.decide(listed.spec.budget, standing)


def _state(listed: Listed, reason: str | None, num_running: int) -> State:
    if num_running:
        return State.ENDING if listed.stopped or listed.halted else State.RUNNING
    if listed.stopped or listed.halted:
        return State.STOPPED
    return State.DONE if reason is not None else State.IDLE
