"""Artifacts: the folder of this machine where weights and logs are written, and the bucket that shares them.

Nothing heavy is imported before it is used, so that the command line answers at once.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tuner import machine
from tuner.errors import RequestError, TunerError

DEFAULT = "tuner-artifacts"
#: other ways in which people write a bucket: `s3:bucket`, `s3a://bucket`, ARNs, and addresses of Amazon's web service
_BUCKET_FORMS = (
    r"s3[an]?:/{0,2}(?P<bucket>[^/]+)(?P<prefix>/.*)?",
    r"arn:aws[\w-]*:s3:::(?P<bucket>[^/]+)(?P<prefix>/.*)?",
    r"https?://(?P<bucket>[^/]+)\.s3[.-][\w.-]*amazonaws\.com(?P<prefix>/.*)?",
    r"https?://s3[.-][\w.-]*amazonaws\.com/(?P<bucket>[^/]+)(?P<prefix>/.*)?",
)
LOCATION = "TUNER_ARTIFACTS"
#: folder of the files that never leave this machine, if the artifacts are in a bucket: logs, and uploads that failed
SCRATCH = "TUNER_SCRATCH"
_SCHEME = "s3://"
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w.+=@-]+)*")


def locate(given: str | Path | None) -> tuple[Path, str | None]:
    """Return the folder of this machine, and the URL of the bucket or None. Without a given place, the environment decides.

    Raises:
        RequestError: it is a URL, but not one of a bucket.
    """
    location = str(given if given is not None else os.environ.get(LOCATION) or DEFAULT)
    spelling = _spelling(location)
    if spelling is not None and not Path(location).is_dir():
        raise RequestError(f"--artifacts is {location}; write {spelling}, or name a folder.")
    if "://" not in location:
        return Path(location).expanduser().absolute(), None
    url = location.rstrip("/")
    if not _BUCKET.fullmatch(url) or any(part in (".", "..") for part in url.split("/")):
        raise RequestError(f"--artifacts is {location}; expected a folder, or s3://BUCKET/PREFIX with a bucket name in lower case.")
    return Path(os.environ.get(SCRATCH) or DEFAULT).expanduser().absolute(), url


def _spelling(location: str) -> str | None:
    """Return how to write a place that would be taken for a folder with a strange name, or for another service; None if it is right."""
    linux = machine.without_windows(location)
    if linux is not None:
        return linux
    if file := re.fullmatch(r"file:(?://)?(/.*)", location, re.IGNORECASE):
        return file[1]
    for form in _BUCKET_FORMS:
        found = re.fullmatch(form, location, re.IGNORECASE)
        if found and not location.startswith(_SCHEME):
            return f"{_SCHEME}{found['bucket'].lower()}{(found['prefix'] or '').rstrip('/')}"
    return None


def require_bucket(bucket: str | None) -> None:
    """Refuse a bucket that cannot be written to, before anything is trained.

    Raises:
        ArtifactsError: it does not exist, does not answer, or refuses the credentials.
        MissingPackage: the package for buckets is not installed.
    """
    if bucket is not None:
        from tuner.workers.bucket import transfer

        transfer.open_bucket(bucket).require()


@contextmanager
def local_copy(weights: str, folder: Path) -> Iterator[Path]:
    """Give stored weights as a file of this machine, while a `with` block runs.

    Raises:
        TunerError: they are in a bucket that cannot be used, or are not there.
    """
    if not is_in_bucket(weights):
        yield Path(weights)
        return
    from tuner.workers.bucket import transfer

    url, _, name = weights.rpartition("/")
    path = folder / f"{os.getpid()}-{name}"
    try:
        if not transfer.open_bucket(url).fetch(name, path):
            raise TunerError(f"the weights {weights} do not exist. The worker that trained them may not have uploaded them yet.")
        yield path
    except OSError as error:
        raise TunerError(f"the weights {weights} cannot be downloaded to {folder}: {error.strerror or error}") from error
    finally:
        path.unlink(missing_ok=True)


def is_in_bucket(weights: str) -> bool:
    """Return whether stored weights are in a bucket."""
    return weights.startswith(_SCHEME)
