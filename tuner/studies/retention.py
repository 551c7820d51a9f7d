"""Retention: which trials keep their weights, from which the ensemble of a study is formed.

A study keeps the weights of trial 0, of its best fine-tuned trials (`results.keep` and `results.keep_gb`), and of every version. A trial
that is no longer among them loses its weights, but keeps the logits of its validation images. A trial that ended with its probe keeps its
weights if it was the best trial when it ended.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from tuner.storage import queries, tables
from tuner.storage.attributes import LOGITS, WEIGHTS, WEIGHTS_BYTES
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
    #: size of the weights; 0 for a trial of an earlier version of tuner, which did not store it
    num_bytes: int


def is_among_best(study: Study, value: float, *, is_fine_tuned: bool, num_bytes: int = 0) -> bool:
    """Return whether a trial of this value keeps its weights: no better trial has completed, or few better ones if it was fine-tuned.

    `num_bytes` is the size of its weights, which must fit beside those of the better ones.
    """
    most = study.spec.results.keep if is_fine_tuned else 1
    query = queries.ranked(study.id).where(VALUED.c.merit > study.spec.objective.merit(value)).limit(most)
    num_better = len(study.storage.read(lambda connection: connection.execute(query).all()))
    if not num_better or num_better >= most:
        return not num_better
    is_better = study.spec.objective.is_better
    better = sum(one.num_bytes for one in stored(study) if _is_trained(study, one) and is_better(one.value, value))
    return better + num_bytes <= _most_bytes(study)


def among_best(study: Study, fine_tuned: Sequence[StoredWeights]) -> list[StoredWeights]:
    """Return the first of some fine-tuned trials, the best first, whose weights a study keeps because of their values."""
    total = 0
    found: list[StoredWeights] = []
    for one in fine_tuned[: study.spec.results.keep]:
        total += one.num_bytes
        if found and total > _most_bytes(study):
            break
        found.append(one)
    return found


def _most_bytes(study: Study) -> float:
    return study.spec.results.keep_gb * 1e9


def stored(study: Study) -> list[StoredWeights]:
    """Return the completed trials with stored weights, the best first."""
    return study.storage.read(lambda connection: _stored(connection, study.id))


def overtaken(study: Study) -> list[StoredWeights]:
    """Return fine-tuned trials whose weights are stored although they are no longer among the best."""

    def read(connection: Connection) -> list[StoredWeights]:
        fine_tuned = [one for one in _stored(connection, study.id) if _is_trained(study, one)]
        late = [one for one in fine_tuned[len(among_best(study, fine_tuned)) :] if one.number != 0]
        if not late:
            return []
        used = set(connection.execute(select(VERSIONS.c.artifact).where(VERSIONS.c.deleted_at.is_(None))).scalars())
        return [one for one in late if one.weights not in used]

    return study.storage.read(read)


def _is_trained(study: Study, one: StoredWeights) -> bool:
    """Return whether a trial was fine-tuned; trials of user code have one stage, which counts as that."""
    return one.logits is not None or not study.is_of_images


def forget(study: Study, trial_id: int) -> None:
    """Record that the weights of a trial are not stored any more."""
    study.storage.write(lambda connection: tables.remove(connection, TRIAL_USER, trial_id, WEIGHTS, WEIGHTS_BYTES))


def _stored(connection: Connection, study_id: int) -> list[StoredWeights]:
    kept, logits, sizes = (TRIAL_USER.alias(name) for name in ("kept", "logits", "sizes"))
    query = (
        queries.ranked(study_id)
        .add_columns(kept.c.value_json, logits.c.value_json, sizes.c.value_json)
        .join(kept, (kept.c.trial_id == VALUED.c.trial_id) & (kept.c.key == WEIGHTS))
        .outerjoin(logits, (logits.c.trial_id == VALUED.c.trial_id) & (logits.c.key == LOGITS))
        .outerjoin(sizes, (sizes.c.trial_id == VALUED.c.trial_id) & (sizes.c.key == WEIGHTS_BYTES))
    )
    found = []
    for trial_id, number, value, weights, predicted, size in connection.execute(query):
        location = json.loads(weights)
        if isinstance(location, str):
            one = StoredWeights(
                trial_id=trial_id,
                number=number,
                value=value,
                weights=location,
                logits=None if predicted is None else json.loads(predicted),
                num_bytes=0 if size is None else int(json.loads(size)),
            )
            found.append(one)
    return found
