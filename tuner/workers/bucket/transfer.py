"""Files that are to be put into a bucket, or deleted there, in the background: one after another, each until it succeeds.

The files of a worker's trials into the bucket that other machines see, and out of it; or nowhere, where they share a folder.
"""

import importlib.util
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

from tuner.errors import ArtifactsError, MissingPackage
from tuner.protocol import messages
from tuner.workers.worker.events import EventEmitter
from tuner.workers.worker.places import Places
from tuner.workers.worker.stopping import Stopping

if TYPE_CHECKING:
    from tuner.workers.bucket import bucket

#: pauses between two tries while the bucket does not take anything
_PAUSE_SECONDS = (1.0, 30.0)
_LOOK_SECONDS = 0.2


class Goal(Protocol):
    """What files are put into."""

    def put(self, key: str, path: Path) -> None:
        """Have a file there, whole or not at all."""

    def remove(self, key: str) -> None:
        """Delete a file, if it is there."""


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What is to be at a key."""

    #: None: nothing
    path: Path | None
    #: whether the file here is deleted once it is there
    is_moved: bool = False


class Uploads:
    """Of several wishes for one key only the latest counts, so what waits is bounded by the trials at work; an outage is told of once."""

    def __init__(self, goal: Goal, trouble: Callable[[str], None]) -> None:
        self._goal, self._trouble = goal, trouble
        self._changed = threading.Condition()
        self._due: dict[str, _Wish] = {}
        self._at_work: tuple[str, _Wish] | None = None
        self._is_forgotten = False
        self._closing = threading.Event()
        #: whether the last try failed
        self.is_away = False
        threading.Thread(target=self._go_on, name="uploads", daemon=True).start()

    def put(self, key: str, path: Path) -> None:
        """Have a file there as it is when its turn comes."""
        self._want(key, _Wish(path=path))

    def move(self, key: str, path: Path) -> None:
        """Have a file there, and not here any more."""
        self._want(key, _Wish(path=path, is_moved=True))

    def remove(self, key: str) -> None:
        """Have nothing there."""
        self._want(key, _Wish(path=None))

    def forget(self, key: str) -> None:
        """Try no more."""
        with self._changed:
            self._due.pop(key, None)
            self._is_forgotten = self._is_forgotten or (self._at_work is not None and key == self._at_work[0])

    def wait(self, key: str | None = None, *, seconds: float, unless: Callable[[], bool]) -> bool:
        """Wait until a key is as it was wanted, without one until all are; False if it takes too long, or `unless` comes true."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._is_due(key):
                if time.monotonic() > deadline or unless():
                    return False
                self._changed.wait(_LOOK_SECONDS)
        return True

    def close(self) -> list[Path]:
        """Begin nothing more; the files that are to be there and are not."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
            wishes = [*([self._at_work[1]] if self._at_work else []), *self._due.values()]
            return [wish.path for wish in wishes if wish.path is not None and wish.is_moved]

    def _is_due(self, key: str | None) -> bool:
        at_work = () if self._at_work is None else (self._at_work[0],)
        return bool(self._due or at_work) if key is None else key in self._due or key in at_work

    def _want(self, key: str, wish: _Wish) -> None:
        with self._changed:
            self._due.pop(key, None)  # it is behind what was wanted before
            self._due[key] = wish
            self._changed.notify_all()

    def _next(self) -> tuple[str, _Wish] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._due or self._closing.is_set())
            if self._closing.is_set():
                return None
            key = next(iter(self._due))
            self._at_work, self._is_forgotten = (key, self._due.pop(key)), False
            return self._at_work

    def _go_on(self) -> None:
        pause_seconds = _PAUSE_SECONDS[0]
        while (wanted := self._next()) is not None:
            key, wish = wanted
            try:
                self._fulfil(key, wish)
            except ArtifactsError as error:
                self._put_off(key, wish, error)
                self._closing.wait(pause_seconds)
                pause_seconds = min(_PAUSE_SECONDS[1], 2 * pause_seconds)
            else:
                self.is_away, pause_seconds = False, _PAUSE_SECONDS[0]
                self._rest()

    def _fulfil(self, key: str, wish: _Wish) -> None:
        if wish.path is None:
            self._goal.remove(key)
            return
        try:
            self._goal.put(key, wish.path)
        except FileNotFoundError:
            return  # its trial has ended meanwhile, or another worker has moved it
        if wish.is_moved:
            wish.path.unlink(missing_ok=True)

    def _put_off(self, key: str, wish: _Wish, error: ArtifactsError) -> None:
        with self._changed:
            if not self._is_forgotten:
                self._due.setdefault(key, wish)
            self._at_work = None
            self._changed.notify_all()
        if not self.is_away:
            self.is_away = True
            self._trouble(f"training goes on, and its files wait here until the bucket takes them: {error}")

    def _rest(self) -> None:
        with self._changed:
            self._at_work = None
            self._changed.notify_all()


CHECKPOINT = "checkpoint"
#: weights that are to be in the bucket and may not be yet: the next worker of this machine sees to it
_DUE = ".due"
#: how long the end of a trial waits for its weights to be in the bucket, where that answers
_WEIGHTS_SECONDS = 60.0
#: how long a trial that is handed back waits for its checkpoint to be there; less than what a container has before it is killed
_HAND_BACK_SECONDS = 20.0
#: how long a trial that is taken up waits for a bucket that does not answer
_FETCH_SECONDS = 60.0
#: how long a worker that has no more to do waits for what is not there yet
_CLOSE_SECONDS = 30.0


class FileTransfer(Protocol):
    """What a worker tells of its trials, as far as their files concern others."""

    def fetch(self, trial: int) -> Path | None:
        """The checkpoint of a trial that is taken up, as another machine kept it."""

    def kept(self, trial: int) -> None:
        """A checkpoint was written."""

    def named(self, finished: messages.Finished) -> messages.Finished:
        """The same with the name by which everyone finds its weights."""

    def send_weights(self, trial: int, path: str) -> None:
        """The weights are kept for good."""

    def handed_back(self, trial: int) -> None:
        """Another worker is about to take the trial up."""

    def lost(self, trial: int) -> None:
        """Another worker has the trial."""

    def ended(self, trial: int) -> None:
        """The trial has ended, and its checkpoint is needed no more."""

    def close(self) -> None:
        """The worker ends."""


def begin(places: Places, study: str, narrator: EventEmitter, stopping: Stopping) -> FileTransfer:
    """The shipping of a worker.

    Raises:
        ArtifactsError: the bucket cannot be used.
        MissingPackage: what reaches it is not installed.
    """
    if places.bucket is None:
        return SharedFolder(places, study)
    return SharedBucket(open_bucket(places.bucket), places, study, narrator, stopping)


def is_due(places: Places, study: str) -> bool:
    """Whether an earlier worker of this machine has left weights that are not in the bucket."""
    return places.bucket is not None and bool(_due(places, study))


def _due(places: Places, study: str) -> list[Path]:
    return sorted(places.of_study(study).glob(f"trial-*/*{_DUE}"))


def open_bucket(url: str) -> "bucket.Bucket":
    """The bucket and prefix of a URL; nothing is asked of it yet.

    Raises:
        ArtifactsError: there is no such profile, or the endpoint is no URL.
        MissingPackage: what reaches it is not installed.
    """
    if importlib.util.find_spec("boto3") is None:
        raise MissingPackage("boto3", extra="s3", needed_for=f"--artifacts {url}")
    from tuner.workers.bucket import bucket

    return bucket.Bucket(url)


class SharedFolder:
    """Trials have their files where all who may take them up look for them."""

    def __init__(self, places: Places, study: str) -> None:
        self._places, self._study = places, study

    def fetch(self, trial: int) -> Path | None:
        """None: it is there already."""
        return None

    def kept(self, trial: int) -> None:
        """It is there already."""

    def named(self, finished: messages.Finished) -> messages.Finished:
        """The path is the name."""
        return finished

    def send_weights(self, trial: int, path: str) -> None:
        """They are there already."""

    def handed_back(self, trial: int) -> None:
        """All is there already."""

    def lost(self, trial: int) -> None:
        """The files are the other worker's now."""

    def ended(self, trial: int) -> None:
        """Delete what a trainer that failed or crashed has left."""
        clear(self._places.of_trial(self._study, trial))

    def close(self) -> None:
        """Nothing is under way."""


class SharedBucket:
    """Trials have their files in a folder of this machine, and what others need of them in a bucket."""

    def __init__(self, bucket: "bucket.Bucket", places: Places, study: str, narrator: EventEmitter, stopping: Stopping) -> None:
        self._bucket, self._places, self._study = bucket, places, study
        self._narrator, self._stopping = narrator, stopping
        self._uploads = Uploads(bucket, narrator.trouble)
        for path in _due(places, study):
            self._uploads.move(f"{study}/{path.parent.name}/{path.name.removesuffix(_DUE)}", path)

    def fetch(self, trial: int) -> Path | None:
        """The checkpoint out of the bucket; None if there is none, or the bucket does not answer for a minute."""
        path = self._fetched(trial)
        path.unlink(missing_ok=True)
        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, ArtifactsError) and error.may_pass and not self._stopping.is_asked),
            stop=stop_after_delay(_FETCH_SECONDS),
            wait=wait_random(0.5, 2.0),
            sleep=self._rest,
            reraise=True,
        )
        try:
            return path if retrying(self._bucket.fetch, self._key(trial, CHECKPOINT), path) else None
        except (ArtifactsError, OSError) as error:
            what = f"its checkpoint cannot be fetched: {error}"
            self._narrator.trouble(f"{what}. The trial goes on from what is on this machine, or from its beginning", trial)
            return None

    def kept(self, trial: int) -> None:
        """Put the checkpoint there, while the next epoch is trained."""
        self._uploads.put(self._key(trial, CHECKPOINT), self._folder(trial) / CHECKPOINT)

    def named(self, finished: messages.Finished) -> messages.Finished:
        """The weights by their URL."""
        if finished.weights is None:
            return finished
        url = self._bucket.url_of(self._key(finished.trial, Path(finished.weights).name))
        return finished.model_copy(update={"weights": url})

    def send_weights(self, trial: int, path: str) -> None:
        """Move them there; if that takes too long, or the bucket does not answer, it goes on behind the next trial."""
        due = Path(f"{path}{_DUE}")
        Path(path).replace(due)
        key = self._key(trial, Path(path).name)
        self._uploads.move(key, due)
        self._uploads.wait(key, seconds=_WEIGHTS_SECONDS, unless=lambda: self._uploads.is_away or self._stopping.is_urgent)

    def handed_back(self, trial: int) -> None:
        """Wait for the checkpoint to be there."""
        key = self._key(trial, CHECKPOINT)
        self._fetched(trial).unlink(missing_ok=True)
        if not self._uploads.wait(key, seconds=_HAND_BACK_SECONDS, unless=lambda: self._stopping.is_urgent):
            what = "its last checkpoint is on this machine only"
            self._narrator.trouble(f"{what}: {self._folder(trial) / CHECKPOINT}; elsewhere it goes on from the one before", trial)

    def lost(self, trial: int) -> None:
        """Put nothing over what the other worker puts there; the files here may be its, too."""
        self._uploads.forget(self._key(trial, CHECKPOINT))

    def ended(self, trial: int) -> None:
        """Delete the checkpoint here and there."""
        clear(self._folder(trial))
        self._fetched(trial).unlink(missing_ok=True)
        self._uploads.remove(self._key(trial, CHECKPOINT))

    def close(self) -> None:
        """Wait for what is under way, a while."""
        self._uploads.wait(seconds=_CLOSE_SECONDS, unless=lambda: self._uploads.is_away or self._stopping.is_urgent)
        for path in self._uploads.close():
            self._narrator.trouble(f"{path} is not in {self._bucket.url} yet; the next worker of this study on this machine puts it there")

    def _rest(self, seconds: float) -> None:
        self._stopping.wait(seconds)

    def _fetched(self, trial: int) -> Path:
        return self._folder(trial) / f"{CHECKPOINT}.fetched"

    def _folder(self, trial: int) -> Path:
        return self._places.of_trial(self._study, trial)

    def _key(self, trial: int, name: str) -> str:
        return f"{self._study}/{self._folder(trial).name}/{name}"


def clear(folder: Path) -> None:
    """Delete a trial's checkpoint, and what someone who was killed had half written."""
    for path in (folder / CHECKPOINT, *folder.glob("*.part")):
        path.unlink(missing_ok=True)
