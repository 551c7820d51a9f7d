"""Options of several commands: command-line text and environment variables, as values that the commands use."""

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuner.cache import entries
from tuner.commands import artifacts
from tuner.errors import RequestError
from tuner.spec.study import AnyStudySpec, Budget, read_duration
from tuner.trust import keys
from tuner.workers.bucket.transfer import Folders
from tuner.workers.engines import gpus

#: a trainer that is silent for this long is replaced


class OutputFormat(StrEnum):
    """Format of a printed result."""

    TEXT = "text"
    JSON = "json"
    YAML = "yaml"


@dataclass(frozen=True, kw_only=True)
class WorkerPlan:
    """Number of workers, and the resources of each."""

    #: one entry per worker: its share of a GPU, or None for a worker that uses the cores
    gpu_shares: tuple[gpus.GpuShare | None, ...]
    #: threads per worker; None: a fair share of the cores
    threads: int | None
    #: longest silence of a trainer; None: 30 minutes, and no limit for an objective
    hang_limit_seconds: float | None
    #: memory per worker; None: a fair share of the machine's memory
    memory_limit_bytes: int | None

    @property
    def num_workers(self) -> int:
        """Number of workers."""
        return len(self.gpu_shares)


@dataclass(frozen=True, kw_only=True)
class BudgetOptions:
    """The budget on the command line; None: as in the study file."""

    trials: int | None
    timeout: str | None
    target: float | None

    def apply(self, spec: AnyStudySpec) -> AnyStudySpec:
        """Return the study with this budget.

        Raises:
            RequestError: a value is out of its range.
        """
        given = {name: value for name in ("trials", "timeout", "target") if (value := getattr(self, name)) is not None}
        if not given:
            return spec
        try:
            budget = Budget.model_validate(spec.budget.model_dump() | given)
        except ValidationError as error:
            raise RequestError("\n".join(_message(problem) for problem in error.errors())) from error
        changed = spec.model_copy(update={"budget": budget})
        for clash in changed.wrong_limits():
            raise RequestError(f"--{clash.field.removeprefix('budget.')} {clash.message}.")
        return changed


def cache_folder(given: Path | None) -> Path:
    """Return the cache folder: the given one, the environment's, or the user's own."""
    if given is not None:
        return given.expanduser().absolute()
    if os.environ.get("TUNER_CACHE"):
        return Path(os.environ["TUNER_CACHE"]).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "tuner"


def limit_cache(given: str | None) -> None:
    """Set the size limit of the cache for this process and its child processes.

    Raises:
        RequestError: it is not a size.
    """
    if given:
        entries.read_size("--cache-limit", given)
        os.environ[entries.LIMIT] = given


def folders(cache_given: Path | None, artifacts_given: str | Path | None) -> Folders:
    """Return the folders of a run. They are created when the first file is written to them.

    Raises:
        RequestError: a folder is a file or cannot be written to, the bucket's URL is wrong, or the key that encrypts artifacts is none.
    """
    keys.artifact_identities()
    folder, bucket = artifacts.locate(artifacts_given)
    found = Folders(cache=cache_folder(cache_given), artifacts=folder, bucket=bucket)
    for name, folder in (("--cache", found.cache), ("--artifacts" if bucket is None else artifacts.SCRATCH, found.artifacts)):
        existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
        if not existing.is_dir():
            raise RequestError(f"{name} is {folder}, but {existing} is a file; name a folder.")
        if not os.access(existing, os.W_OK):
            raise RequestError(f"{name} is {folder}, but you may not write to {existing}; name a folder of your own with {name}.")
    return found


def plan_workers(
    num_workers: int | None, threads: int | None, hang_limit: str | None, memory_limit: str | None, slots_per_gpu: int | None = None
) -> WorkerPlan:
    """Return the workers of a run. Without a number: one per slot of the GPUs here, or one if there is no GPU.

    Raises:
        RequestError: a limit cannot be read, or the GPUs have too few slots.
    """
    return WorkerPlan(
        gpu_shares=gpus.shares(gpus.find(), slots=slots_per_gpu, num_workers=num_workers),
        threads=threads,
        hang_limit_seconds=read_hang_limit(hang_limit),
        memory_limit_bytes=None if memory_limit is None else entries.read_size("--memory-limit", memory_limit),
    )


def read_hang_limit(given: str | None) -> float | None:
    """Return the value of `--hang-limit` in seconds; None if it was not given.

    Raises:
        RequestError: it cannot be read.
    """
    return None if given is None else read_seconds("--hang-limit", given)


def read_slots_per_gpu() -> int | None:
    """Return how many workers share a GPU, from the environment.

    Raises:
        RequestError: the variable is not a positive whole number.
    """
    given = os.environ.get("TUNER_SLOTS_PER_GPU")
    if given and not (given.isdecimal() and int(given) > 0):
        raise RequestError(f"TUNER_SLOTS_PER_GPU is {given!r}; expected a whole number of at least 1.")
    return int(given) if given else None


def read_wait_seconds(given: str | None) -> float:
    """Return how long to wait for a database or a study that does not exist yet; 0 if nothing is given.

    Raises:
        RequestError: it is not a time.
    """
    return 0.0 if given is None else read_seconds("--wait", given)


def read_seconds(option: str, given: str) -> float:
    """Return a time such as 90s or 7d in seconds.

    Raises:
        RequestError: it is not a time, or is 0.
    """
    try:
        seconds = float(read_duration(given))
    except ValueError as error:
        raise RequestError(f"{option} {error}.") from error
    if seconds <= 0:
        raise RequestError(f"{option} is {given!r}; expected more than 0 seconds.")
    return seconds


def output_format(*, as_json: bool, as_yaml: bool) -> OutputFormat:
    """Return how to print a result.

    Raises:
        RequestError: two formats are given.
    """
    if as_json and as_yaml:
        raise RequestError("--json and --yaml are both given; choose one.")
    return OutputFormat.JSON if as_json else OutputFormat.YAML if as_yaml else OutputFormat.TEXT


def _message(problem: Any) -> str:
    """Return pydantic's problem with one option as a sentence."""
    option = "--" + str(problem["loc"][0]) if problem["loc"] else "the budget"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{option} {message}." if message.startswith("is ") else f"{option} is {problem['input']!r}; {message[0].lower()}{message[1:]}."
