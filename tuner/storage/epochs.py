"""Epochs: what was measured in each epoch of a trial."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from sqlalchemy import Connection, insert, select

from tuner.protocol import messages
from tuner.protocol.messages import Stage
from tuner.storage import tables
from tuner.storage.tables import EPOCHS

_MEASURES = ("loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate", "seconds")


@dataclass(frozen=True, kw_only=True)
class EpochRow:
    """One epoch as it is stored. A measure is None if it was not finite: SQLite stores no NaN, and MySQL no infinity."""

    #: counted from 1 through both stages
    step: int
    stage: Stage
    loss: float | None
    accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float | None
    #: duration of the epoch
    seconds: float | None

    @classmethod
    def of(cls, epoch: messages.Epoch) -> Self:
        """Return the row that stores a trainer's message."""
        measures = {name: getattr(epoch, name) for name in _MEASURES}
        finite = {name: value if math.isfinite(value) else None for name, value in measures.items()}
        return cls(step=epoch.step, stage=epoch.stage, **finite)


def put(connection: Connection, study_id: int, *, number: int, trial_id: int, epochs: Sequence[messages.Epoch]) -> None:
    """Store epochs, and for pruners and samplers the best validation accuracy so far. A stored step is never overwritten."""
    if not epochs:
        return
    fresh = best_so_far(tables.intermediate_values(connection, trial_id), epochs)
    if not fresh:
        return
    tables.put_intermediate_values(connection, trial_id, fresh)
    owner = {"study_id": study_id, "trial_number": number}
    rows = [owner | asdict(EpochRow.of(epoch)) | {"stage": epoch.stage.value} for epoch in epochs if epoch.step in fresh]
    connection.execute(insert(EPOCHS), rows)


def best_so_far(known: Mapping[int, float], epochs: Sequence[messages.Epoch]) -> dict[int, float]:
    """Return the best validation accuracy so far at each of some epochs, without the steps that are known."""
    found: dict[int, float] = {}
    for epoch in sorted(epochs, key=lambda epoch: epoch.step):
        if epoch.step not in known:
            earlier = [value for other, value in (*known.items(), *found.items()) if other < epoch.step]
            accuracy = epoch.validation_accuracy if math.isfinite(epoch.validation_accuracy) else 0.0
            found[epoch.step] = max([accuracy, *earlier])
    return found


def read(connection: Connection, study_id: int, number: int) -> tuple[EpochRow, ...]:
    """Return the stored epochs of a trial in order."""
    columns = [EPOCHS.c[name] for name in EpochRow.__dataclass_fields__]
    query = select(*columns).where(EPOCHS.c.study_id == study_id, EPOCHS.c.trial_number == number).order_by(EPOCHS.c.step)
    return tuple(EpochRow(**dict(row) | {"stage": Stage(row["stage"])}) for row in connection.execute(query).mappings())
