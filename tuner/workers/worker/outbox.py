"""Outbox: the reports of a trial on their way to the storage, on disk while the storage cannot be reached.

Undelivered reports of an attempt go to a spool file of its own: a header line, a line for each epoch, then the outcome. The worker locks
the file. The operating system releases the lock when the worker ends, even if it was killed; then another worker delivers the file.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tuner import wording
from tuner.protocol import messages
from tuner.protocol.messages import Ending
from tuner.studies import trials
from tuner.studies.study import Study
from tuner.studies.trials import Claim, Delivery
from tuner.workers.bucket import transfer
from tuner.workers.worker.events import EventEmitter, EventKind

Outcome = messages.Finished | messages.Failed


class SpoolHeader(BaseModel):
    """The first line: whose reports these are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["origin"] = "origin"
    study: str
    worker: str
    #: device of the trainer
    device: str
    claim: Claim


_Record = Annotated[SpoolHeader | messages.Epoch | messages.Finished | messages.Failed, Field(discriminator="kind")]
_RECORD: TypeAdapter[_Record] = TypeAdapter(_Record)


@dataclass(frozen=True, kw_only=True)
class AbandonedSpool:
    """The file of an ended worker."""

    path: Path
    #: None if the file cannot be read
    origin: SpoolHeader | None
    epochs: tuple[messages.Epoch, ...]
    #: None if the trial had not ended
    outcome: Outcome | None


class Outbox:
    """The reports of one claim, in order: in memory, and on disk as well once a delivery has failed."""

    def __init__(self, claim: Claim, spool: "Spool", events: EventEmitter) -> None:
        self.claim = claim
        self._spool = spool
        self._events = events
        self._unsent: list[messages.Epoch] = []
        self._steps: set[int] = set()
        self._is_memory_only = False
        #: every epoch of this claim once, also those of a replaced trainer
        self.curve: list[messages.Epoch] = []
        #: whether the last delivery failed
        self.is_waiting = False

    @property
    def unsent(self) -> Sequence[messages.Epoch]:
        """Epochs that are not delivered."""
        return tuple(self._unsent)

    @property
    def location(self) -> str:
        """Location of undelivered reports: the path of the file, or `memory`."""
        return str(self._spool.path) if self.is_on_disk else "memory"

    @property
    def is_on_disk(self) -> bool:
        """Whether all undelivered reports outlive this process."""
        return self._spool.is_used and not self._is_memory_only

    def add(self, epoch: messages.Epoch) -> None:
        """Add an epoch; a known step is ignored, as the storage does."""
        if epoch.step not in self._steps:
            self._steps.add(epoch.step)
            self.curve.append(epoch)
            self._unsent.append(epoch)
            if self.is_waiting:
                self.save()

    def save(self, outcome: Outcome | None = None) -> None:
        """Write all undelivered reports to disk after a delivery has failed."""
        self.is_waiting = True
        try:
            self._spool.write([*self._unsent, *([] if outcome is None else [outcome])])
            self._is_memory_only = False
        except OSError as error:
            if not self._is_memory_only:
                warning = f"the reports for the storage cannot be written to disk ({error}); they stay in memory"
                self._events.warn(warning, self.claim.number)
            self._is_memory_only = True

    def clear(self) -> None:
        """Forget all reports, because they are delivered or not needed any more."""
        self.is_waiting = False
        self._unsent.clear()
        self._spool.remove()

    def close(self) -> None:
        """Leave undelivered reports on disk to the next worker."""
        self._spool.close()


class AbandonedReports:
    """Delivers the reports that ended workers of a study left on disk; warns once of each file that it cannot deliver."""

    def __init__(self, study: Study, folder: Path, events: EventEmitter) -> None:
        self._study = study
        self._folder = folder
        self._events = events
        self._skipped: set[Path] = set()

    def deliver(self) -> None:
        """Deliver all files; without files, this costs no statement.

        Raises:
            StorageError: the storage cannot be reached; the remaining files stay.
        """
        for file in abandoned_spools(self._folder):
            if file.path in self._skipped:
                continue
            if file.origin is None:
                self._skip(file.path, "it cannot be read")
                continue
            claim = file.origin.claim
            delivery = trials.deliver(self._study, claim, file.epochs, file.outcome, device=file.origin.device)
            if delivery is Delivery.UNKNOWN:
                self._skip(file.path, "it belongs to another study, or to a deleted one")
                continue
            file.path.unlink(missing_ok=True)
            if file.outcome is not None and delivery is not Delivery.TOO_LATE:
                transfer.delete_checkpoint(self._folder.parent / f"trial-{claim.number:05d}")
            self._emit(file, file.origin, delivery)

    def _skip(self, path: Path, why: str) -> None:
        self._skipped.add(path)
        self._events.warn(f"{path} cannot be delivered: {why}; delete it if you do not need it")

    def _emit(self, file: AbandonedSpool, origin: SpoolHeader, delivery: Delivery) -> None:
        trial, content = origin.claim.number, f"{_content(file)} from {origin.worker}, which has ended"
        if delivery is Delivery.TOO_LATE:
            self._events.emit(EventKind.LOST, trial, message=f"{content}: the trial ended without them")
            return
        self._events.emit(EventKind.DELIVERED, trial, message=content)
        match file.outcome:
            case messages.Finished(ending=ending, value=value, reason=reason):
                what = EventKind.COMPLETED if ending is Ending.COMPLETED else EventKind.PRUNED
                self._events.emit(what, trial, value=value, message=reason)
            case messages.Failed(error=error, message=message):
                self._events.emit(EventKind.FAILED, trial, message=f"{error}: {message}")


def _content(file: AbandonedSpool) -> str:
    parts = [wording.count(len(file.epochs), "epoch")] if file.epochs else []
    parts += [] if file.outcome is None else ["the outcome"]
    return " and ".join(parts) or "nothing"


class Spool:
    """The file of one attempt; it does not exist before the first record."""

    def __init__(self, folder: Path, origin: SpoolHeader) -> None:
        claim = origin.claim
        self.path = folder / f"trial-{claim.number:05d}-attempt-{claim.attempt}-{claim.worker_key}.jsonl"
        self._origin = origin
        self._file: FileIO | None = None
        self._num_bytes = 0
        self._num_written = 0

    @property
    def is_used(self) -> bool:
        """Whether the file holds records."""
        return self._file is not None

    def write(self, records: Sequence[messages.Epoch | Outcome]) -> None:
        """Write these records to the file; the records of earlier calls come first and are already there.

        Raises:
            OSError: the disk is full, for example; the file then holds whole records only.
        """
        if not records:
            return
        file = self._file = self._file or self._begin()
        for record in records[self._num_written :]:
            self._append(file, record)
            self._num_written += 1
            if not isinstance(record, messages.Epoch):
                os.fsync(file.fileno())

    def remove(self) -> None:
        """Delete the file after all records are delivered."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Unlock the file, so that another worker delivers it."""
        if self._file is not None:
            self._file.close()
        self._file, self._num_bytes, self._num_written = None, 0, 0

    def _begin(self) -> FileIO:
        """Return a new file that is locked before others can see it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        file = FileIO(part, "w")
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._append(file, self._origin)
            part.rename(self.path)
        except OSError:
            file.close()
            part.unlink(missing_ok=True)
            self._num_bytes = 0
            raise
        return file

    def _append(self, file: FileIO, record: _Record) -> None:
        line = f"{record.model_dump_json()}\n".encode()
        try:
            written = 0
            while written < len(line):
                written += file.write(line[written:]) or 0
        except OSError:
            file.truncate(self._num_bytes)
            file.seek(self._num_bytes)
            raise
        self._num_bytes += len(line)


def abandoned_spools(folder: Path) -> Iterator[AbandonedSpool]:
    """Yield the files of ended workers in a folder, the oldest first; each is locked while the caller uses it."""
    for path in sorted(folder.glob("*.jsonl"), key=_age):
        # opened for writing, because a network file system gives no exclusive lock otherwise
        with contextlib.suppress(FileNotFoundError, PermissionError), path.open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # its worker runs, or another one delivers it, or the file system has no locks
                continue
            if os.fstat(file.fileno()).st_nlink:
                yield _read(path, file.read().splitlines(keepends=True))


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _read(path: Path, lines: Sequence[bytes]) -> AbandonedSpool:
    """Read the records up to the first incomplete line."""
    records = []
    for line in lines:
        try:
            records.append(_RECORD.validate_json(line))
        except ValidationError:
            break
        if not line.endswith(b"\n"):
            break
    origin = records[0] if records and isinstance(records[0], SpoolHeader) else None
    epochs = tuple(record for record in records if isinstance(record, messages.Epoch))
    outcome = next((record for record in records if isinstance(record, messages.Finished | messages.Failed)), None)
    return AbandonedSpool(path=path, origin=origin, epochs=epochs, outcome=outcome)
