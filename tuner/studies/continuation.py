"""Continuation: whether a trial continues, after its probe (promotion) and during fine-tuning (pruning)."""

import copy
import math
from collections.abc import Sequence

from optuna.pruners import PercentilePruner
from optuna.trial import FrozenTrial
from sqlalchemy import Connection

from tuner.protocol import messages
from tuner.sampling import history, suggestion
from tuner.sampling.pruners import ConfinedPruner
from tuner.storage import epochs as epoch_rows
from tuner.storage import optuna_private, tables
from tuner.storage.attributes import PROBE_ACCURACY, PROMOTED
from tuner.storage.tables import TRIAL_USER
from tuner.studies import screening
from tuner.studies.study import Study


def earns_fine_tuning(value: float, *, earlier: Sequence[float], promoted: Sequence[float], share: float) -> bool:
    """Return whether a probe is among the best `share` of all probes so far, itself included.

    `earlier` are the values of the other probes, `promoted` those of the promoted ones. The number of places is `share` of the probes so
    far, rounded up. A probe is promoted if fewer better probes, and fewer promoted ones that are at least as good, came before it. Among
    equal probes only as many are promoted as there are places.

    Rounding up promotes too many probes at first, and so does a search that improves steadily. From the second on, each surplus promotion
    takes a place away, down to one place: a probe that beats all others is always promoted. Of 100 probes in random order, `share` are
    promoted; of 20, up to a third more; in a search that improves steadily, less than twice as many.
    """
    fair = math.ceil(share * (len(earlier) + 1) - 1e-9)
    places = max(1, fair - max(0, len(promoted) - fair - 1))
    num_better = sum(other > value for other in earlier)
    num_before = sum(other >= value for other in promoted)
    return num_better < places and num_before < places


def decide(connection: Connection, study: Study, *, number: int, trial_id: int, value: float) -> bool:
    """Return whether a trial is promoted to fine-tuning. The first answer is stored, so a resumed trial gets the same answer."""
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
    if is_promoted and screening.why_not(connection, study, trial_id=trial_id, number=number, accuracy=value):
        is_promoted = False
    tables.put(connection, TRIAL_USER, trial_id, {PROBE_ACCURACY: value, PROMOTED: is_promoted})
    return is_promoted


def is_poor(study: Study, trial_id: int, epochs: Sequence[messages.Epoch], pruner: ConfinedPruner) -> bool:
    """Return whether a pruner stops a trial, based on the stored epochs and on epochs that are not stored yet.

    Raises:
        SQLAlchemyError: the storage does not answer; this function does not retry.
    """
    if isinstance(pruner.inner, PercentilePruner):  # MedianPruner is a subclass
        trial, others = study.storage.read_once(lambda connection: _at_last_step(connection, study, trial_id, epochs))
    else:
        others = study.storage.cached.get_all_trials(study.id, deepcopy=False)
        trial = copy.copy(next(other for other in others if optuna_private.trial_id(other) == trial_id))
        trial.intermediate_values = trial.intermediate_values | epoch_rows.best_so_far(trial.intermediate_values, epochs)
    return pruner.prune(suggestion.open_study(study.name, study.storage.cached, others, study.optuna.sampler), trial)


def _at_last_step(
    connection: Connection, study: Study, trial_id: int, epochs: Sequence[messages.Epoch]
) -> tuple[FrozenTrial, list[FrozenTrial]]:
    """Return a trial, and the completed trials with only their values at its last step, because a percentile needs no more."""
    trial = history.running_trial(connection, trial_id)
    known = tables.intermediate_values(connection, trial_id)
    trial.intermediate_values = known | epoch_rows.best_so_far(known, epochs)
    return trial, history.completed_at_step(connection, study.id, trial.last_step or 0)
