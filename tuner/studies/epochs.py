"""The epochs of a trial, into and out of the storage."""

import math
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, insert, select

from tuner.protocol.messages import Epoch
from tuner.storage import tables
from tuner.storage.tables import EPOCHS
from tuner.studies.study import Study

_MEASURES = ("loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate", "seconds")


def put(connection: Connection, study: Study, *, number: int, trial_id: int, epochs: Sequence[Epoch]) -> None:
    """Store epochs, and for pruners and samplers the best validation accuracy so far; a step that is stored stays as it is."""
    if not epochs:
        return
    fresh = values(tables.intermediate_values(connection, trial_id), epochs)
    if not fresh:
        return
    tables.put_intermediate_values(connection, trial_id, fresh)
    connection.execute(insert(EPOCHS), [_row(study.id, number, epoch) for epoch in epochs if epoch.step in fresh])


def values(known: Mapping[int, float], epochs: Sequence[Epoch]) -> dict[int, float]:
    """The best validation accuracy so far at each of some epochs, less those that are known."""
    found: dict[int, float] = {}
    for epoch in sorted(epochs, key=lambda epoch: epoch.step):
        if epoch.step not in known:
            earlier = [value for other, value in (*known.items(), *found.items()) if other < epoch.step]
            accuracy = epoch.validation_accuracy if math.isfinite(epoch.validation_accuracy) else 0.0
            found[epoch.step] = max([accuracy, *earlier])
    return found


def read(connection: Connection, study: Study, number: int) -> list[Epoch]:
    """The epochs of a trial as they were measured, in order."""
    query = select(EPOCHS).where(EPOCHS.c.study_id == study.id, EPOCHS.c.trial_number == number).order_by(EPOCHS.c.step)
    rows = connection.execute(query).mappings()
    return [
        Epoch(
            trial=number, stage=row["stage"], step=row["step"], **{name: math.nan if row[name] is None else row[name] for name in _MEASURES}
        )
        for row in rows
    ]


def _row(study_id: int, number: int, epoch: Epoch) -> dict[str, object]:
    measures = {name: getattr(epoch, name) for name in _MEASURES}
    # SQLite stores no NaN, and MySQL no infinity
    finite = {name: value if math.isfinite(value) else None for name, value in measures.items()}
    return {"study_id": study_id, "trial_number": number, "step": epoch.step, "stage": epoch.stage.value, **finite}
