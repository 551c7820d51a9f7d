"""The probes in the storage into whether a trial goes on to fine-tuning, remembered with the trial."""

import json

from sqlalchemy import Connection, select

from tuner.search import promotion, tables
from tuner.search.study import Study
from tuner.search.tables import TRIAL_USER, TRIALS

#: user attributes of a trial
PROBE_ACCURACY = "probe_accuracy"
PROMOTED = "promoted"


def decide(connection: Connection, study: Study, *, number: int, trial_id: int, value: float) -> bool:
    """Whether the probe of a trial earns fine-tuning; the first answer is kept, so that a trial taken up again gets it too."""
    known = tables.get(connection, TRIAL_USER, trial_id, PROMOTED)
    if known:
        return bool(known[PROMOTED])
    others = _probes(connection, study.id)
    gone_on = [probe for probe, is_promoted in others if is_promoted]
    earns = promotion.earns_fine_tuning(value, earlier=[probe for probe, _ in others], promoted=gone_on, share=study.spec.training.promote)
    is_promoted = number == 0 or earns
    tables.put(connection, TRIAL_USER, trial_id, {PROBE_ACCURACY: value, PROMOTED: is_promoted})
    return is_promoted


def _probes(connection: Connection, study_id: int) -> list[tuple[float, bool]]:
    """Value of each probe, and whether its trial went on."""
    query = (
        select(TRIALS.c.trial_id, TRIAL_USER.c.key, TRIAL_USER.c.value_json)
        .join(TRIAL_USER, TRIAL_USER.c.trial_id == TRIALS.c.trial_id)
        .where(TRIALS.c.study_id == study_id, TRIAL_USER.c.key.in_([PROBE_ACCURACY, PROMOTED]))
    )
    found: dict[int, dict[str, float]] = {}
    for trial_id, key, text in connection.execute(query):
        found.setdefault(trial_id, {})[key] = json.loads(text)
    return [(attributes[PROBE_ACCURACY], bool(attributes[PROMOTED])) for attributes in found.values()]
