"""The probes in the storage into whether a trial goes on to fine-tuning, remembered with the trial."""

from sqlalchemy import Connection

from tuner.search import promotion, tables
from tuner.search.memory import PROBE_ACCURACY, PROMOTED
from tuner.search.study import Study
from tuner.search.tables import TRIAL_USER


def decide(connection: Connection, study: Study, *, number: int, trial_id: int, value: float) -> bool:
    """Whether the probe of a trial earns fine-tuning; the first answer is kept, so that a trial taken up again gets it too."""
    study.memory.probes.read(connection, study.id)
    known = study.memory.probes.known
    if trial_id in known:
        return known[trial_id][1]
    is_promoted = number == 0 or promotion.earns_fine_tuning(
        value,
        earlier=[probe for probe, _ in known.values()],
        promoted=[probe for probe, went_on in known.values() if went_on],
        share=study.spec.training.promote,
    )
    tables.put(connection, TRIAL_USER, trial_id, {PROBE_ACCURACY: value, PROMOTED: is_promoted})
    return is_promoted
