"""Retention: which trials keep their weights, from which the ensemble of a study is formed.

A study keeps the weights of trial 0, of its best fine-tuned trials (`results.keep` and `results.keep_gb`), and of every version. A trial
that is no longer among them loses its weights, but keeps the logits of its validation images. A trial that ended with its probe keeps its
weights if it was the best trial when it ended.

A few trials that exceed only the limit of the latency, and by little, keep their weights beside these: they may keep the limit when they
are measured again at the end of a run.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Select, select

from tuner.spec.objective import is_near
from tuner.storage import queries, tables
from tuner.storage.attributes import DEVICE, INFEASIBLE, LATENCY_MS, LOGITS, MEASURED_ALONE, SIZE_MB, WEIGHTS, WEIGHTS_BYTES, WORKER
from tuner.storage.queries import VALUED
from tuner.storage.tables import TRIAL_USER, VERSIONS
from tuner.studies.study import Study

#: number of trials that are measured again at the end of a run, and of those that keep their weights for it
NUM_FINALISTS = 5


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


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A completed trial that may win, and whose latency was measured while others trained."""

    stored: StoredWeights
    #: milliseconds of one example
    latency_ms: float
    #: why it does not keep the constraints; "" if it does
    exceeds: str
    #: host that trained it, and its device
    host: str
    device: str


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


def is_finalist(study: Study, value: float) -> bool:
    """Return whether a trial that exceeds the latency by little keeps its weights: few better ones of this kind have stored theirs."""
    near = [one for one in finalists(study) if one.exceeds]
    return sum(study.spec.objective.is_better(one.stored.value, value) for one in near) < NUM_FINALISTS


def finalists(study: Study) -> list[Finalist]:
    """Return the trials with stored weights that keep the constraints or nearly do, and were not measured alone, the best first."""
    if LATENCY_MS not in study.spec.limits:
        return []
    return study.storage.read(lambda connection: _finalists(connection, study))


def _finalists(connection: Connection, study: Study) -> list[Finalist]:
    found = []
    for one in _stored(connection, study.id, queries.completed(study.id)):
        names = (LATENCY_MS, SIZE_MB, INFEASIBLE, MEASURED_ALONE, WORKER, DEVICE)
        known = tables.get(connection, TRIAL_USER, one.trial_id, *names)
        costs: dict[str, float] = {name: known[name] for name in (LATENCY_MS, SIZE_MB) if name in known}
        if LATENCY_MS in costs and MEASURED_ALONE not in known and is_near(study.spec.limits, costs):
            host, device = str(known.get(WORKER, "")).rpartition("/")[0], str(known.get(DEVICE, ""))
            given = {"latency_ms": costs[LATENCY_MS], "exceeds": known.get(INFEASIBLE, ""), "host": host, "device": device}
            found.append(Finalist(stored=one, **given))
    return found


def overtaken(study: Study) -> list[StoredWeights]:
    """Return fine-tuned trials whose weights are stored although they are no longer among the best."""

    def read(connection: Connection) -> list[StoredWeights]:
        fine_tuned = [one for one in _stored(connection, study.id) if _is_trained(study, one)]
        late = [one for one in fine_tuned[len(among_best(study, fine_tuned)) :] if one.number != 0]
        late += _exceeding(connection, study)
        if not late:
            return []
        used = set(connection.execute(select(VERSIONS.c.artifact).where(VERSIONS.c.deleted_at.is_(None))).scalars())
        return [one for one in late if one.weights not in used]

    return study.storage.read(read)


def _exceeding(connection: Connection, study: Study) -> list[StoredWeights]:
    """Return trials that do not keep the constraints, and whose weights are stored although they cannot win."""
    if LATENCY_MS not in study.spec.limits:
        return []
    feasible = {one.trial_id for one in _stored(connection, study.id)}
    near = [one.stored for one in _finalists(connection, study) if one.exceeds]
    kept = {one.trial_id for one in among_best(study, near[:NUM_FINALISTS])}
    stored = _stored(connection, study.id, queries.completed(study.id))
    return [one for one in stored if one.number != 0 and one.trial_id not in feasible | kept]


def _is_trained(study: Study, one: StoredWeights) -> bool:
    """Return whether a trial was fine-tuned; trials of user code have one stage, which counts as that."""
    return one.logits is not None or not study.is_of_images


def forget(study: Study, trial_id: int) -> None:
    """Record that the weights of a trial are not stored any more."""
    study.storage.write(lambda connection: tables.remove(connection, TRIAL_USER, trial_id, WEIGHTS, WEIGHTS_BYTES))


def _stored(connection: Connection, study_id: int, ranking: Select[int, int, float] | None = None) -> list[StoredWeights]:
    kept, logits, sizes = (TRIAL_USER.alias(name) for name in ("kept", "logits", "sizes"))
    query = (
        (queries.ranked(study_id) if ranking is None else ranking)
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
