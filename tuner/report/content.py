"""Content of a report: everything that the storage holds about a study, read once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError
from sqlalchemy import Connection

from tuner.errors import StudyError
from tuner.protocol import messages
from tuner.spec.objective import Objective
from tuner.storage import optuna_private, tables
from tuner.storage.attributes import INFEASIBLE, PREPARED
from tuner.studies import study as studies
from tuner.studies.study import Study
from tuner.views import status, trial
from tuner.views import studies as views_studies
from tuner.views import trials as views_trials
from tuner.views.status import FailedTrials
from tuner.views.studies import StudyView
from tuner.views.trial import Attempt
from tuner.views.trials import CurvePoint, MeasuredTrial

#: most trials that are drawn one by one; of more, the best ones and an even selection of the others
MOST_DRAWN = 1_000
_BEST_DRAWN = 200


@dataclass(frozen=True, kw_only=True)
class ReportContent:
    """Everything that is known of a study."""

    study: Study
    view: StudyView
    #: what the first trainer found; None: no trainer has started
    prepared: messages.Prepared | None
    #: all trials in any state, sorted by number
    trials: Sequence[FrozenTrial]
    #: trials that are drawn, sorted by number; each has a value
    drawn: Sequence[FrozenTrial]
    #: curves of the drawn trials by trial number
    curves: Mapping[int, Sequence[CurvePoint]]
    #: sorted by start time
    attempts: Sequence[Attempt]
    #: the best trial; None: no trial has completed
    best_trial: trial.Trial | None
    #: trials with what the constraints limit; empty for a study without constraints
    measured: Sequence[MeasuredTrial]
    failures: Sequence[FailedTrials]
    attributes: Mapping[str, Any]
    #: seconds since the epoch by the database's clock
    at: float

    @property
    def valued(self) -> Sequence[FrozenTrial]:
        """The trials that ended with a value."""
        return [trial for trial in self.trials if has_value(trial)]


def read(study: Study) -> ReportContent:
    """Read everything that the storage holds about a study.

    Raises:
        StudyError: the study was deleted meanwhile.
    """
    trials = study.storage.call(lambda: study.storage.cached.get_all_trials(study.id, deepcopy=False))
    drawn = choose([trial for trial in trials if has_value(trial)], study.spec.objective)
    return study.storage.read(lambda connection: _read(connection, study, trials, drawn))


def choose(valued: Sequence[FrozenTrial], objective: Objective) -> list[FrozenTrial]:
    """Return the trials to draw: all, or the best ones and an even selection of the others."""
    if len(valued) <= MOST_DRAWN:
        return list(valued)
    order = ranked(valued, objective)
    best, rest = order[:_BEST_DRAWN], sorted(order[_BEST_DRAWN:], key=lambda trial: trial.number)
    step = len(rest) / (MOST_DRAWN - _BEST_DRAWN)
    others = [rest[int(index * step)] for index in range(MOST_DRAWN - _BEST_DRAWN)]
    return sorted([*best, *others], key=lambda trial: trial.number)


def ranked(valued: Sequence[FrozenTrial], objective: Objective) -> list[FrozenTrial]:
    """Return trials in the order of their values, the best first; among equals the earliest. Those that exceed a constraint come last."""
    return sorted(valued, key=lambda trial: (INFEASIBLE in trial.user_attrs, -objective.merit(value(trial)), trial.number))


def has_value(trial: FrozenTrial) -> bool:
    """Return whether a trial ended with a finite value."""
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and trial.values is not None and math.isfinite(trial.values[0])


def value(trial: FrozenTrial) -> float:
    """Return the value that a trial ended with."""
    return float(trial.values[0])


def _read(connection: Connection, study: Study, trials: Sequence[FrozenTrial], drawn: Sequence[FrozenTrial]) -> ReportContent:
    listed = views_studies.one(connection, study.id)
    if listed is None:
        raise StudyError(f"study {study.name} was deleted while the report was written")
    view = views_studies.StudyReader(storage=study.storage).at(connection, listed)
    attributes = tables.all_of(connection, tables.STUDY_USER, study.id)
    best = view.history.best
    ids = {optuna_private.trial_id(trial): trial.number for trial in drawn}
    curves = views_trials.curves(connection, study.id, ids)
    return ReportContent(
        study=studies.up_to_date(connection, study),
        view=view,
        prepared=_prepared(attributes),
        trials=trials,
        drawn=drawn,
        curves={ids[trial_id]: points for trial_id, points in curves.items()},
        attempts=trial.attempts(connection, study.id),
        best_trial=None if best is None else trial.read(connection, study.id, best.number, study.spec),
        measured=views_trials.measured(connection, study.id) if study.spec.limits else [],
        failures=status.failures(connection, study.id),
        attributes=attributes,
        at=tables.clock(connection),
    )


def _prepared(attributes: Mapping[str, Any]) -> messages.Prepared | None:
    """Return what the first trainer of a study found; None if no trainer has started, or another program changed it."""
    try:
        return messages.Prepared.model_validate(attributes.get(PREPARED))
    except ValidationError:
        return None
