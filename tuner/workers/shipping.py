"""The files of a worker's trials into the bucket that other machines see, and out of it; or nowhere, where they share a folder."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

from tuner import messages
from tuner.errors import ArtifactsError, MissingPackage
from tuner.workers.narrator import Narrator
from tuner.workers.places import Places
from tuner.workers.stopping import Stopping
from tuner.workers.uploads import Uploads

if TYPE_CHECKING:
    from tuner.workers import bucket

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


class Shipping(Protocol):
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


def begin(places: Places, study: str, narrator: Narrator, stopping: Stopping) -> Shipping:
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
    from tuner.workers import bucket

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

    def __init__(self, bucket: "bucket.Bucket", places: Places, study: str, narrator: Narrator, stopping: Stopping) -> None:
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
