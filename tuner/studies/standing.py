"""A study in the storage into what it has spent and found."""

from optuna.trial import TrialState
from sqlalchemy import Connection, case, func, select

from tuner.spec.budget import StudyProgress
from tuner.storage import tables
from tuner.storage.tables import TRIALS, VALUES
from tuner.studies import study as studies
from tuner.studies.study import HALTED, SPEC, STOPPED, Study


def read(connection: Connection, study: Study) -> tuple[Study, StudyProgress]:
    """The study with the budget that it has now, and what that is held against; what it does not limit is not read."""
    attributes = tables.get(connection, tables.STUDY_USER, study.id, SPEC, STOPPED, HALTED)
    study = studies.with_stored(study, attributes)
    limits = study.spec.budget
    num_trials, num_enqueued = _count(connection, study.id)
    return study, StudyProgress(
        num_trials=num_trials,
        num_enqueued=num_enqueued,
        best_value=None if limits.target is None else best_value(connection, study.id),
        busy_seconds=0.0 if limits.timeout is None else study.memory.work.read(connection, study.id),
        stopped=attributes.get(STOPPED),
        halted=(attributes.get(HALTED) or {}).get("by"),
        num_combinations=None if study.combinations is None else len(study.combinations),
        num_carried=study.num_carried,
    )


def _count(connection: Connection, study_id: int) -> tuple[int, int]:
    """Trials of a study in every state, and those of them that no worker has begun."""
    is_waiting = func.coalesce(func.sum(case((TRIALS.c.state == TrialState.WAITING, 1), else_=0)), 0)
    row = connection.execute(select(func.count(), is_waiting).select_from(TRIALS).where(TRIALS.c.study_id == study_id)).one()
    return int(row[0]), int(row[1])


def best_value(connection: Connection, study_id: int) -> float | None:
    """The best value of a completed trial."""
    query = select(func.max(VALUES.c.value)).join(TRIALS, TRIALS.c.trial_id == VALUES.c.trial_id)
    is_completed = (TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.COMPLETE)
    best: float | None = connection.execute(query.where(*is_completed)).scalar_one()
    return best
