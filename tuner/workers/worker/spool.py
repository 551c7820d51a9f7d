"""What a worker could not deliver into a file that outlives it, and the files of workers that are gone into what is to be delivered.

A file an attempt: a line that says whose it is, a line an epoch, then the outcome. Its writer holds a lock on it that the system takes back
when the writer ends, however it ends.
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
    """Whose attempt it is; the first line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["origin"] = "origin"
    study: str
    worker: str
    #: what the worker trains on
    device: str
    claim: Claim


_Record = Annotated[SpoolHeader | messages.Epoch | messages.Finished | messages.Failed, Field(discriminator="kind")]
_RECORD: TypeAdapter[_Record] = TypeAdapter(_Record)


@dataclass(frozen=True, kw_only=True)
class Undelivered:
    """What a worker that is gone has left."""

    path: Path
    #: None: the file cannot be understood
    origin: SpoolHeader | None
    epochs: tuple[messages.Epoch, ...]
    #: None: the trial had not ended
    outcome: Outcome | None


class Spool:
    """The file of one attempt; there is none before something is kept."""

    def __init__(self, folder: Path, origin: SpoolHeader) -> None:
        claim = origin.claim
        self.path = folder / f"trial-{claim.number:05d}-attempt-{claim.attempt}-{claim.worker_key}.jsonl"
        self._origin = origin
        self._file: FileIO | None = None
        self._num_bytes = 0
        self._num_kept = 0

    @property
    def is_used(self) -> bool:
        """Whether something is kept."""
        return self._file is not None

    def keep(self, records: Sequence[messages.Epoch | Outcome]) -> None:
        """Have these records in the file; those from an earlier call come first and are there already.

        Raises:
            OSError: there is no room, for example; what is in the file by then is whole.
        """
        if not records:
            return
        file = self._file = self._file or self._begin()
        for record in records[self._num_kept :]:
            self._append(file, record)
            self._num_kept += 1
            if not isinstance(record, messages.Epoch):
                os.fsync(file.fileno())

    def remove(self) -> None:
        """All is delivered: keep nothing."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Leave what is kept to others."""
        if self._file is not None:
            self._file.close()
        self._file, self._num_bytes, self._num_kept = None, 0, 0

    def _begin(self) -> FileIO:
        """A file that others see only when it is locked."""
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


def left(folder: Path) -> Iterator[Undelivered]:
    """What workers that are gone have left in a folder, the oldest first; no one else takes a file while the loop looks at it."""
    for path in sorted(folder.glob("*.jsonl"), key=_age):
        # opened for writing, without which a network file system gives no such lock
        with contextlib.suppress(FileNotFoundError, PermissionError), path.open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # its writer lives, or another worker is at it; or there are no locks, and no one can tell
                continue
            if os.fstat(file.fileno()).st_nlink:
                yield _read(path, file.read().splitlines(keepends=True))


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _read(path: Path, lines: Sequence[bytes]) -> Undelivered:
    """What can be read up to the first line that is torn."""
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
    return Undelivered(path=path, origin=origin, epochs=epochs, outcome=outcome)
