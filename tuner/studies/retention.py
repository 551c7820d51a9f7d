"""Retention: which trials keep their weights, from which the ensemble of a study is formed.

A study keeps the weights of trial 0, of its best fine-tuned trials (`results.keep`), of each trial that was the best when it ended, and of
every version. A trial that is no longer among them loses its weights, but keeps the logits of its validation images.
"""

import json
from dataclasses import dataclass

from sqlalchemy import Connection, select

from tuner.storage import queries, tables
from tuner.storage.attributes import LOGITS, WEIGHTS
from tuner.storage.queries import VALUED
from tuner.storage.tables import TRIAL_USER, VERSIONS
from tuner.studies.study import Study


@dataclass(frozen=True, kw_only=True)
class StoredWeights:
    """The weights of a completed trial."""

    trial_id: int
    number: int
    value: float
    #: path or URL
    weights: str
    #: path or URL of the logits of its validation images; None for a trial that was not fine-tuned, or of an earlier version of tuner
    logits: str | None


def is_among_best(study: Study, value: float, *, is_fine_tuned: bool) -> bool:
    """Return whether a trial of this value keeps its weights: no better trial has completed, or few better ones if it was fine-tuned."""
    most = study.spec.results.keep if is_fine_tuned else 1
    better = queries.ranked(study.id).where(VALUED.c.value > value).limit(most)
    return len(study.storage.read(lambda connection: connection.execute(better).all())) < most


def stored(study: Study) -> list[StoredWeights]:
    """Return the completed trials with stored weights, the best first."""
    return study.storage.read(lambda connection: _stored(connection, study.id))


def overtaken(study: Study) -> list[StoredWeights]:
    """Return fine-tuned trials whose weights are stored although they are no longer among the best."""

    def read(connection: Connection) -> list[StoredWeights]:
        fine_tuned = [one for one in _stored(connection, study.id) if one.logits is not None]
        late = [one for one in fine_tuned[study.spec.results.keep :] if one.number != 0]
        if not late:
            return []
        used = set(connection.execute(select(VERSIONS.c.artifact).where(VERSIONS.c.deleted_at.is_(None))).scalars())
        return [one for one in late if one.weights not in used]

    return study.storage.read(read)


def forget(study: Study, trial_id: int) -> None:
    """Record that the weights of a trial are not stored any more."""
    study.storage.write(lambda connection: tables.remove(connection, TRIAL_USER, trial_id, WEIGHTS))


def _stored(connection: Connection, study_id: int) -> list[StoredWeights]:
    kept, logits = TRIAL_USER.alias("kept"), TRIAL_USER.alias("logits")
    query = (
        queries.ranked(study_id)
        .add_columns(kept.c.value_json, logits.c.value_json)
        .join(kept, (kept.c.trial_id == VALUED.c.trial_id) & (kept.c.key == WEIGHTS))
        .outerjoin(logits, (logits.c.trial_id == VALUED.c.trial_id) & (logits.c.key == LOGITS))
    )
    found = []
    for trial_id, number, value, weights, predicted in connection.execute(query):
        location = json.loads(weights)
        if isinstance(location, str):
            one = StoredWeights(
                trial_id=trial_id,
                number=number,
                value=value,
                weights=location,
                logits=None if predicted is None else json.loads(predicted),
            )
            found.append(one)
    return found
