"""A study in the storage into what it has spent and found."""

from optuna.trial import TrialState
from sqlalchemy import Connection, func, select

from tuner.search import tables
from tuner.search.budget import Standing
from tuner.search.study import STOPPED, Study
from tuner.search.tables import TRIALS, VALUES


def read(connection: Connection, study: Study) -> Standing:
    """What the budget is held against; what it does not limit is not read."""
    limits = study.spec.budget
    return Standing(
        num_trials=tables.count_trials(connection, study.id),
        best_value=None if limits.target is None else best_value(connection, study.id),
        busy_seconds=0.0 if limits.timeout is None else study.memory.work.read(connection, study.id),
        stopped=tables.get(connection, tables.STUDY_USER, study.id, STOPPED).get(STOPPED),
        num_combinations=None if study.combinations is None else len(study.combinations),
    )


def best_value(connection: Connection, study_id: int) -> float | None:
    """The best value of a completed trial."""
    query = select(func.max(VALUES.c.value)).join(TRIALS, TRIALS.c.trial_id == VALUES.c.trial_id)
    is_completed = (TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.COMPLETE)
    best: float | None = connection.execute(query.where(*is_completed)).scalar_one()
    return best
