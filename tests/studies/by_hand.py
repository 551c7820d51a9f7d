"""Trials trained by hand: the messages of a trainer without a trainer."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy

from tuner.protocol import messages
from tuner.protocol.messages import Ending, Epoch, Stage
from tuner.spec import file as study_file
from tuner.spec.study import StudySpec, images_of
from tuner.storage import tables
from tuner.storage.engine import Storage
from tuner.studies import trials
from tuner.studies.study import Study
from tuner.studies.trials import Claim, WorkerId

PREPARED = messages.Prepared(
    device="cpu, 2 threads",
    classes=("cat", "dog"),
    num_train=1000,
    num_validation=200,
    num_test=200,
    epochs=4,
    fingerprint="f" * 64,
    splits="5" * 64,
    versions={"keras": "3"},
    seconds=1.0,
)
#: a short trial: steps 1 and 2 are the probe, 3 to 6 the fine-tuning
SHORT = {"probe_epochs": 2, "epochs": 4}


def spec(**sections: Any) -> StudySpec:
    return images_of(study_file.parse({"name": "by-hand", "data": {"source": "digits"}, "training": SHORT} | sections, "by_hand.yaml"))


def claim(study: Study, worker: WorkerId | None = None) -> Claim | None:
    return trials.claim(study, worker or WorkerId.here("hand"), num_train=1000, num_classes=2, epochs=4)


def must_claim(study: Study, worker: WorkerId | None = None) -> Claim:
    claimed = claim(study, worker)
    assert claimed is not None
    return claimed


def epochs(claimed: Claim, accuracies: Sequence[float], *, first: int = 1, probe_epochs: int = 2) -> list[Epoch]:
    return [
        Epoch(
            trial=claimed.number,
            stage=Stage.PROBE if step <= probe_epochs else Stage.FINE_TUNE,
            step=step,
            loss=1.0,
            accuracy=0.5,
            validation_loss=1.0,
            validation_accuracy=accuracy,
            learning_rate=1e-3,
            seconds=2.0,
        )
        for step, accuracy in enumerate(accuracies, first)
    ]


def finished(claimed: Claim, value: float | None, *, ending: Ending = Ending.COMPLETED, reason: str = "") -> messages.Finished:
    return messages.Finished(
        trial=claimed.number,
        ending=ending,
        reason=reason,
        value=value,
        best_step=1,
        confusion=((9, 1), (2, 8)),
        weights="/weights.h5",
        probe_seconds=2.0,
        fine_tune_seconds=8.0,
    )


def finish(study: Study, claimed: Claim, value: float | None, **how: Any) -> None:
    trials.finish(study, claimed, finished(claimed, value, **how), [], device=PREPARED.device)


def failed(claimed: Claim, error: str = "MemoryError", **how: Any) -> messages.Failed:
    return messages.Failed(trial=claimed.number, error=error, message="it was too much", **how)


def grow_old(study: Study, seconds: float) -> None:
    """Move the last heartbeat of every worker back by some seconds."""
    aged = sqlalchemy.update(tables.LEASES).where(tables.LEASES.c.study_id == study.id)
    study.storage.write(lambda connection: connection.execute(aged.values(seen_at=tables.LEASES.c.seen_at - seconds)))


@contextlib.contextmanager
def statements(storage: Storage) -> Iterator[list[str]]:
    """Collect the statements that the `with` block sends to the database."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        seen.append(statement)

    sqlalchemy.event.listen(storage.engine, "before_cursor_execute", note)
    yield seen
    sqlalchemy.event.remove(storage.engine, "before_cursor_execute", note)
