"""File transfer: where a worker keeps the files of its trials, and how other machines get them: through a shared folder or a bucket."""

import contextlib
import importlib.util
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tuner.errors import ArtifactsError, MissingPackage
from tuner.protocol import messages
from tuner.storage import retry
from tuner.storage.retry import Schedule
from tuner.workers.worker.events import EventEmitter
from tuner.workers.worker.stopping import Stopping

if TYPE_CHECKING:
    from tuner.workers.bucket import bucket

#: name of a trial's checkpoint in its folder
CHECKPOINT = "checkpoint"
#: suffix of weights that may not be in the bucket yet; the next worker of this machine uploads them
_DUE = ".due"
#: shortest and longest pause between two tries of an upload while the bucket does not answer
_PAUSE_SECONDS = (1.0, 30.0)
_POLL_SECONDS = 0.2
#: how long the end of a trial waits for the upload of its weights
_WEIGHTS_SECONDS = 60.0
#: how long a suspended trial waits for the upload of its checkpoint; less than the grace period of a container
_SUSPEND_SECONDS = 20.0
#: how long a resumed trial waits for a bucket that does not answer
_FETCH_SECONDS = 60.0
_FETCH_PAUSES_SECONDS = (2.0, 2.0)
#: how long a worker that ends waits for its uploads
_CLOSE_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Place for the files of a worker that are not in the storage."""

    #: decoded images and features, shared by the workers of a host
    cache: Path
    #: weights and checkpoints, in a folder for each study and each trial
    artifacts: Path
    #: s3://BUCKET/PREFIX through which machines share weights and checkpoints; None: they share the folder
    bucket: str | None = None

    def of_study(self, study: str) -> Path:
        """Return the folder of a study's artifacts."""
        return self.artifacts / study

    def of_spool(self, study: str) -> Path:
        """Return the folder of a study's undelivered reports."""
        return self.of_study(study) / "spool"

    def of_trial(self, study: str, trial: int) -> Path:
        """Return the folder of a trial's artifacts."""
        return self.of_study(study) / f"trial-{trial:05d}"


class FileTransfer(Protocol):
    """Reports of a worker that let other machines find the files of its trials."""

    def fetch(self, trial: int) -> Path | None:
        """Return the checkpoint of a resumed trial that another machine uploaded, or None."""

    def checkpoint_written(self, trial: int) -> None:
        """Take note that a checkpoint was written."""

    def with_urls(self, finished: messages.Finished) -> messages.Finished:
        """Return the result with the paths or URLs at which every machine finds its weights and its logits."""

    def send(self, trial: int, path: str) -> None:
        """Store a file of the result permanently."""

    def can_delete(self, location: str) -> bool:
        """Return whether this worker may delete a file of the study."""

    def delete(self, location: str) -> None:
        """Delete a file of the study."""

    def released(self, trial: int) -> None:
        """Prepare the files of a suspended trial for another worker."""

    def lost(self, trial: int) -> None:
        """Stop to change the files of a trial that another worker has."""

    def ended(self, trial: int) -> None:
        """Delete the checkpoint of a trial that has ended."""

    def close(self) -> None:
        """End the transfer when the worker ends."""


def start(folders: Folders, study: str, events: EventEmitter, stopping: Stopping, *, fetch_seconds: float = _FETCH_SECONDS) -> FileTransfer:
    """Start the file transfer of a worker; a resumed trial waits for `fetch_seconds` for a bucket that does not answer.

    Raises:
        ArtifactsError: the bucket cannot be used.
        MissingPackage: boto3 is not installed.
    """
    if folders.bucket is None:
        return SharedFolder(folders, study)
    return SharedBucket(open_bucket(folders.bucket), folders, study, events, stopping, fetch_seconds=fetch_seconds)


def has_pending_uploads(folders: Folders, study: str) -> bool:
    """Return whether an earlier worker of this machine has left weights that are not in the bucket."""
    return folders.bucket is not None and bool(_pending(folders, study))


def _pending(folders: Folders, study: str) -> list[Path]:
    return sorted(folders.of_study(study).glob(f"trial-*/*{_DUE}"))


def open_bucket(url: str) -> "bucket.Bucket":
    """Return the bucket of a URL, without a request to it.

    Raises:
        ArtifactsError: there is no such profile, or the endpoint is not a URL.
        MissingPackage: boto3 is not installed.
    """
    if importlib.util.find_spec("boto3") is None:
        raise MissingPackage("boto3", extra="s3", needed_for=f"--artifacts {url}")
    from tuner.workers.bucket import bucket

    return bucket.Bucket(url)


class SharedFolder:
    """A folder that all workers of the study share, so nothing is copied."""

    def __init__(self, folders: Folders, study: str) -> None:
        self._folders, self._study = folders, study

    def fetch(self, trial: int) -> Path | None:
        """Return None: the checkpoint is in the folder."""
        return None

    def checkpoint_written(self, trial: int) -> None:
        """Do nothing."""

    def with_urls(self, finished: messages.Finished) -> messages.Finished:
        """Return the result unchanged: its files have paths in the folder."""
        return finished

    def send(self, trial: int, path: str) -> None:
        """Do nothing."""

    def can_delete(self, location: str) -> bool:
        """Return whether the file is in the folder of the study: a database may name any file."""
        path, folder = Path(location), self._folders.of_study(self._study)
        return ".." not in path.parts and path.is_relative_to(folder) and path.is_file()

    def delete(self, location: str) -> None:
        """Delete the file."""
        Path(location).unlink(missing_ok=True)

    def released(self, trial: int) -> None:
        """Do nothing."""

    def lost(self, trial: int) -> None:
        """Do nothing: the files belong to the other worker now."""

    def ended(self, trial: int) -> None:
        """Delete the checkpoint and partly written files."""
        delete_checkpoint(self._folders.of_trial(self._study, trial))

    def close(self) -> None:
        """Do nothing."""


class SharedBucket:
    """A bucket for the files that other machines need, beside the folder of this machine."""

    def __init__(
        self, bucket: "bucket.Bucket", folders: Folders, study: str, events: EventEmitter, stopping: Stopping, *, fetch_seconds: float
    ) -> None:
        self._fetch_seconds = fetch_seconds
        self._bucket, self._folders, self._study = bucket, folders, study
        self._events, self._stopping = events, stopping
        self._uploads = Uploads(bucket, events.warn)
        for path in _pending(folders, study):
            self._uploads.move(f"{study}/{path.parent.name}/{path.name.removesuffix(_DUE)}", path)

    def fetch(self, trial: int) -> Path | None:
        """Download the checkpoint; return None if there is none or the bucket does not answer for a minute."""
        path = self._fetched(trial)
        path.unlink(missing_ok=True)
        try:
            is_found = retry.call(
                lambda: self._bucket.fetch(self._key(trial, CHECKPOINT), path),
                may_pass=lambda error: isinstance(error, ArtifactsError) and error.may_pass,
                schedule=Schedule(seconds=self._fetch_seconds, pauses=_FETCH_PAUSES_SECONDS),
                is_unwanted=lambda: self._stopping.is_asked,
                pause=self._stopping.wait,
            )
            return path if is_found else None
        except (ArtifactsError, OSError) as error:
            warning = f"its checkpoint cannot be downloaded: {error}"
            self._events.warn(f"{warning}. The trial resumes from this machine's checkpoint, or starts again", trial)
            return None

    def checkpoint_written(self, trial: int) -> None:
        """Upload the checkpoint in the background."""
        self._uploads.put(self._key(trial, CHECKPOINT), self._folder(trial) / CHECKPOINT)

    def with_urls(self, finished: messages.Finished) -> messages.Finished:
        """Return the result with the URLs of its weights and its logits."""
        files = {"weights": finished.weights, "logits": finished.logits}
        urls = {name: self._bucket.url_of(self._key(finished.trial, Path(path).name)) for name, path in files.items() if path is not None}
        return finished.model_copy(update=urls)

    def can_delete(self, location: str) -> bool:
        """Return whether the file is one of the study in the bucket."""
        return location.startswith(f"{self._bucket.url_of(self._study)}/trial-") and ".." not in location

    def delete(self, location: str) -> None:
        """Delete the file in the background."""
        self._uploads.remove(location.removeprefix(self._bucket.url_of("")))

    def send(self, trial: int, path: str) -> None:
        """Move a file of the result to the bucket; a slow upload continues in the background."""
        due = Path(f"{path}{_DUE}")
        Path(path).replace(due)
        key = self._key(trial, Path(path).name)
        self._uploads.move(key, due)
        self._uploads.wait(key, seconds=_WEIGHTS_SECONDS, unless=lambda: self._uploads.is_unreachable or self._stopping.is_urgent)

    def released(self, trial: int) -> None:
        """Wait for the upload of the checkpoint."""
        key = self._key(trial, CHECKPOINT)
        self._fetched(trial).unlink(missing_ok=True)
        if not self._uploads.wait(key, seconds=_SUSPEND_SECONDS, unless=lambda: self._stopping.is_urgent):
            warning = f"its last checkpoint is on this machine only: {self._folder(trial) / CHECKPOINT}"
            self._events.warn(f"{warning}; other machines resume from the checkpoint before it", trial)

    def lost(self, trial: int) -> None:
        """Cancel the upload, which would overwrite the other worker's checkpoint; the local files may belong to that worker, too."""
        self._uploads.cancel(self._key(trial, CHECKPOINT))

    def ended(self, trial: int) -> None:
        """Delete the checkpoint on this machine and in the bucket."""
        delete_checkpoint(self._folder(trial))
        self._fetched(trial).unlink(missing_ok=True)
        self._uploads.remove(self._key(trial, CHECKPOINT))

    def close(self) -> None:
        """Wait for the uploads, within a time limit."""
        self._uploads.wait(seconds=_CLOSE_SECONDS, unless=lambda: self._uploads.is_unreachable or self._stopping.is_urgent)
        for path in self._uploads.close():
            self._events.warn(f"{path} is not in {self._bucket.url} yet; the next worker of this study on this machine uploads it")

    def _fetched(self, trial: int) -> Path:
        return self._folder(trial) / f"{CHECKPOINT}.fetched"

    def _folder(self, trial: int) -> Path:
        return self._folders.of_trial(self._study, trial)

    def _key(self, trial: int, name: str) -> str:
        return f"{self._study}/{self._folder(trial).name}/{name}"


def delete_checkpoint(folder: Path) -> None:
    """Delete the checkpoints of a trial, and partly written files of killed processes; also its folder, if nothing else is in it."""
    for path in (folder / CHECKPOINT, folder / messages.REPORTS, *folder.glob("*.part")):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / messages.OWN_CHECKPOINTS, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


class UploadTarget(Protocol):
    """Target of uploads."""

    def put(self, key: str, path: Path) -> None:
        """Upload a file, whole or not at all."""

    def remove(self, key: str) -> None:
        """Delete a file if it exists."""


@dataclass(frozen=True, kw_only=True)
class _Upload:
    """Target state of a key in the bucket."""

    #: None: no file
    path: Path | None
    #: whether the local file is deleted after the upload
    is_moved: bool = False


class Uploads:
    """Uploads and deletions in the background, one after another, each retried until it succeeds.

    Of several requests for one key only the latest counts, so the queue is short. `warn` is called once for each outage.
    """

    def __init__(self, target: UploadTarget, warn: Callable[[str], None], *, pauses: tuple[float, float] = _PAUSE_SECONDS) -> None:
        self._pauses = pauses
        self._target, self._warn = target, warn
        self._changed = threading.Condition()
        self._pending: dict[str, _Upload] = {}
        self._current: tuple[str, _Upload] | None = None
        self._is_cancelled = False
        self._closing = threading.Event()
        #: whether the last try failed
        self.is_unreachable = False
        threading.Thread(target=self._run, name="uploads", daemon=True).start()

    def put(self, key: str, path: Path) -> None:
        """Upload a file, with its contents at the time of the upload."""
        self._enqueue(key, _Upload(path=path))

    def move(self, key: str, path: Path) -> None:
        """Upload a file, then delete the local one."""
        self._enqueue(key, _Upload(path=path, is_moved=True))

    def remove(self, key: str) -> None:
        """Delete a file."""
        self._enqueue(key, _Upload(path=None))

    def cancel(self, key: str) -> None:
        """Drop the request for a key."""
        with self._changed:
            self._pending.pop(key, None)
            self._is_cancelled = self._is_cancelled or (self._current is not None and key == self._current[0])

    def wait(self, key: str | None = None, *, seconds: float, unless: Callable[[], bool]) -> bool:
        """Wait for the request for a key, or for all; return False if it takes too long or `unless` becomes true."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._is_pending(key):
                if time.monotonic() > deadline or unless():
                    return False
                self._changed.wait(_POLL_SECONDS)
        return True

    def close(self) -> list[Path]:
        """Start no further upload; return the moved files that are not uploaded."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
            uploads = [*([self._current[1]] if self._current else []), *self._pending.values()]
            return [upload.path for upload in uploads if upload.path is not None and upload.is_moved]

    def _is_pending(self, key: str | None) -> bool:
        current = () if self._current is None else (self._current[0],)
        return bool(self._pending or current) if key is None else key in self._pending or key in current

    def _enqueue(self, key: str, upload: _Upload) -> None:
        with self._changed:
            self._pending.pop(key, None)  # the latest request for a key goes to the end of the queue
            self._pending[key] = upload
            self._changed.notify_all()

    def _next(self) -> tuple[str, _Upload] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closing.is_set())
            if self._closing.is_set():
                return None
            key = next(iter(self._pending))
            self._current, self._is_cancelled = (key, self._pending.pop(key)), False
            return self._current

    def _run(self) -> None:
        shortest_seconds, longest_seconds = self._pauses
        pause_seconds = shortest_seconds
        while (wanted := self._next()) is not None:
            key, upload = wanted
            try:
                self._perform(key, upload)
            except ArtifactsError as error:
                self._postpone(key, upload, error)
                self._closing.wait(pause_seconds)
                pause_seconds = min(longest_seconds, 2 * pause_seconds)
            else:
                self.is_unreachable, pause_seconds = False, shortest_seconds
                self._finish_current()

    def _perform(self, key: str, upload: _Upload) -> None:
        if upload.path is None:
            self._target.remove(key)
            return
        try:
            self._target.put(key, upload.path)
        except FileNotFoundError:
            return  # its trial has ended, or another worker has uploaded it
        if upload.is_moved:
            upload.path.unlink(missing_ok=True)

    def _postpone(self, key: str, upload: _Upload, error: ArtifactsError) -> None:
        with self._changed:
            if not self._is_cancelled:
                self._pending.setdefault(key, upload)
            self._current = None
            self._changed.notify_all()
        if not self.is_unreachable:
            self.is_unreachable = True
            self._warn(f"training continues, and its files stay on this machine until the bucket accepts them: {error}")

    def _finish_current(self) -> None:
        with self._changed:
            self._current = None
            self._changed.notify_all()
