"""What is said of the artifacts, into the folder of this machine where they are written and the bucket where others find them.

What is said on the command line, into the values that the rooms below take.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuner.cache import entries
from tuner.commands import storage_url
from tuner.errors import RequestError, TunerError
from tuner.spec.study import Budget, StudySpec, read_duration
from tuner.trust import keys
from tuner.workers.bucket import transfer
from tuner.workers.bucket.transfer import Folders
from tuner.workers.engines import gpus

#: where files are that are of this machine only, logs and what could not be delivered, if the artifacts are in a bucket
SCRATCH = "TUNER_SCRATCH"
_SCHEME = "s3://"
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w.+=@-]+)*")


def read(given: str | Path | None) -> tuple[Path, str | None]:
    """The folder of this machine, and the bucket if one is given; without either what the environment says.

    Raises:
        RequestError: it is the URL of something else.
    """
    said = str(given if given is not None else os.environ.get("TUNER_ARTIFACTS") or storage_url.ARTIFACTS)
    if "://" not in said:
        return Path(said).expanduser().absolute(), None
    url = said.rstrip("/")
    if not _BUCKET.fullmatch(url) or any(part in (".", "..") for part in url.split("/")):
        raise RequestError(f"--artifacts is {said}; expected a folder, or s3://BUCKET/PREFIX with a bucket's name in small letters.")
    return Path(os.environ.get(SCRATCH) or storage_url.ARTIFACTS).expanduser().absolute(), url


def require(bucket: str | None) -> None:
    """Refuse a bucket that cannot be written, before anything is trained.

    Raises:
        ArtifactsError: it is not there, does not answer, or refuses the credentials.
        MissingPackage: what reaches it is not installed.
    """
    if bucket is not None:
        transfer.open_bucket(bucket).require()


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
        if not transfer.open_bucket(url).fetch(name, path):
            raise TunerError(f"the weights {weights} are not there; the worker that trained them may not have put them there yet")
        yield path
    except OSError as error:
        raise TunerError(f"the weights {weights} cannot be fetched to {folder}: {error.strerror or error}") from error
    finally:
        path.unlink(missing_ok=True)


def is_url(weights: str) -> bool:
    """Whether kept weights are in a bucket."""
    return weights.startswith(_SCHEME)


#: a trainer that says nothing for so long hangs
DEFAULT_HANG_LIMIT = "30m"


class OutputFormat(StrEnum):
    """How a result is printed."""

    TEXT = "text"
    JSON = "json"
    YAML = "yaml"


@dataclass(frozen=True, kw_only=True)
class Hands:
    """The workers that work here, and what each of them may take."""

    #: one for each worker: its part of a GPU, None for one on the cores
    places: tuple[gpus.GpuShare | None, ...]
    #: threads a worker; None: a fair share of the cores
    threads: int | None
    hang_limit_seconds: float
    #: None: a fair share of the machine's memory
    memory_limit_bytes: int | None

    @property
    def num_workers(self) -> int:
        """How many there are."""
        return len(self.places)


@dataclass(frozen=True, kw_only=True)
class BudgetOptions:
    """What the command line says of the budget; None: what the file says."""

    trials: int | None
    timeout: str | None
    target: float | None

    def over(self, spec: StudySpec) -> StudySpec:
        """The study with this budget.

        Raises:
            RequestError: a value is out of its range.
        """
        given = {name: value for name in ("trials", "timeout", "target") if (value := getattr(self, name)) is not None}
        if not given:
            return spec
        try:
            budget = Budget.model_validate(spec.budget.model_dump() | given)
        except ValidationError as error:
            raise RequestError("\n".join(_say(problem) for problem in error.errors())) from error
        return spec.model_copy(update={"budget": budget})


def cache(given: Path | None) -> Path:
    """The cache folder: the one given, the environment's, or the user's own."""
    if given is not None:
        return given.expanduser().absolute()
    if os.environ.get("TUNER_CACHE"):
        return Path(os.environ["TUNER_CACHE"]).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "tuner"


def limit_cache(given: str | None) -> None:
    """Set the size limit of the cache for this process and all that it starts.

    Raises:
        RequestError: it is no size.
    """
    if given:
        entries.read_size("--cache-limit", given)
        os.environ[entries.LIMIT] = given


def places(cache_given: Path | None, artifacts_given: str | Path | None) -> Folders:
    """The folders of a run; they are made when something is written to them.

    Raises:
        RequestError: one of them is there and is no folder, the artifacts are to go to what is no bucket, or what encrypts them is no key.
    """
    keys.artifact_identities()
    folder, bucket = read(artifacts_given)
    folders = Folders(cache=cache(cache_given), artifacts=folder, bucket=bucket)
    for name, folder in (("--cache", folders.cache), ("--artifacts" if bucket is None else SCRATCH, folders.artifacts)):
        blocked = next((path for path in (folder, *folder.parents) if path.exists()), folder)
        if not blocked.is_dir():
            raise RequestError(f"{name} is {folder}, but {blocked} is a file; name a folder.")
        if not os.access(blocked, os.W_OK):
            raise RequestError(f"{name} is {folder}, which cannot be written; name a folder of your own with {name}.")
    return folders


def hands(
    num_workers: int | None, threads: int | None, hang_limit: str | None, memory_limit: str | None, slots_per_gpu: int | None = None
) -> Hands:
    """The workers of a run; without a number as many as the GPUs here have slots, one where there is no GPU.

    Raises:
        RequestError: a limit cannot be read, or there is no place for the workers.
    """
    return Hands(
        places=gpus.shares(gpus.find(), slots=slots_per_gpu, num_workers=num_workers),
        threads=threads,
        hang_limit_seconds=read_seconds("--hang-limit", hang_limit or DEFAULT_HANG_LIMIT),
        memory_limit_bytes=None if memory_limit is None else entries.read_size("--memory-limit", memory_limit),
    )


def slots_per_gpu() -> int | None:
    """How many workers share a GPU, by the environment.

    Raises:
        RequestError: it says something else.
    """
    given = os.environ.get("TUNER_SLOTS_PER_GPU")
    if given and not (given.isdecimal() and int(given) > 0):
        raise RequestError(f"TUNER_SLOTS_PER_GPU is {given!r}; expected a whole number of at least 1.")
    return int(given) if given else None


def is_there(url: str) -> bool:
    """Whether a storage may hold something: a question must not make an SQLite file where there is none."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        return True  # what is wrong with it is said where it is opened
    if address.get_backend_name() != "sqlite" or address.database in (None, "", ":memory:"):
        return True
    path = Path(str(address.database).removeprefix("file:"))
    return path.exists() or not path.absolute().parent.is_dir()


def wait_seconds(given: str | None) -> float:
    """How long to wait for what is not there yet; 0 if nothing is said.

    Raises:
        RequestError: it is no time.
    """
    return 0.0 if given is None else read_seconds("--wait", given)


def read_seconds(option: str, given: str) -> float:
    """A time such as 90s or 7d in seconds.

    Raises:
        RequestError: it is none, or 0.
    """
    try:
        seconds = float(read_duration(given))
    except ValueError as error:
        raise RequestError(f"{option} {error}.") from error
    if seconds <= 0:
        raise RequestError(f"{option} is {given!r}; expected more than 0 seconds.")
    return seconds


def form(*, as_json: bool, as_yaml: bool) -> OutputFormat:
    """How to print.

    Raises:
        RequestError: both ways are asked for.
    """
    if as_json and as_yaml:
        raise RequestError("--json and --yaml are both given; choose one.")
    return OutputFormat.JSON if as_json else OutputFormat.YAML if as_yaml else OutputFormat.TEXT


def _say(problem: Any) -> str:
    """A pydantic problem of one option."""
    option = "--" + str(problem["loc"][0]) if problem["loc"] else "the budget"
    message = str(problem["msg"]).removeprefix("Value error, ")
    said = message if message.startswith("is ") else f"is {problem['input']!r}; {message[0].lower()}{message[1:]}"
    return f"{option} {said}."
