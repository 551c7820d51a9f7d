"""Progress: what a study has spent and found, as its budget and every view see it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Connection

from tuner.spec.budget import StudyProgress
from tuner.storage import queries, tables
from tuner.storage.attributes import HALTED, MIGRATED, PACE, SPEC, STOPPED
from tuner.storage.queries import StateCount, ValuedTrial
from tuner.storage.tables import STUDY_USER
from tuner.studies import study as studies
from tuner.studies.study import Study

#: attributes of a study from which `Progress` is read, besides its spec
STORED = (STOPPED, HALTED, MIGRATED, PACE)


@dataclass(frozen=True, kw_only=True)
class StudyState:
    """The state of a study at one moment."""

    #: with the budget that the storage holds now
    study: Study
    progress: StudyProgress
    #: number of trials by state; a state without trials is left out
    counts: Mapping[TrialState, int]
    best: ValuedTrial | None


def read(connection: Connection, study: Study, stored: Mapping[str, Any] | None = None) -> tuple[Study, StudyProgress]:
    """Return the study with its current budget, and its progress. What the budget does not limit is not read.

    `stored`: its attributes SPEC and `STORED`, if this transaction has read them.
    """
    stored = tables.get(connection, STUDY_USER, study.id, SPEC, *STORED) if stored is None else stored
    study = studies.with_stored(study, stored)
    limits = study.spec.budget
    best = None if limits.target is None else queries.best(connection, study.id)
    busy_seconds = 0.0 if limits.timeout is None else study.memory.busy_time.read(connection, study.id)
    counts = queries.counts(connection, [study.id]).get(study.id, {})
    return study, of(
        counts,
        stored,
        best=best,
        busy_seconds=busy_seconds,
        num_combinations=_num_combinations(study),
        maximizes=study.spec.objective.maximizes,
    )


def read_state(connection: Connection, study: Study) -> StudyState:
    """Return the whole state of a study."""
    stored = tables.get(connection, STUDY_USER, study.id, SPEC, *STORED)
    study = studies.with_stored(study, stored)
    best = queries.best(connection, study.id)
    busy_seconds = study.memory.busy_time.read(connection, study.id)
    counts = queries.counts(connection, [study.id]).get(study.id, {})
    return StudyState(
        study=study,
        progress=of(
            counts,
            stored,
            best=best,
            busy_seconds=busy_seconds,
            num_combinations=_num_combinations(study),
            maximizes=study.spec.objective.maximizes,
        ),
        counts={state: count.num_trials for state, count in counts.items()},
        best=best,
    )


def of(
    counts: Mapping[TrialState, StateCount],
    stored: Mapping[str, Any],
    *,
    best: ValuedTrial | None,
    busy_seconds: float,
    num_combinations: int | None,
    maximizes: bool = True,
) -> StudyProgress:
    """Return the progress of a study from its counts and from its attributes `STORED`."""
    waiting = counts.get(TrialState.WAITING)
    return StudyProgress(
        num_trials=sum(count.num_trials for count in counts.values()),
        num_enqueued=0 if waiting is None else waiting.num_trials,
        best_value=None if best is None else best.value,
        busy_seconds=busy_seconds,
        stopped=stopped_because(stored),
        halted=halted_by(stored),
        num_combinations=num_combinations,
        num_carried=num_carried(stored),
        needed_seconds=_needed_seconds(stored),
        maximizes=maximizes,
    )


def stopped_because(stored: Mapping[str, Any]) -> str | None:
    """Return why a study stopped itself, or None if it did not."""
    stopped = stored.get(STOPPED)
    return stopped if stopped is None or isinstance(stopped, str) else json.dumps(stopped)


def halted_by(stored: Mapping[str, Any]) -> str | None:
    """Return who stopped a study, or None if nobody did."""
    halted = stored.get(HALTED)
    return str(halted.get("by", "someone")) if isinstance(halted, dict) else None


def num_carried(stored: Mapping[str, Any]) -> int:
    """Return the number of a study's trials that were carried over from another study."""
    number = migrated(stored).get("num_carried", 0)
    return number if isinstance(number, int) else 0


def _needed_seconds(stored: Mapping[str, Any]) -> float | None:
    """Return the seconds that a further trial takes, by the pace of the study so far; None if it has none."""
    pace = stored.get(PACE)
    needed = pace.get("needed_seconds") if isinstance(pace, dict) else None
    return needed if isinstance(needed, int | float) else None


def migrated(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the source of a migrated study, and what was carried over; empty for any other study."""
    found = stored.get(MIGRATED)
    return found if isinstance(found, dict) else {}


def _num_combinations(study: Study) -> int | None:
    return None if study.combinations is None else len(study.combinations)
