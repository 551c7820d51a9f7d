"""What is said of the artifacts, into the folder of this machine where they are written and the bucket where others find them."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tuner.commands import defaults
from tuner.errors import RequestError, TunerError
from tuner.workers import shipping

#: where files are that are of this machine only, logs and what could not be delivered, if the artifacts are in a bucket
SCRATCH = "TUNER_SCRATCH"
_SCHEME = "s3://"
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w.+=@-]+)*")


def read(given: str | Path | None) -> tuple[Path, str | None]:
    """The folder of this machine, and the bucket if one is given; without either what the environment says.

    Raises:
        RequestError: it is the URL of something else.
    """
    said = str(given if given is not None else os.environ.get("TUNER_ARTIFACTS") or defaults.ARTIFACTS)
    if "://" not in said:
        return Path(said).expanduser().absolute(), None
    url = said.rstrip("/")
    if not _BUCKET.fullmatch(url) or any(part in (".", "..") for part in url.split("/")):
        raise RequestError(f"--artifacts is {said}; expected a folder, or s3://BUCKET/PREFIX with a bucket's name in small letters.")
    return Path(os.environ.get(SCRATCH) or defaults.ARTIFACTS).expanduser().absolute(), url


def require(bucket: str | None) -> None:
    """Refuse a bucket that cannot be written, before anything is trained.

    Raises:
        ArtifactsError: it is not there, does not answer, or refuses the credentials.
        MissingPackage: what reaches it is not installed.
    """
    if bucket is not None:
        shipping.open_bucket(bucket).require()


@contextmanager
def fetched(weights: str, folder: Path) -> Iterator[Path]:
    """Kept weights as a file of this machine, while a `with` block runs.

    Raises:
        TunerError: they are in a bucket that cannot be used, or not there.
    """
    if not is_url(weights):
        yield Path(weights)
        return
    url, _, name = weights.rpartition("/")
    path = folder / f"{os.getpid()}-{name}"
    try:
        if not shipping.open_bucket(url).fetch(name, path):
            raise TunerError(f"the weights {weights} are not there; the worker that trained them may not have put them there yet")
        yield path
    except OSError as error:
        raise TunerError(f"the weights {weights} cannot be fetched to {folder}: {error.strerror or error}") from error
    finally:
        path.unlink(missing_ok=True)


def is_url(weights: str) -> bool:
    """Whether kept weights are in a bucket."""
    return weights.startswith(_SCHEME)
