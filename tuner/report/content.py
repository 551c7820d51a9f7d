"""A study into all that a report says of it, read once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection

from tuner.errors import StudyError
from tuner.protocol import messages
from tuner.storage import optuna_private, tables
from tuner.storage.attributes import PREPARED
from tuner.studies import study as studies
from tuner.studies.study import Study
from tuner.views import failures, trial
from tuner.views import studies as views_studies
from tuner.views import trials as views_trials
from tuner.views.failures import FailedTrials
from tuner.views.studies import Look
from tuner.views.trial import Attempt
from tuner.views.trials import CurvePoint

#: trials that are drawn one by one; of more the best and some of the others, evenly chosen
MOST_DRAWN = 1_000
_BEST_DRAWN = 200


@dataclass(frozen=True, kw_only=True)
class Material:
    """What is known of a study."""

    study: Study
    look: Look
    #: what the first trainer found; None: none has come so far
    prepared: messages.Prepared | None
    #: of every state, in the order of their numbers
    trials: Sequence[FrozenTrial]
    #: some of those that ended with a value, in the order of their numbers
    drawn: Sequence[FrozenTrial]
    #: of the drawn ones, by number
    curves: Mapping[int, Sequence[CurvePoint]]
    #: in the order of their beginnings
    attempts: Sequence[Attempt]
    #: the best trial; None: none has completed
    winner: trial.Trial | None
    troubles: Sequence[FailedTrials]
    attributes: Mapping[str, Any]
    #: seconds since the epoch by the database's clock
    at: float

    @property
    def valued(self) -> Sequence[FrozenTrial]:
        """The trials that ended with a value."""
        return [trial for trial in self.trials if has_value(trial)]


def read(study: Study) -> Material:
    """All that the storage knows of a study.

    Raises:
        StudyError: it was deleted meanwhile.
    """
    trials = study.storage.call(lambda: study.storage.cached.get_all_trials(study.id, deepcopy=False))
    drawn = choose([trial for trial in trials if has_value(trial)])
    return study.storage.read(lambda connection: _read(connection, study, trials, drawn))


def choose(valued: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that are drawn: all of few, else the best and an even choice of the others."""
    if len(valued) <= MOST_DRAWN:
        return list(valued)
    ranked = sorted(valued, key=lambda trial: (-_value(trial), trial.number))
    best, rest = ranked[:_BEST_DRAWN], sorted(ranked[_BEST_DRAWN:], key=lambda trial: trial.number)
    step = len(rest) / (MOST_DRAWN - _BEST_DRAWN)
    others = [rest[int(place * step)] for place in range(MOST_DRAWN - _BEST_DRAWN)]
    return sorted([*best, *others], key=lambda trial: trial.number)


def has_value(trial: FrozenTrial) -> bool:
    """Whether a trial ended with a finite value."""
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and trial.values is not None and math.isfinite(trial.values[0])


def _value(trial: FrozenTrial) -> float:
    return float(trial.values[0])


def _read(connection: Connection, study: Study, trials: Sequence[FrozenTrial], drawn: Sequence[FrozenTrial]) -> Material:
    listed = views_studies.one(connection, study.id)
    if listed is None:
        raise StudyError(f"the study {study.name} was deleted while it was read")
    seen = views_studies.Looks(storage=study.storage).at(connection, listed)
    attributes = tables.all_of(connection, tables.STUDY_USER, study.id)
    prepared = attributes.get(PREPARED)
    best = seen.history.best
    ids = {optuna_private.trial_id(trial): trial.number for trial in drawn}
    curves = views_trials.curves(connection, study.id, ids)
    return Material(
        study=studies.up_to_date(connection, study),
        look=seen,
        prepared=None if prepared is None else messages.Prepared.model_validate(prepared),
        trials=trials,
        drawn=drawn,
        curves={ids[trial_id]: points for trial_id, points in curves.items()},
        attempts=trial.attempts(connection, study.id),
        winner=None if best is None else trial.read(connection, study.id, best.number),
        troubles=failures.read(connection, study.id),
        attributes=attributes,
        at=tables.clock(connection),
    )
