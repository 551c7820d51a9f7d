"""Spool: undelivered reports of a trial in a file that outlives its worker, and the files of ended workers.

Each attempt at a trial has a file of its own: a header line, a line for each epoch, then the outcome. The worker locks the file. The
operating system releases the lock when the worker ends, however it ends.
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

from tuner.protocol import messages
from tuner.studies.trials import Claim

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


def abandoned(folder: Path) -> Iterator[AbandonedSpool]:
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
