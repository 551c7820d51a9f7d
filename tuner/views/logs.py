"""Logs: what happened in a study, as lines, read from the storage on any machine."""

from dataclasses import dataclass

from sqlalchemy import Connection, select

from tuner import wording
from tuner.errors import StudyError
from tuner.storage import epochs, tables
from tuner.storage.attributes import LOG, MESSAGE
from tuner.storage.tables import LEASES, TRIAL_SYSTEM, TRIAL_USER
from tuner.studies.leases import LeaseEnding
from tuner.studies.study import Study

#: attempts that are shown of a whole study, the latest
_MAX_ATTEMPTS = 1_000


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line of a log."""

    #: seconds since the epoch by the database's clock; None: it belongs to the line before
    at: float | None
    text: str


def read(study: Study, trial: int | None = None) -> list[LogLine]:
    """Return the lines of a study: its attempts and failures; of one trial also its epochs, and what its code wrote before it failed.

    Raises:
        StudyError: the study has no such trial.
    """
    return study.storage.read(lambda connection: _read(connection, study, trial))


def _read(connection: Connection, study: Study, trial: int | None) -> list[LogLine]:
    query = select(LEASES).where(LEASES.c.study_id == study.id)
    if trial is not None:
        if tables.state_of(connection, study.id, trial) is None:
            raise StudyError(f"the study {study.name} has no trial {trial}; list its trials with: tuner status {study.name}")
        query = query.where(LEASES.c.trial_number == trial)
    rows = connection.execute(query.order_by(LEASES.c.started_at.desc()).limit(_MAX_ATTEMPTS)).all()
    found: list[LogLine] = []
    for row in reversed(rows):
        subject = f"{study.name} trial {row.trial_number}"
        began = "started" if row.attempt == 1 else f"resumed (attempt {row.attempt})"
        found.append(LogLine(at=row.started_at, text=f"{subject} {began} [{row.worker}]"))
        if row.ended_at is not None:
            known = tables.get(connection, TRIAL_USER, row.trial_id, MESSAGE) if row.ending == LeaseEnding.FAILED else {}
            reason = f": {wording.one_line(str(known[MESSAGE]))}" if MESSAGE in known else ""
            found.append(LogLine(at=row.ended_at, text=f"{subject} {_ENDINGS.get(row.ending, row.ending)}{reason} [{row.worker}]"))
    found.sort(key=lambda line: line.at or 0.0)
    return found if trial is None else [*found, *_details(connection, study, trial)]


#: words for the ending of an attempt
_ENDINGS = {LeaseEnding.RELEASED.value: "suspended", LeaseEnding.LOST.value: "lost its worker"}


def _details(connection: Connection, study: Study, trial: int) -> list[LogLine]:
    found = []
    for epoch in epochs.read(connection, study.id, trial):
        seconds = "" if epoch.seconds is None else f" {epoch.seconds:.1f} s"
        stage = epoch.stage.value.replace("_", "-")
        found.append(LogLine(at=None, text=f"epoch {epoch.step} {stage} value {wording.figure(epoch.value)}{seconds}"))
    trial_id = tables.trial_id(connection, study.id, trial)
    written = tables.get(connection, TRIAL_SYSTEM, trial_id, LOG).get(LOG, "")
    return [*found, *(LogLine(at=None, text=line) for line in str(written).splitlines())]
