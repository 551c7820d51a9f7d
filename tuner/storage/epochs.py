"""Epochs: what was measured in each epoch of a trial."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from sqlalchemy import Connection, RowMapping, insert, select

from tuner.protocol import messages
from tuner.protocol.messages import Stage
from tuner.spec.objective import ImageObjective, Objective
from tuner.spec.study import AnyStudySpec
from tuner.storage import tables
from tuner.storage.tables import EPOCHS

_MEASURES = ("loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate", "seconds")

#: worse than every value that a metric has; databases do not store infinity in this column
HUGE = 1e300


@dataclass(frozen=True, kw_only=True)
class EpochRow:
    """One epoch as it is stored.

    A measure is None if it was not finite, because SQLite stores no NaN, and MySQL no infinity; or if the task does not know it.
    """

    #: counted from 1 through all stages
    step: int
    stage: Stage
    loss: float | None
    accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float | None
    #: duration of the epoch
    seconds: float | None
    #: the metric that the study optimizes
    value: float | None = None
    #: all other metrics that were reported, the finite ones
    metrics: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, epoch: messages.Epoch) -> Self:
        """Return the row that stores a trainer's message."""
        measures = {name: _finite(getattr(epoch, name)) for name in _MEASURES}
        metrics = {name: value for name, value in epoch.metrics.items() if math.isfinite(value)}
        return cls(step=epoch.step, stage=epoch.stage, **measures, value=_finite(epoch.measured), metrics=metrics)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def put(connection: Connection, study_id: int, *, number: int, trial_id: int, epochs: Sequence[messages.Epoch], spec: AnyStudySpec) -> None:
    """Store epochs, and for pruners and samplers the best value so far. A stored step is never overwritten."""
    if not epochs:
        return
    fresh = best_so_far(tables.intermediate_values(connection, trial_id), epochs, spec)
    if not fresh:
        return
    tables.put_intermediate_values(connection, trial_id, fresh)
    owner = {"study_id": study_id, "trial_number": number}
    first = {epoch.step: epoch for epoch in reversed(epochs) if epoch.step in fresh}
    rows = [owner | _plain(EpochRow.of(epoch)) for _, epoch in sorted(first.items())]
    connection.execute(insert(EPOCHS), rows)


def _plain(row: EpochRow) -> dict[str, Any]:
    return asdict(row) | {"stage": row.stage.value, "metrics": json.dumps(dict(row.metrics)) if row.metrics else None}


def best_so_far(known: Mapping[int, float], epochs: Sequence[messages.Epoch], spec: AnyStudySpec) -> dict[int, float]:
    """Return the best value so far at each of some epochs, without the steps that are known; the value itself if the study wants that.

    A value that is not finite counts as the worst so far; for an accuracy, as 0.
    """
    objective, found = spec.objective, dict[int, float]()
    for epoch in sorted(epochs, key=lambda epoch: epoch.step):
        if epoch.step not in known and epoch.step not in found:
            before = (*known.items(), *found.items()) if spec.reports_best else ()
            earlier = [value for other, value in before if other < epoch.step]
            measured = [epoch.measured] if math.isfinite(epoch.measured) else []
            best = objective.best([*measured, *earlier])
            found[epoch.step] = _worst(objective) if best is None else best
    return found


def _worst(objective: Objective) -> float:
    """Return the value of an epoch whose metric is not finite, if none before it was: one that every finite value beats."""
    if objective.maximizes:
        return 0.0 if isinstance(objective, ImageObjective) else -HUGE
    return HUGE


def is_measured(value: float | None) -> bool:
    """Return whether a stored value for pruners was measured; not if it stands for epochs whose metric was not finite."""
    return value is not None and abs(value) != HUGE


def read(connection: Connection, study_id: int, number: int) -> tuple[EpochRow, ...]:
    """Return the stored epochs of a trial in order."""
    columns = [EPOCHS.c[name] for name in EpochRow.__dataclass_fields__]
    query = select(*columns).where(EPOCHS.c.study_id == study_id, EPOCHS.c.trial_number == number).order_by(EPOCHS.c.step)
    return tuple(_read(row) for row in connection.execute(query).mappings())


def _read(row: RowMapping) -> EpochRow:
    """Return a stored epoch; a row of an earlier version has the validation accuracy as its value."""
    value = row["validation_accuracy"] if row["value"] is None and row["metrics"] is None else row["value"]
    metrics = json.loads(row["metrics"]) if row["metrics"] else {}
    return EpochRow(**dict(row) | {"stage": Stage(row["stage"]), "value": value, "metrics": metrics})
