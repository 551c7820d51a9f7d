"""The probes so far into whether one more trial earns fine-tuning.

The probes in the storage into whether a trial goes on to fine-tuning, remembered with the trial.

What is reported of a trial, and of those it is held against, into whether it is stopped.
"""

import copy
import math
from collections.abc import Sequence

from optuna.pruners import PercentilePruner
from optuna.trial import FrozenTrial
from sqlalchemy import Connection

from tuner.protocol import messages
from tuner.sampling import history, suggestion
from tuner.sampling.pruners import Confined
from tuner.storage import epochs as epoch_rows
from tuner.storage import optuna_private, tables
from tuner.storage.attributes import PROBE_ACCURACY, PROMOTED
from tuner.storage.tables import TRIAL_USER
from tuner.studies.study import Study


def earns_fine_tuning(value: float, *, earlier: Sequence[float], promoted: Sequence[float], share: float) -> bool:
    """Whether a probe is among the best `share` of all probes so far, itself included.

    `earlier` are the other probes, `promoted` those of them that went on. The places are `share` of the probes so far, rounded up; a probe
    goes on if fewer better ones, and fewer promoted ones at least as good, came before it: among equals only as many go on as there are
    places. Rounding up promotes too many at first, and a search that gets better promotes too many throughout; from the second on, each one
    too many takes a place away, down to one: a probe that beats all others always goes on. Over 100 probes in random order `share` of them
    go on, over 20 up to a third more; in a search that gets steadily better less than twice as many.
    """
    fair = math.ceil(share * (len(earlier) + 1) - 1e-9)
    places = max(1, fair - max(0, len(promoted) - fair - 1))
    num_better = sum(other > value for other in earlier)
    num_before = sum(other >= value for other in promoted)
    return num_better < places and num_before < places


def decide(connection: Connection, study: Study, *, number: int, trial_id: int, value: float) -> bool:
    """Whether the probe of a trial earns fine-tuning; the first answer is kept, so that a trial taken up again gets it too."""
    study.memory.probes.read(connection, study.id)
    known = study.memory.probes.known
    if trial_id in known:
        return known[trial_id][1]
    is_promoted = number == 0 or earns_fine_tuning(
        value,
        earlier=[probe for probe, _ in known.values()],
        promoted=[probe for probe, went_on in known.values() if went_on],
        share=study.spec.training.promote,
    )
    tables.put(connection, TRIAL_USER, trial_id, {PROBE_ACCURACY: value, PROMOTED: is_promoted})
    return is_promoted


def is_poor(study: Study, trial_id: int, epochs: Sequence[messages.Epoch], pruner: Confined) -> bool:
    """Whether a pruner gives a trial up, by what is stored and by epochs of it that are not stored yet.

    Raises:
        SQLAlchemyError: the storage does not answer; nothing is tried again.
    """
    if isinstance(pruner.inner, PercentilePruner):  # the median is one, too
        trial, others = study.storage.look(lambda connection: _at_last_step(connection, study, trial_id, epochs))
    else:
        others = study.storage.cached.get_all_trials(study.id, deepcopy=False)
        trial = copy.copy(next(other for other in others if optuna_private.trial_id(other) == trial_id))
        trial.intermediate_values = trial.intermediate_values | epoch_rows.best_so_far(trial.intermediate_values, epochs)
    return pruner.prune(suggestion.open_study(study.name, study.storage.cached, others, study.optuna.sampler), trial)


def _at_last_step(
    connection: Connection, study: Study, trial_id: int, epochs: Sequence[messages.Epoch]
) -> tuple[FrozenTrial, list[FrozenTrial]]:
    """A trial, and the completed ones with what they had at its last step: all that is asked of them."""
    trial = history.one(connection, trial_id)
    known = tables.intermediate_values(connection, trial_id)
    trial.intermediate_values = known | epoch_rows.best_so_far(known, epochs)
    return trial, history.at_step(connection, study.id, trial.last_step or 0)
