"""What is reported of a trial, and of those it is held against, into whether it is stopped."""

import copy
from collections.abc import Sequence

from optuna.pruners import PercentilePruner
from optuna.trial import FrozenTrial
from sqlalchemy import Connection

from tuner import messages
from tuner.search import curves, history, suggestion, tables
from tuner.search.pruners import Confined
from tuner.search.study import Study


def is_poor(study: Study, trial_id: int, epochs: Sequence[messages.Epoch], pruner: Confined) -> bool:
    """Whether a pruner gives a trial up, by what is stored and by epochs of it that are not stored yet.

    Raises:
        SQLAlchemyError: the storage does not answer; nothing is tried again.
    """
    if isinstance(pruner.inner, PercentilePruner):  # the median is one, too
        trial, others = study.storage.look(lambda connection: _at_last_step(connection, study, trial_id, epochs))
    else:
        others = study.storage.cached.get_all_trials(study.id, deepcopy=False)
        trial = copy.copy(next(other for other in others if other._trial_id == trial_id))
        trial.intermediate_values = trial.intermediate_values | curves.values(trial.intermediate_values, epochs)
    return pruner.prune(suggestion.open_study(study.name, study.storage.cached, others, study.optuna.sampler), trial)


def _at_last_step(
    connection: Connection, study: Study, trial_id: int, epochs: Sequence[messages.Epoch]
) -> tuple[FrozenTrial, list[FrozenTrial]]:
    """A trial, and the completed ones with what they had at its last step: all that is asked of them."""
    trial = history.one(connection, trial_id)
    known = tables.intermediate_values(connection, trial_id)
    trial.intermediate_values = known | curves.values(known, epochs)
    return trial, history.at_step(connection, study.id, trial.last_step or 0)
